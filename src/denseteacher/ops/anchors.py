"""Where the predictions of a feature pyramid lie in the image."""

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

F = TypeVar("F", bound=Callable[..., Tensor])
_ROUNDING = 1e-3  # pixels; far above that of fp32 corners, far below the distance of any location to the next pixel


def _kept(make: F) -> F:
    """Keeps the anchors of the last canvases: a run sees few, and building them anew costs a launch per level.

    Not while torch traces: sizes may be symbols then, and tensors without values.
    """
    keep = lru_cache(maxsize=64)(make)

    @wraps(make)
    def made(*arguments: Any) -> Tensor:
        return make(*arguments) if torch.compiler.is_compiling() else keep(*arguments)

    return cast(F, made)


def location_anchors(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], offset: float, device: torch.device
) -> Tensor:
    """One square of side stride around every location, levels concatenated, rows before columns.

    Args:
        shapes: Height and width of each level's feature map.
        strides: Pixels between neighboring locations of each level.
        offset: Where the first location lies, in strides: 0.0 as published (and as the receptive fields of
            a ResNet are centered), 0.5 for the middle of the cell.
        device: Where the anchors are needed.

    Returns:
        (N, 4) fp32 xyxy pixels.
    """
    return _location_anchors(tuple(shapes), tuple(strides), offset, device)


@_kept
def _location_anchors(
    shapes: tuple[tuple[int, int], ...], strides: tuple[int, ...], offset: float, device: torch.device
) -> Tensor:
    return torch.cat(
        [
            _around(_locations(shape, stride, offset, device), torch.tensor([[stride / 2, stride / 2]], device=device))
            for shape, stride in zip(shapes, strides, strict=True)
        ]
    )


def box_anchors(
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    sides: Sequence[float],
    ratios: Sequence[float],
    device: torch.device,
    *,
    offset: float = 0.0,
) -> Tensor:
    """Boxes of several shapes and sizes around every location (RetinaNet), levels concatenated.

    Unlike torchvision's, sizes and corners are not rounded.

    Args:
        shapes: Height and width of each level's feature map.
        strides: Pixels between neighboring locations of each level.
        sides: Sides of the square anchors in strides; an anchor of another shape has the same area.
        ratios: Height over width.
        device: Where the anchors are needed.
        offset: Where the first location lies, in strides.

    Returns:
        (N, 4) fp32 xyxy pixels; the anchors of a location ratio by ratio, within it side by side.
    """
    return _box_anchors(tuple(shapes), tuple(strides), tuple(sides), tuple(ratios), offset, device)


@_kept
def _box_anchors(
    shapes: tuple[tuple[int, int], ...],
    strides: tuple[int, ...],
    sides: tuple[float, ...],
    ratios: tuple[float, ...],
    offset: float,
    device: torch.device,
) -> Tensor:
    extents = [(side / ratio**0.5 / 2, side * ratio**0.5 / 2) for ratio in ratios for side in sides]
    halves = torch.tensor(extents, device=device)
    return torch.cat(
        [
            _around(_locations(shape, stride, offset, device), halves * stride)
            for shape, stride in zip(shapes, strides, strict=True)
        ]
    )


def _locations(shape: tuple[int, int], stride: int, offset: float, device: torch.device) -> Tensor:
    """(h * w, 2) x and y of a level's locations, rows before columns."""
    y = (torch.arange(shape[0], device=device, dtype=torch.float32) + offset) * stride
    x = (torch.arange(shape[1], device=device, dtype=torch.float32) + offset) * stride
    grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack((grid_x, grid_y), dim=-1).reshape(-1, 2)


def _around(locations: Tensor, halves: Tensor) -> Tensor:
    """(n * A, 4) boxes: those of (A, 2) half widths and heights around each of (n, 2) centers."""
    center = locations[:, None]
    return torch.cat((center - halves, center + halves), dim=-1).reshape(-1, 4)


def valid_locations(anchors: Tensor, sizes: Tensor) -> Tensor:
    """Which locations lie on the image rather than on its padding.

    Args:
        anchors: (N, 4) xyxy; their centers are the locations.
        sizes: (B, 2) height and width of each image.

    Returns:
        (B, N) bool.
    """
    # a location on the very edge is outside for all its anchors, however their corners were rounded
    center = (anchors[:, :2] + anchors[:, 2:]) / 2 + _ROUNDING
    return (center[None, :, 0] < sizes[:, 1:]) & (center[None, :, 1] < sizes[:, :1])
