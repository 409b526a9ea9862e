"""Horizontally mirrored images, and what a detector says of them at the locations of the images themselves."""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from denseteacher.detectors.base import DenseDetector
from denseteacher.ops.boxes import centers
from denseteacher.structures import DenseOutput, ImageBatch

_ROUNDING = 1e-3  # strides; no location may fall to one side of a limit by the rounding of its anchor's corners


class Mirrored(NamedTuple):
    """What a detector says of mirror images, mapped back: row n is about what location n of the image shows."""

    logits: Tensor
    """(B, N, K) class logits, see ``DenseDetector.class_logits``."""
    boxes: Tensor
    """(B, N, 4) fp32 xyxy pixels of the image, not of its mirror image."""
    quality: Tensor | None
    """(B, N) quality logits, where there are any."""
    valid: Tensor
    """(B, N) bool, False where the location or its partner lies outside the image; the row means nothing then."""


class Belief(NamedTuple):
    """What is predicted for B images, decoded: from the images alone, or with their mirror images."""

    scores: Tensor
    """(B, N, K) class probabilities."""
    boxes: Tensor
    """(B, N, 4) fp32 xyxy pixels."""
    quality: Tensor | None
    """(B, N) in [0, 1], where the detector has that branch."""
    valid: Tensor
    """(B, N) bool, False where the location lies in padding."""


def mirror_images(images: ImageBatch) -> ImageBatch:
    """Each image mirrored within its own width: column x becomes w - 1 - x, padding stays on the right."""
    pixels, sizes = images.pixels, images.sizes
    column = torch.arange(pixels.shape[-1], device=pixels.device)
    mirrored = sizes[:, 1:] - 1 - column
    source = torch.where(mirrored >= 0, mirrored, column)
    return images._replace(pixels=pixels.gather(3, source[:, None, None].expand_as(pixels)))


def mirror_boxes(boxes: Tensor, width: Tensor) -> Tensor:
    """(B, N, 4) xyxy pixels of images of (B,) widths as boxes of their mirror images."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    edge = width[:, None].to(boxes.dtype)
    return torch.stack((edge - x2, y1, edge - x1, y2), dim=-1)


def mirror_back(detector: DenseDetector, output: DenseOutput, images: ImageBatch) -> Mirrored:
    """Maps predictions on mirror images back.

    Boxes are decoded first, so that they are mirrored exactly, whatever the detector's coding and however far
    the two locations are from being each other's image; gradients flow through.

    Args:
        detector: Whose predictions they are.
        output: Predictions on the B mirror images.
        images: The images, or their mirror images; only sizes are looked at.
    """
    height, width = images.pixels.shape[-2:]
    partner, inside = partners(output.anchors, images.sizes, detector.shapes((height, width)), detector.strides)
    boxes = mirror_boxes(detector.decode_boxes(output), images.sizes[:, 1])
    return Mirrored(
        _rows(detector.class_logits(output), partner),
        _rows(boxes, partner),
        None if output.quality is None else output.quality.gather(1, partner),
        inside & output.valid & output.valid.gather(1, partner),
    )


def belief_of(detector: DenseDetector, output: DenseOutput) -> Belief:
    """Raw predictions as probabilities and boxes."""
    decoded = detector.decode(output)
    return Belief(detector.class_logits(output).sigmoid(), decoded.boxes, decoded.quality, decoded.valid)


def mirror_ensemble(detector: DenseDetector, plain: DenseOutput, mirrored: DenseOutput, images: ImageBatch) -> Belief:
    """The mean of what is predicted on images and on their mirror images: of probabilities and decoded boxes.

    A location without a partner keeps what the image alone says.

    Args:
        detector: Whose predictions they are.
        plain: Predictions on the B images.
        mirrored: Predictions on their mirror images.
        images: The images.
    """
    one, other = belief_of(detector, plain), mirror_back(detector, mirrored, images)
    both = other.valid[..., None]
    quality = one.quality
    if quality is not None and other.quality is not None:
        quality = torch.where(other.valid, (quality + other.quality.sigmoid()) / 2, quality)
    return Belief(
        torch.where(both, (one.scores + other.logits.sigmoid()) / 2, one.scores),
        torch.where(both, (one.boxes + other.boxes) / 2, one.boxes),
        quality,
        one.valid,
    )


def partners(
    anchors: Tensor, sizes: Tensor, shapes: Sequence[tuple[int, int]], strides: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The location that shows in the mirror image what a location shows in the image.

    That of x is the location nearest to w - x, on the same level and in the same row, and of its anchors the
    one of the same shape (anchors are symmetric about their location). It is at w - x exactly where that is on
    the level's grid, else up to half a stride away; of two equally near ones the left is taken. Partners are
    mutual. Where w is a multiple of the stride and locations lie at multiples of it, the first column has none:
    its mirror image is on the edge.

    Args:
        anchors: (N, 4) xyxy, levels concatenated, rows before columns, the anchors of a location side by side.
        sizes: (B, 2) height and width of the images.
        shapes: Height and width of each level's feature map.
        strides: Pixels between neighboring locations of each level.

    Returns:
        (B, N) int64 indices, clamped to the level's columns, and (B, N) bool, False where one of the two locations
        lies right or left of the image.
    """
    grid = _grid(tuple(shapes), tuple(strides), anchors.shape[0], anchors.device)
    first = centers(anchors)[grid.level_start, 0] / grid.stride  # place of the level's first column, in strides
    width = sizes[:, 1:] / grid.stride
    partner = (width - 2 * first - 0.5 - _ROUNDING).ceil().long() - grid.column
    clamped = torch.minimum(partner.clamp(min=0), grid.columns - 1)
    index = torch.arange(anchors.shape[0], device=anchors.device) + (clamped - grid.column) * grid.anchors
    rightmost = first + torch.maximum(partner, grid.column)
    return index, (partner == clamped) & (rightmost < width - _ROUNDING)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """(B, N, C) rows of (B, N, C) values by (B, N) index."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


class _Grid(NamedTuple):
    """Where each of N anchors is in its level."""

    level_start: Tensor
    """(N,) int64 index of the level's first anchor."""
    column: Tensor
    """(N,) int64."""
    columns: Tensor
    """(N,) int64 columns of the level."""
    stride: Tensor
    """(N,) fp32 pixels."""
    anchors: int
    """Anchors at a location."""


@lru_cache(maxsize=64)
def _grid(shapes: tuple[tuple[int, int], ...], strides: tuple[int, ...], anchors: int, device: torch.device) -> _Grid:
    each = anchors // sum(height * width for height, width in shapes)
    sizes = torch.tensor([height * width * each for height, width in shapes])
    widths = torch.tensor([width for _, width in shapes])
    level = torch.arange(len(shapes)).repeat_interleave(sizes)
    level_start = (sizes.cumsum(0) - sizes)[level]
    columns = widths[level]
    column = (torch.arange(anchors) - level_start) // each % columns
    stride = torch.tensor(strides, dtype=torch.float32)[level]
    return _Grid(level_start.to(device), column.to(device), columns.to(device), stride.to(device), each)
