"""Feature pyramids: any timm network below, an FPN or ViTDet's simple pyramid on top, stride-2 convolutions above."""

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FeaturePyramidNetwork

from denseteacher.detectors import frozen_norm
from denseteacher.detectors.body import create_body, is_plain, rounds_down, stages
from denseteacher.detectors.simple_pyramid import SimplePyramid
from denseteacher.errors import InputError

COARSEST_BACKBONE_LEVEL = 5


class BodyTraining(NamedTuple):
    """How the network below the pyramid is trained."""

    frozen_stages: int | Literal["all"] = 0
    """Leading stages that stay as they are: 0 none, 1 to the first feature, 2 to the next, ...; of a plain transformer
    1 the embedding, 2 the first block too, ..."""
    freeze_batch_norm: bool = False
    """Batch normalization uses its stored statistics and is not trained."""
    drop_path: float = 0.0
    """Probability of the last residual branch to be left out of a step, from 0 at the first one."""


_TRAINED = BodyTraining()


class PyramidBackbone(nn.Module):
    """A backbone with a feature pyramid: level l has stride 2**l and ``channels`` channels."""

    fpn: FeaturePyramidNetwork | SimplePyramid
    finer: "_FinerLevel | SimplePyramid | None"

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | str,
        levels: tuple[int, int],
        channels: int,
        extra_from: Literal["pyramid", "backbone"] = "pyramid",
        finer_level: bool = False,
        training: BodyTraining = _TRAINED,
    ) -> None:
        """Builds the network.

        Args:
            name: A timm model name, ``resnet50.tv_in1k`` for example.
            pretrained: True fetches timm's weights, a path loads a state dict from that file, False starts
                from random weights.
            levels: Finest and coarsest pyramid level. Levels past 5 come from level 5 by convolution.
            channels: Channels of every level.
            extra_from: What level 6 comes from: level 5 of the pyramid, or the backbone's features of that level.
            finer_level: Whether ``forward`` can give a pyramid that begins one level below the finest.
            training: How the network below the pyramid is trained.

        Raises:
            InputError: If there is no such model, or its weights can't be had.
        """
        super().__init__()
        self.body = create_body(name, pretrained, training.drop_path)
        told: Any = self.body.feature_info
        self.body_strides, widths = told.reduction(), told.channels()
        finest, coarsest = levels
        top = min(coarsest, COARSEST_BACKBONE_LEVEL)
        wanted = [2**level for level in range(finest, top + 1)]
        self.plain = is_plain(name)
        if self.plain:
            self._make_simple_pyramid(widths[0], wanted, channels, extra_from, finer_level)
        else:
            self._make_fpn(name, widths, wanted, channels, finer_level)
        self.extra_from = extra_from
        first = widths[self.indices[-1]] if extra_from == "backbone" else channels
        self.extra = nn.ModuleList(_extra_level(first if i == 0 else channels, channels) for i in range(coarsest - top))
        self.whole_patches = max(self.body_strides) if self.plain or rounds_down(self.body) else 1
        if training.freeze_batch_norm and any(isinstance(module, _BatchNorm) for module in self.body.modules()):
            self.body = frozen_norm.freeze_batch_norm(self.body)
        _freeze(self.body, training)
        self.frozen = training.frozen_stages == "all"
        self.strides = [2**level for level in range(finest, coarsest + 1)]

    def _make_fpn(self, name: str, widths: list[int], wanted: list[int], channels: int, finer_level: bool) -> None:
        strides = self.body_strides
        missing = [stride for stride in wanted if stride not in strides]
        if missing:
            raise InputError(
                f"backbone {name!r} has features of strides {strides}, but pyramid levels {wanted[0].bit_length() - 1} "
                f"to {wanted[-1].bit_length() - 1} need strides {missing}: choose another backbone or other "
                "detector.levels"
            )
        below = wanted[0] // 2
        if finer_level and below not in strides:
            raise InputError(
                f"detector.finer_level needs features of stride {below}, but backbone {name!r} has those of "
                f"strides {strides}: choose another backbone or other detector.levels"
            )
        self.indices = [strides.index(stride) for stride in wanted]
        self.fpn = FeaturePyramidNetwork([widths[i] for i in self.indices], channels)
        self.finer = _FinerLevel(strides.index(below), widths, channels) if finer_level else None

    def _make_simple_pyramid(
        self, width: int, wanted: list[int], channels: int, extra_from: str, finer_level: bool
    ) -> None:
        if extra_from == "backbone":
            raise InputError(
                "detector.extra_from is 'backbone', but a plain transformer has no features of stride 32: use 'pyramid'"
            )
        self.indices = [0]
        self.fpn = SimplePyramid(width, wanted, channels)
        self.finer = SimplePyramid(width, [wanted[0] // 2], channels) if finer_level else None

    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation, for pixels of 0 to 255, that timm's weights of the network were trained with."""
        told: Any = self.body.default_cfg
        return tuple(255 * value for value in told["mean"]), tuple(255 * value for value in told["std"])

    def stages(self) -> list[list[nn.Parameter]]:
        """The parameters of each stage of the network below the pyramid, first to last; see ``body.stages``."""
        return stages(self.body)

    def forward(self, pixels: Tensor, *, finer: bool = False) -> list[Tensor]:
        """(B, 3, H, W) normalized pixels to a list of (B, channels, H/stride, W/stride), finest first.

        Args:
            pixels: The images.
            finer: Give as many levels, each of half the stride: one below the finest, and not the coarsest one. Only
                with ``finer_level``.
        """
        features = self._features(pixels)
        levels = self._levels(features, (pixels.shape[-2], pixels.shape[-1]), finer)
        below = features[self.indices[-1]] if self.extra_from == "backbone" else levels[-1]
        for number, conv in enumerate(self.extra[: max(0, len(self.strides) - len(levels))]):
            # P6 comes from P5 itself, P7 from the rectified P6, as in RetinaNet and torchvision
            levels.append(conv(below if number == 0 else levels[-1].relu()))
        return levels[: len(self.strides)]

    def _features(self, pixels: Tensor) -> list[Tensor]:
        """The body's features, (B, C, H/stride, W/stride) rounded up; of whole patches where it is a transformer."""
        height, width = pixels.shape[-2:]
        step = self.whole_patches
        if step > 1:
            pixels = F.pad(pixels, (0, -width % step, 0, -height % step))
        with torch.no_grad() if self.frozen else nullcontext():
            features: list[Tensor] = self.body(pixels)
        if getattr(self.body, "output_fmt", None) == "NHWC":  # timm's networks of windows
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        if step == 1 or self.plain:
            return features
        return [
            feature[..., : (height + stride - 1) // stride, : (width + stride - 1) // stride]
            for stride, feature in zip(self.body_strides, features, strict=True)
        ]

    def _levels(self, features: list[Tensor], canvas: tuple[int, int], finer: bool) -> list[Tensor]:
        """The pyramid up to the coarsest level that the features reach."""
        if isinstance(self.fpn, SimplePyramid):
            below = self.finer(features[0], canvas) if finer and self.finer is not None else []
            return [*below, *self.fpn(features[0], canvas)]
        if finer and isinstance(self.finer, _FinerLevel):
            found: list[Tensor] = self.finer(features, self.fpn, self.indices)
            return found
        return list(self.fpn(OrderedDict((str(i), features[i]) for i in self.indices)).values())


class _FinerLevel(nn.Module):
    """The level below the finest of a feature pyramid, made as all others are."""

    def __init__(self, index: int, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.index = index
        # made as torchvision makes its own, whose initialization it has
        self.own = FeaturePyramidNetwork([widths[index]], channels)

    def forward(self, features: Sequence[Tensor], fpn: FeaturePyramidNetwork, indices: Sequence[int]) -> list[Tensor]:
        """The features to the pyramid's levels, those of ``fpn`` and the one below them, finest first."""
        laterals = [*self.own.inner_blocks, *fpn.inner_blocks]
        outputs = [*self.own.layer_blocks, *fpn.layer_blocks]
        levels: list[Tensor] = []
        above: Tensor | None = None
        for index, lateral, output in reversed(list(zip([self.index, *indices], laterals, outputs, strict=True))):
            merged: Tensor = lateral(features[index])
            if above is not None:
                merged = merged + F.interpolate(above, size=merged.shape[-2:], mode="nearest")
            levels.insert(0, output(merged))
            above = merged
        return levels


def _extra_level(width: int, channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(width, channels, 3, stride=2, padding=1)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    nn.init.constant_(conv.bias, 0.0)  # type: ignore[arg-type]
    return conv


def _freeze(body: nn.Module, training: BodyTraining) -> None:
    """Stops the gradients of the first stages, or of all."""
    count = training.frozen_stages
    if count == "all":
        if training.drop_path:
            raise InputError("detector.drop_path is for backbones that are trained: set it to 0, or train some stages")
        body.requires_grad_(False)
        return
    own = stages(body)
    if count > len(own):
        raise InputError(f"detector.frozen_stages is {count}, but the backbone has {len(own)} stages")
    for stage in own[:count]:
        for parameter in stage:
            parameter.requires_grad_(False)
