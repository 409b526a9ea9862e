"""Where the predictions of a feature pyramid lie in the image."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


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


@lru_cache(maxsize=64)  # a run sees few canvas shapes, and building them anew costs a launch per level
def _location_anchors(
    shapes: tuple[tuple[int, int], ...], strides: tuple[int, ...], offset: float, device: torch.device
) -> Tensor:
    levels = []
    for (height, width), stride in zip(shapes, strides, strict=True):
        y = (torch.arange(height, device=device, dtype=torch.float32) + offset) * stride
        x = (torch.arange(width, device=device, dtype=torch.float32) + offset) * stride
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        center = torch.stack((grid_x, grid_y, grid_x, grid_y), dim=-1).reshape(-1, 4)
        half = stride / 2
        levels.append(center + center.new_tensor((-half, -half, half, half)))
    return torch.cat(levels)


def valid_locations(anchors: Tensor, sizes: Tensor) -> Tensor:
    """Which locations lie on the image rather than on its padding.

    Args:
        anchors: (N, 4) xyxy; their centers are the locations.
        sizes: (B, 2) height and width of each image.

    Returns:
        (B, N) bool.
    """
    center = (anchors[:, :2] + anchors[:, 2:]) / 2
    return (center[None, :, 0] < sizes[:, 1:]) & (center[None, :, 1] < sizes[:, :1])
