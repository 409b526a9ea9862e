"""What assigners say, and what is the same for all of them: weights, regions to ignore, what lies in a box."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from denseteacher.ops.boxes import areas, centers
from denseteacher.structures import LossWeights, Targets

BACKGROUND = -1
IGNORED = -2
"""A location that is neither foreground nor background: not trained."""
_AT_ONCE = 2**23
"""Pairs of a box and a location that are looked at in one go, in all images together."""


class Assignment(NamedTuple):
    """Training targets at every location."""

    labels: Tensor
    """(B, N) int64 class index, ``BACKGROUND`` or ``IGNORED``."""
    boxes: Tensor
    """(B, N, 4) the assigned box, xyxy pixels; meaningless but at foreground."""
    matched: Tensor
    """(B, N) int64 which of the image's boxes that is; meaningless but at foreground."""
    weights: Tensor | None = None
    """(B, N) fp32 in [0, 1] how well the prediction at foreground fits its box, 0 elsewhere: what it counts in the box
    loss, and in the sum that the losses are over. None where all foreground counts alike."""


def location_weights(assignment: Assignment, weights: LossWeights) -> Tensor:
    """(B, N) fp32 what each location counts: as its box at foreground, as its own background elsewhere."""
    labels = assignment.labels
    foreground = labels > BACKGROUND
    at_box, elsewhere = torch.ones(labels.shape, device=labels.device), torch.ones(labels.shape, device=labels.device)
    if weights.boxes is not None:
        at_box = weights.boxes.gather(1, assignment.matched)
    if weights.background is not None:
        elsewhere = weights.background
    return torch.where(foreground, at_box, elsewhere)


def with_regions(targets: Targets) -> Targets:
    """Ground truth in which regions to ignore are objects whose class is ``IGNORED``."""
    ignored = targets.ignored
    if ignored is None:
        return targets
    return Targets(targets.boxes, targets.labels.masked_fill(ignored, IGNORED), targets.mask | ignored)


def leave_out(assignment: Assignment, covered: Tensor) -> Assignment:
    """The assignment in which background is ``IGNORED`` where it is covered.

    Args:
        assignment: Rows for v views of b images, one view after the other.
        covered: (b, N) bool.
    """
    views = len(assignment.labels) // len(covered)
    left_out = covered.repeat(views, 1) & (assignment.labels == BACKGROUND)
    return assignment._replace(labels=assignment.labels.masked_fill(left_out, IGNORED))


def some_boxes(mask: Tensor, count: int) -> Iterator[slice]:
    """Which of the G padded boxes of all images to compare with locations at once, in order.

    Tensors over all boxes and all locations would grow with the most crowded image.

    Args:
        mask: (B, G) bool, that of the boxes.
        count: N, the locations that each box is compared with.
    """
    batch, room = mask.shape
    step = max(1, _AT_ONCE // (batch * count))
    for start in range(0, room, step):
        yield slice(start, start + step)


def centers_inside(anchors: Tensor, boxes: Tensor, mask: Tensor) -> Tensor:
    """(B, N) bool, which anchors have their center strictly inside one of an image's boxes.

    Args:
        anchors: (N, 4) xyxy.
        boxes: (B, G, 4) xyxy.
        mask: (B, G) bool, which of them count.
    """
    x, y = centers(anchors)[:, None].unbind(-1)  # (N, 1) each
    found = mask.new_zeros(len(mask), len(anchors))
    for some in some_boxes(mask, len(anchors)):
        left, top, right, bottom = boxes[:, None, some].unbind(-1)  # (B, 1, g) each
        inside = (x > left) & (x < right) & (y > top) & (y < bottom)
        found |= (inside & mask[:, None, some]).any(2)
    return found


def areas_inside(anchors: Tensor, boxes: Tensor, mask: Tensor, *, least: float = 0.5) -> Tensor:
    """(B, N) bool, which anchors have at least a share of their area inside one of an image's boxes.

    Args:
        anchors: (N, 4) xyxy.
        boxes: (B, G, 4) xyxy.
        mask: (B, G) bool, which of them count.
        least: The share.
    """
    x1, y1, x2, y2 = anchors[:, None].unbind(-1)  # (N, 1) each
    found = mask.new_zeros(len(mask), len(anchors))
    for some in some_boxes(mask, len(anchors)):
        left, top, right, bottom = boxes[:, None, some].unbind(-1)  # (B, 1, g) each
        width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp(min=0)
        height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp(min=0)
        inside = width * height >= least * areas(anchors)[:, None]
        found |= (inside & mask[:, None, some]).any(2)
    return found
