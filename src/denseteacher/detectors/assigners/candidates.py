"""What assigners share that rank locations for every box: the few best of each box, and who gets which.

Tensors over all boxes and all locations would grow with the most crowded image. So boxes are ranked some at a time,
and what is kept of each box is its candidates, C of them whatever the image.
"""

import torch
from torch import Tensor

from denseteacher.detectors.assigners.base import Locations, Predictions
from denseteacher.ops.assignment import BACKGROUND, Assignment
from denseteacher.ops.boxes import centers, iou
from denseteacher.structures import Targets

_PLACE = 2**32 - 1
"""Bits of a key that say where the value is."""


def lie_inside(anchors: Tensor, boxes: Tensor, mask: Tensor) -> Tensor:
    """(B, g, N) bool, which anchors have their center strictly inside which box that counts.

    Args:
        anchors: (N, 4) xyxy.
        boxes: (B, g, 4) xyxy.
        mask: (B, g) bool, which of them count.
    """
    x, y = centers(anchors).unbind(-1)
    left, top, right, bottom = boxes[:, :, None].unbind(-1)  # (B, g, 1) each
    return (x > left) & (x < right) & (y > top) & (y < bottom) & mask[..., None]


def lowest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The lowest values of the last dimension by rising value, and where they are: the first among equals.

    Args:
        values: (..., N) fp32, at least 0.
        count: How many, at most N.
    """
    index = _keys(values).add_(torch.arange(values.shape[-1], device=values.device))
    index = index.topk(count, largest=False).values & _PLACE
    return values.gather(-1, index), index


def highest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The places and values of the highest, as ``lowest`` gives the lowest, by falling value."""
    last = values.shape[-1] - 1
    index = _keys(values).add_(torch.arange(last, -1, -1, device=values.device))
    index = last - (index.topk(count).values & _PLACE)
    return values.gather(-1, index), index


def _keys(values: Tensor) -> Tensor:
    """int64 of the order of fp32 values from 0 on, as their bits are; the lower half is free for a place."""
    return (values + 0.0).view(torch.int32).long().mul_(2**32)  # + 0.0: the bits of -0.0 are below all others


def first_and_last(places: Tensor, wanted: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first and the last box that want each location.

    Args:
        places: (B, G, C) int64, the candidates of each box.
        wanted: (B, G, C) bool, which of them it wants.
        count: N.

    Returns:
        (B, N) int64 twice: G and -1 where not a box wants the location.
    """
    batch, room, _ = places.shape
    box = torch.arange(room, device=places.device)[:, None].expand_as(places)
    first = places.new_full((batch, count), room)
    first = first.scatter_reduce(1, places.flatten(1), torch.where(wanted, box, room).flatten(1), "amin")
    last = places.new_full((batch, count), -1)
    last = last.scatter_reduce(1, places.flatten(1), torch.where(wanted, box, -1).flatten(1), "amax")
    return first, last


def best_box(places: Tensor, wanted: Tensor, score: Tensor, count: int) -> Tensor:
    """(B, N) int64 which of the boxes that want a location has the highest score there, the first among equals.

    Args:
        places: (B, G, C) int64, the candidates of each box.
        wanted: (B, G, C) bool, which of them it wants.
        score: (B, G, C) fp32, at least 0.
        count: N.

    Returns:
        -1 where not a box wants the location.
    """
    offers = score.masked_fill(~wanted, -1)
    best = offers.new_full((len(places), count), -1)
    best = best.scatter_reduce(1, places.flatten(1), offers.flatten(1), "amax")
    wins = wanted & (offers == best.gather(1, places.flatten(1)).view_as(offers))
    first, _ = first_and_last(places, wins, count)
    return first.masked_fill(first == places.shape[1], -1)


def assigned(targets: Targets, owner: Tensor) -> Assignment:
    """The assignment, without weights, of which each location's box is known.

    Args:
        targets: Ground truth of B images.
        owner: (B, N) int64 the location's box, -1 at background.
    """
    matched = owner.clamp(min=0)
    labels = targets.labels.gather(1, matched).masked_fill(owner < 0, BACKGROUND)
    return Assignment(labels, targets.boxes.gather(1, matched[..., None].expand(-1, -1, 4)), matched)


def overlaps_own(assignment: Assignment, boxes: Tensor) -> Tensor:
    """(B, N) fp32 IoU of predicted boxes with the boxes assigned to them; 0 elsewhere.

    Args:
        assignment: Of B images.
        boxes: (B, N, 4) xyxy, or (1, N, 4) for all images.
    """
    return iou(assignment.boxes, boxes).masked_fill(assignment.labels <= BACKGROUND, 0)


def logits_of(logits: Tensor, labels: Tensor) -> Tensor:
    """(B, g, N) the logits of each box's class at all locations; of an ignored region's, those of class 0.

    Args:
        logits: (B, N, K).
        labels: (B, g) int64.
    """
    _, count, classes = logits.shape
    chosen = labels.clamp(0, classes - 1)[..., None].expand(-1, -1, count)
    return logits.float().transpose(1, 2).gather(1, chosen)


def boxes_of(locations: Locations, predictions: Predictions | None) -> Tensor:
    """(B, N, 4) the predicted boxes, or (1, N, 4) the priors where there are none."""
    return locations.priors[None] if predictions is None else predictions.boxes
