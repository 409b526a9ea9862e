"""The simple feature pyramid of plain transformers (ViTDet: Li et al., ECCV 2022, section 3)."""

from collections.abc import Sequence

from timm.layers.norm import LayerNorm2d
from torch import Tensor, nn

from denseteacher.detectors.body import PATCH


class SimplePyramid(nn.Module):
    """Every level from one map of stride 16: transposed convolutions below, stride-2 convolutions above."""

    def __init__(self, width: int, strides: Sequence[int], channels: int) -> None:
        """Builds the levels.

        Args:
            width: Channels of the map.
            strides: Stride of each level, a power of two.
            channels: Channels of each level.
        """
        super().__init__()
        self.strides = list(strides)
        self.levels = nn.ModuleList(_level(width, stride, channels) for stride in strides)

    def forward(self, feature: Tensor, canvas: tuple[int, int]) -> list[Tensor]:
        """The levels of a canvas.

        Args:
            feature: (B, width, h, w) of an image whose sides were padded to whole patches.
            canvas: Height and width of the image before that, in pixels.

        Returns:
            (B, channels, H / stride, W / stride) each, rounded up.
        """
        height, width = canvas
        return [
            level(feature)[..., : (height + stride - 1) // stride, : (width + stride - 1) // stride]
            for stride, level in zip(self.strides, self.levels, strict=True)
        ]


def _level(width: int, stride: int, channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    now = PATCH
    while now > stride:  # channels halve with the stride, as published
        if layers:
            layers += [LayerNorm2d(width), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, width // 2, 2, stride=2))
        now, width = now // 2, width // 2
    while now < stride:
        layers.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
        now *= 2
    return nn.Sequential(
        *layers,
        nn.Conv2d(width, channels, 1, bias=False),
        LayerNorm2d(channels),
        nn.Conv2d(channels, channels, 3, padding=1, bias=False),
        LayerNorm2d(channels),
    )
