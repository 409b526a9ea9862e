"""Two images as one, with the boxes of both: mixup, and a mosaic of two tiles."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from denseteacher.ops.boxes import with_boxes
from denseteacher.ops.padding import MEAN_COLOR, real_area
from denseteacher.structures import ImageBatch, Targets, cat, take

_LEAST_VISIBLE = 0.25


class Mixed(NamedTuple):
    """Images and their joint ground truth: the rows of the first partner's boxes, then those of the second's."""

    images: ImageBatch
    targets: Targets
    weights: Tensor
    """(B, G) fp32 what each box counts, see ``LossWeights.boxes``."""


@torch.no_grad()
def mixup(
    first: ImageBatch, first_targets: Targets, second: ImageBatch, second_targets: Targets, share: Tensor
) -> Mixed:
    """Sums of two images with shares that sum to 1; a box counts as much as its image (Zhang et al., ICLR 2018).

    A pair is as high as its higher and as wide as its wider image. Both lie in its upper left corner, and where
    one has ended it counts as the mean color, 0 to the network: so the published code mixes its padded and
    normalized images. (There the label of a box is its one-hot vector times its share, so that its cross-entropy
    is the plain one times that share, as here.)

    Args:
        first: B images.
        first_targets: Their ground truth.
        second: B images on a canvas of the same height and width.
        second_targets: Their ground truth.
        share: (B,) fp32 of the first image, in [0, 1].
    """
    weights = torch.cat(
        [share[:, None].expand_as(first_targets.mask), 1 - share[:, None].expand_as(second_targets.mask)], dim=1
    )
    return Mixed(weighted_sum(first, second, share), _joined(first_targets, second_targets), weights)


def weighted_sum(first: ImageBatch, second: ImageBatch, share: Tensor) -> ImageBatch:
    """The images of ``mixup``, see there."""
    sizes = torch.maximum(first.sizes, second.sizes)
    one, other = _on_mean_color(first).float(), _on_mean_color(second).float()
    pixels = other.lerp_(one, share[:, None, None, None]).add_(0.5).byte()  # the conversion cuts off, so this rounds
    return _cropped(pixels, sizes)


@torch.no_grad()
def mosaic(
    first: ImageBatch,
    first_targets: Targets,
    second: ImageBatch,
    second_targets: Targets,
    share: Tensor,
    beside: Tensor,
) -> Mixed:
    """The upper or left part of one image, and of another what lies beyond the cut: a mosaic of two tiles.

    Nothing is moved: both tiles show what is there in their own image. The cut is in both images, and a pair
    ends in its direction where the second image ends; across it a pair is as large as the larger image, with
    the mean color beside the smaller tile. (The published code cuts the padded canvas, so that where sizes differ
    a tile may be all padding.) Boxes are cut to their tile; one goes if of either side no more than a quarter
    is left (published). Of a region to ignore all that is in the tile stays.

    Args:
        first: B images.
        first_targets: Their ground truth.
        second: B images on a canvas of the same height and width.
        second_targets: Their ground truth.
        share: (B,) fp32 where the cut is, as a share of the smaller height or width; published between 1/4 and 3/4.
        beside: (B,) bool, True for a left and a right tile, False for an upper and a lower one.
    """
    cut_here = torch.stack([~beside, beside], dim=1)  # of height and width
    cut = (share[:, None] * torch.minimum(first.sizes, second.sizes)).long()
    sizes = torch.where(cut_here, second.sizes, torch.maximum(first.sizes, second.sizes))
    start, end = torch.where(cut_here, cut, 0), torch.where(cut_here, cut, sizes)
    in_first = real_area(end, *first.pixels.shape[-2:])
    pixels = torch.where(in_first, _on_mean_color(first), _on_mean_color(second))
    targets = _joined(
        _cut_to_tile(first_targets, torch.zeros_like(start), end), _cut_to_tile(second_targets, start, sizes)
    )
    return Mixed(_cropped(pixels, sizes), targets, torch.ones_like(targets.boxes[..., 0]))


def unmixed(images: ImageBatch, targets: Targets, room: int) -> Mixed:
    """Images as they are, with room for a partner's boxes, so that they can stand in one batch with mixed ones."""
    padded = Targets(
        functional.pad(targets.boxes, (0, 0, 0, room)),
        functional.pad(targets.labels, (0, room)),
        functional.pad(targets.mask, (0, room)),
        None if targets.ignored is None else functional.pad(targets.ignored, (0, room)),
    )
    return Mixed(images, padded, torch.ones_like(padded.boxes[..., 0]))


def with_rows(mixed: Mixed, rows: Tensor, others: Mixed) -> Mixed:
    """A batch in which the images at some rows, (n,) int64, are replaced by n others."""
    places = torch.arange(len(mixed.weights), device=rows.device)
    places[rows] = len(mixed.weights) + torch.arange(len(rows), device=rows.device)
    return take(cat(mixed, others), places)


def _on_mean_color(images: ImageBatch) -> Tensor:
    """(B, 3, H, W) uint8 pixels, with the mean color instead of padding."""
    pixels = images.pixels.clone()
    outside = ~real_area(images.sizes, *pixels.shape[-2:])[:, 0]
    for channel, fill in zip(pixels.unbind(1), MEAN_COLOR, strict=True):
        channel.masked_fill_(outside, fill)
    return pixels


def _cropped(pixels: Tensor, sizes: Tensor) -> ImageBatch:
    """Images of these sizes, with padding that is 0."""
    return ImageBatch(pixels * real_area(sizes, *pixels.shape[-2:]), sizes)


def _cut_to_tile(targets: Targets, start: Tensor, end: Tensor) -> Targets:
    """Ground truth cut to tiles between two corners, (B, 2) y and x each, and masked out where lost."""
    lower, upper = (corner.flip(1)[:, None].to(targets.boxes.dtype) for corner in (start, end))
    corners = torch.split(targets.boxes, 2, dim=2)
    boxes = torch.cat([corner.clamp(lower, upper) for corner in corners], dim=2)
    before, after = corners[1] - corners[0], boxes[..., 2:] - boxes[..., :2]
    return with_boxes(targets, boxes, targets.mask & (after > _LEAST_VISIBLE * before).all(2))


def _joined(first: Targets, second: Targets) -> Targets:
    boxes, labels, mask = (torch.cat(pair, dim=1) for pair in zip(first[:3], second[:3], strict=True))
    if first.ignored is None or second.ignored is None:
        return Targets(boxes, labels, mask)
    return Targets(boxes, labels, mask, torch.cat((first.ignored, second.ignored), dim=1))
