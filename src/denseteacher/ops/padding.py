"""Where on its padded canvas an image is."""

import torch
from torch import Tensor

MEAN_COLOR = (124, 116, 104)
"""The ImageNet mean in RGB: about 0 to a network, as padding is. It stands where a changed image shows nothing."""


def real_area(sizes: Tensor, height: int, width: int) -> Tensor:
    """(B, 1, H, W) bool, True on an image, False on its padding.

    Args:
        sizes: (B, 2) height and width of each image.
        height: Height of the canvas, in pixels.
        width: Width of the canvas, in pixels.
    """
    rows = torch.arange(height, device=sizes.device) < sizes[:, :1]
    columns = torch.arange(width, device=sizes.device) < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None])[:, None]


def group_canvases(sizes: Tensor, group: int, *, multiple: int = 32) -> Tensor:
    """(B, 2) int64 height and width of the smallest canvas that holds the images of each one's group.

    Args:
        sizes: (B, 2) height and width of each image.
        group: Consecutive images that share a canvas; B is a multiple of it.
        multiple: Of which a canvas's sides are, in pixels, as in ``data.sizes.common_canvas``.
    """
    largest = sizes.view(-1, group, 2).amax(1, keepdim=True)
    canvas = (largest + multiple - 1).div(multiple, rounding_mode="floor") * multiple
    return canvas.expand(-1, group, -1).reshape(-1, 2)
