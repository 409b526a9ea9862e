"""Feature alignment over places and levels: FAM-3D of Consistent-Teacher (Wang et al., CVPR 2023, section 3.3)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WIDTH = 64
_INITIAL_SPREAD = 0.001


class FeatureAlignment(nn.Module):
    """Where a level and a place look for the four sides of their box, learned from the features of the head's towers.

    Each location has a box. A side of it is first blended with the same side at the same place of the next finer or
    coarser level, then taken from somewhere beside the location. Both shifts start near 0, where boxes stay what
    they are. 152 thousand parameters with two towers of four convolutions of 256 channels.

    As in the published code, a side that is taken from outside of the map is 0 there. Ours: a side that comes to lie
    beyond its opposite one changes places with it, so that no box is turned inside out.
    """

    def __init__(self, channels: int) -> None:
        """Makes the three convolutions, shared by all levels.

        Args:
            channels: Those of a level's features, all layers of both towers together.
        """
        super().__init__()
        self.reduce = nn.Conv2d(channels, _WIDTH, 1)
        self.levels = nn.Conv2d(3 * _WIDTH, 4, 3, padding=1)
        self.places = nn.Conv2d(3 * _WIDTH, 8, 3, padding=1)
        self.initialize()

    @torch.no_grad()
    def initialize(self) -> None:
        """Small random weights, with which all boxes stay nearly what they are."""
        for module in (self.reduce, self.levels, self.places):
            nn.init.normal_(module.weight, std=_INITIAL_SPREAD)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def of_locations(self, features: list[Tensor], boxes: Tensor) -> Tensor:
        """``forward`` for boxes as predictions have them.

        Args:
            features: See ``forward``.
            boxes: (B, N, 4) xyxy pixels, levels concatenated, of each its rows and then its columns.

        Returns:
            (B, N, 4) fp32 xyxy pixels.
        """
        shapes = [(feature.shape[-2], feature.shape[-1]) for feature in features]
        levels = torch.split(boxes, [height * width for height, width in shapes], 1)
        maps = [
            level.transpose(1, 2).reshape(len(level), 4, *shape) for level, shape in zip(levels, shapes, strict=True)
        ]
        return torch.cat([level.flatten(2).transpose(1, 2) for level in self(features, maps)], 1)

    def forward(self, features: list[Tensor], boxes: list[Tensor]) -> list[Tensor]:
        """Takes the sides of each box from where they are seen best.

        Args:
            features: (B, C, h, w) a level, finest first: all layers of the class tower, then of the box tower.
            boxes: (B, 4, h, w) a level: decoded boxes, xyxy in pixels of the canvas. Levels have one unit, so
                the ratio of their strides is not a factor; codings that are relative to a location can't be blended.

        Returns:
            (B, 4, h, w) fp32 a level, xyxy pixels.
        """
        boxes = [level.float() for level in boxes]
        reduced = [self.reduce(level).relu() for level in features]
        aligned = []
        for level, own in enumerate(boxes):
            finer, coarser = max(level - 1, 0), min(level + 1, len(boxes) - 1)
            seen = torch.cat((_resized(reduced[finer], own), reduced[level], _resized(reduced[coarser], own)), 1)
            shift = self.levels(seen).float().clamp(float(level - finer) * -1, float(coarser - level))
            sides = own * (1 - shift.abs())
            sides = sides + (-shift).clamp(min=0) * _resized(boxes[finer], own)
            sides = sides + shift.clamp(min=0) * _resized(boxes[coarser], own)
            aligned.append(_in_order(_moved(sides, self.places(seen).float())))
        return aligned


def layers_of(tower: nn.Sequential, feature: Tensor) -> Tensor:
    """What all layers of a tower say of a level, (B, layers * C, h, w): the features after each of its ReLUs.

    Args:
        tower: As ``pyramid.tower`` makes it, with at least one convolution.
        feature: (B, C, h, w) the level of the pyramid.
    """
    layers = []
    for module in tower:
        feature = module(feature)
        if isinstance(module, nn.ReLU):
            layers.append(feature)
    return torch.cat(layers, 1)


def _resized(values: Tensor, like: Tensor) -> Tensor:
    """(B, C, ., .) another level's values at the places of the level of (B, ., h, w)."""
    if values.shape[-2:] == like.shape[-2:]:
        return values
    return F.interpolate(values, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _moved(sides: Tensor, offsets: Tensor) -> Tensor:
    """Values beside each location, bilinearly, for each side on its own.

    Args:
        sides: (B, 4, h, w).
        offsets: (B, 8, h, w) how far down and to the right each side is taken from, in locations: dy, dx of the
            first side, then of the next.

    Returns:
        (B, 4, h, w).
    """
    batch, count, height, width = sides.shape
    rows = torch.arange(height, device=sides.device, dtype=sides.dtype)[:, None]
    columns = torch.arange(width, device=sides.device, dtype=sides.dtype)
    dy, dx = offsets.reshape(batch * count, 2, height, width).unbind(1)  # (B * 4, h, w) each
    # grid_sample counts from the outer edges of the first and the last location, from -1 to 1
    grid = torch.stack(((2 * (columns + dx) + 1) / width - 1, (2 * (rows + dy) + 1) / height - 1), -1)
    moved = F.grid_sample(
        sides.reshape(batch * count, 1, height, width), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return moved.view(batch, count, height, width)


def _in_order(boxes: Tensor) -> Tensor:
    """(B, 4, h, w) boxes, the upper left corner first."""
    first, second = boxes.chunk(2, 1)
    return torch.cat((torch.minimum(first, second), torch.maximum(first, second)), 1)
