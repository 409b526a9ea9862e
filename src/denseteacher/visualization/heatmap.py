"""Scores over images: one value a location as a map over the pixels, and the map as a picture."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from denseteacher.ops.boxes import centers

Pixels = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.float32]


def score_map(
    values: Tensor,
    anchors: Tensor,
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    size: tuple[int, int],
) -> Heat:
    """One value an anchor of one image, as a map over its pixels: the highest of the nearest locations of all levels.

    Args:
        values: (N,) values in [0, 1].
        anchors: (N, 4) boxes around the locations.
        shapes: Height and width of each level's feature map.
        strides: Pixels between neighboring locations of each level.
        size: Height and width of the map.
    """
    counts = [rows * columns for rows, columns in shapes]
    best = values.cpu().view(sum(counts), -1).amax(1)
    middles = centers(anchors).cpu().view(sum(counts), -1, 2)[:, 0]
    found = torch.zeros(size)
    levels = (torch.split(one, counts) for one in (best, middles))
    for grid, middle, shape, stride in zip(*levels, shapes, strides, strict=True):
        rows, columns = (
            ((torch.arange(side) + 0.5 - start) / stride).round().long().clamp(0, most - 1)
            for side, start, most in zip(size, middle[0].flip(0).tolist(), shape, strict=True)
        )
        found = torch.maximum(found, grid.view(shape)[rows][:, columns])
    return found.numpy()


def heat_layer(heat: Heat) -> Image.Image:
    """Values in [0, 1] as a picture to lay over an image: bright and opaque where high, clear where 0.

    The scale ends at the highest value, but not below 0.3: a teacher that is sure of nothing stays dark.
    """
    from matplotlib import colormaps

    strength = np.clip(heat / max(float(heat.max()), 0.3), 0, 1)
    colors = np.asarray(colormaps["viridis"](strength))
    colors[..., 3] = strength
    return Image.fromarray((colors * 255).round().astype(np.uint8))


def heat_overlay(image: Pixels, heat: Heat) -> Image.Image:
    """The image, dark and gray, under its heat layer."""
    gray = Image.fromarray(image).convert("L").point(lambda value: value * 0.6).convert("RGBA")
    layer = heat_layer(heat)
    layer.putalpha(layer.getchannel("A").point(lambda value: value * 0.75))
    return Image.alpha_composite(gray, layer).convert("RGB")
