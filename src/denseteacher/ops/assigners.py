"""Which location is trained on which ground-truth box, for a whole batch at once."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou

from denseteacher.ops.boxes import areas, centers
from denseteacher.structures import LossWeights, Targets

BACKGROUND = -1
IGNORED = -2
"""A location that is neither foreground nor background: not trained."""


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


def centers_inside(anchors: Tensor, boxes: Tensor, mask: Tensor) -> Tensor:
    """(B, N) bool, which anchors have their center strictly inside one of an image's boxes.

    Args:
        anchors: (N, 4) xyxy.
        boxes: (B, G, 4) xyxy.
        mask: (B, G) bool, which of them count.
    """
    left, top, right, bottom = boxes[:, None].unbind(-1)  # (B, 1, G) each
    x, y = centers(anchors)[:, None].unbind(-1)  # (N, 1) each
    inside = (x > left) & (x < right) & (y > top) & (y < bottom)
    return (inside & mask[:, None]).any(2)


def areas_inside(anchors: Tensor, boxes: Tensor, mask: Tensor, *, least: float = 0.5) -> Tensor:
    """(B, N) bool, which anchors have at least a share of their area inside one of an image's boxes.

    Args:
        anchors: (N, 4) xyxy.
        boxes: (B, G, 4) xyxy.
        mask: (B, G) bool, which of them count.
        least: The share.
    """
    left, top, right, bottom = boxes[:, None].unbind(-1)  # (B, 1, G) each
    x1, y1, x2, y2 = anchors[:, None].unbind(-1)  # (N, 1) each
    width = (torch.minimum(x2, right) - torch.maximum(x1, left)).clamp(min=0)
    height = (torch.minimum(y2, bottom) - torch.maximum(y1, top)).clamp(min=0)
    inside = width * height >= least * areas(anchors)[:, None]
    return (inside & mask[:, None]).any(2)


def assign_fcos(
    anchors: Tensor, targets: Targets, *, center_radius: float = 1.5, size_factor: float = 8.0
) -> Assignment:
    """FCOS assignment (Tian et al., 2019) with center sampling, over padded targets.

    A location is foreground for a box if it lies strictly inside the box's central region (the box cut to
    ``center_radius`` strides around its center) and the largest of its four distances to the box lies in
    its level's range. The range of a level of stride s is ``[size_factor / 2 * s, size_factor * s]``, open
    below on the finest and above on the coarsest level: for strides 8 to 128 and a factor of 8 the published
    borders 64, 128, 256, 512. Among several boxes the one of least area wins, the first among equals.

    Args:
        anchors: (N, 4) squares of side stride around the locations.
        targets: Ground truth of B images.
        center_radius: In strides; 0 takes the whole box.
        size_factor: Upper border of a level's range, in strides.
    """
    stride = (anchors[:, 2] - anchors[:, 0])[:, None]  # (N, 1)
    left, top, right, bottom = targets.boxes[:, None].unbind(-1)  # (B, 1, G) each
    reaches, depths = [], []
    # axis by axis: an operation along two numbers in memory would be many times slower
    for location, lower, upper in zip(centers(anchors)[:, None].unbind(-1), (left, top), (right, bottom), strict=True):
        before, behind = location - lower, upper - location  # (B, N, G)
        reaches.append(torch.maximum(before, behind))
        if center_radius > 0:
            middle, radius = (lower + upper) / 2, center_radius * stride
            before = location - torch.maximum(lower, middle - radius)
            behind = torch.minimum(upper, middle + radius) - location
        depths.append(torch.minimum(before, behind))
    reach, inside = torch.maximum(*reaches), torch.minimum(*depths) > 0

    finest, coarsest = stride.amin(), stride.amax()
    least = torch.where(stride > finest, size_factor / 2 * stride, torch.zeros_like(stride))
    most = torch.where(stride < coarsest, size_factor * stride, torch.full_like(stride, torch.inf))
    in_range = (reach >= least) & (reach <= most)

    cost = areas(targets.boxes)[:, None, :].expand_as(reach)
    cost = cost.masked_fill(~(inside & in_range & targets.mask[:, None, :]), torch.inf)
    best = cost.argmin(dim=2)  # (B, N); argmin returns the first of equals
    foreground = cost.gather(2, best[..., None])[..., 0].isfinite()
    labels = targets.labels.gather(1, best).masked_fill(~foreground, BACKGROUND)
    return Assignment(labels, targets.boxes.gather(1, best[..., None].expand(-1, -1, 4)), best)


def assign_max_iou(
    anchors: Tensor, targets: Targets, *, foreground_iou: float = 0.5, background_iou: float = 0.4
) -> Assignment:
    """RetinaNet's assignment (Lin et al., 2017), over padded targets.

    An anchor belongs to the box that it overlaps most (the first among equals): as foreground if the IoU
    reaches ``foreground_iou``, as background if it is below ``background_iou``, else it is ignored. The
    anchors that overlap some box more than all others do are foreground too, so that no box is left without;
    as in detectron2 and torchvision they are trained on the box that they themselves overlap most.

    Args:
        anchors: (N, 4) xyxy.
        targets: Ground truth of B images.
        foreground_iou: In (0, 1].
        background_iou: At most ``foreground_iou``.
    """
    batch, room = targets.mask.shape
    overlap = box_iou(targets.boxes.flatten(0, 1), anchors).view(batch, room, -1)
    overlap = overlap.masked_fill(~targets.mask[..., None], -1.0)
    best, index = overlap.max(dim=1)  # (B, N)
    most = overlap.amax(dim=2, keepdim=True)
    rescued = ((overlap == most) & (most > 0)).any(dim=1)
    labels = targets.labels.gather(1, index)
    labels = labels.masked_fill(best < foreground_iou, IGNORED).masked_fill(best < background_iou, BACKGROUND)
    labels = torch.where(rescued, targets.labels.gather(1, index), labels)
    return Assignment(labels, targets.boxes.gather(1, index[..., None].expand(-1, -1, 4)), index)
