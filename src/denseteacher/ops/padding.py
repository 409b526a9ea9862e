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
