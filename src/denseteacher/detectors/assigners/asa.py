"""ASA: the adaptive sample assignment of Consistent-Teacher, by what each location would cost."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from denseteacher.detectors.assigners.base import Assigner, Locations, Predictions
from denseteacher.detectors.assigners.candidates import (
    assigned,
    boxes_of,
    first_and_last,
    highest,
    lie_inside,
    logits_of,
    lowest,
    overlaps_own,
)
from denseteacher.ops.assignment import Assignment, some_boxes
from denseteacher.ops.boxes import centers, pairwise_iou
from denseteacher.ops.losses import sigmoid_focal_loss
from denseteacher.structures import Targets

_AT_ONCE = 2**22
"""Logits whose loss as background is computed in one go."""


class ASAAssigner(Assigner):
    """Adaptive sample assignment (Wang et al., Consistent-Teacher, CVPR 2023, section 3.2).

    Of the locations strictly inside a box the k cheapest are its foreground, where k is the whole part of the sum of
    its ``top_k`` largest IoUs, and at least 1. The cost is the focal loss of the location's classes against the box's
    class, ``iou_weight`` times the negative logarithm of the IoU of the predicted box, and a prior of the center. A
    location wanted by several boxes goes to the box for which it is cheapest, even if that one does not want it, as in
    the released code. There the locations inside any of the image's boxes can be had by all of them; here a location
    is not trained on a box that it lies outside of, which a coding of distances to the sides could not express.
    """

    looks = True
    name: Literal["asa"] = "asa"
    """The cheapest locations."""
    top_k: int = Field(13, gt=0, le=1000)
    """IoUs that are summed to the number of a box's locations, which it bounds."""
    iou_weight: float = Field(2.0, ge=0, le=1000)
    """Weight of the IoU in the cost: 2 in the released configurations."""

    @torch.no_grad()
    def assign(self, targets: Targets, locations: Locations, predictions: Predictions | None) -> Assignment:
        """See ``Assigner``; the weight of a location is the IoU of its predicted box with its own."""
        logits = None if predictions is None else predictions.logits
        predicted = boxes_of(locations, predictions)
        count, empty = len(locations.anchors), None if logits is None else _as_background(logits)
        bargain = predicted.new_full((len(targets.boxes), count), torch.inf)  # the lowest cost of each location
        cheapest = targets.labels.new_zeros(bargain.shape)  # ... and the box that has it
        kept = []
        for some in some_boxes(targets.mask, count):
            inside = lie_inside(locations.anchors, targets.boxes[:, some], targets.mask[:, some])
            overlap = pairwise_iou(targets.boxes[:, some], predicted).masked_fill(~inside, 0)
            cost = self._localization(overlap, locations, targets.boxes[:, some])
            if logits is not None and empty is not None:
                cost += _classification(logits_of(logits, targets.labels[:, some]), empty)
            cost = cost.masked_fill_(~inside, torch.inf)
            low, box = cost.min(1)
            cheapest = torch.where(low < bargain, box + some.start, cheapest)
            bargain = torch.minimum(low, bargain)
            kept.append(self._cheapest(cost, overlap))
        places, wanted = (torch.cat(part, 1) for part in zip(*kept, strict=True))
        first, last = first_and_last(places, wanted, count)
        owner = torch.where(first == last, first, cheapest).masked_fill(last < 0, -1)
        assignment = assigned(targets, owner)
        return assignment._replace(weights=overlaps_own(assignment, predicted))

    def _localization(self, overlap: Tensor, locations: Locations, boxes: Tensor) -> Tensor:
        """(B, g, N) what the place of box and center costs."""
        x, y = centers(locations.anchors).unbind(-1)
        middle_x, middle_y = centers(boxes)[:, :, None].unbind(-1)  # (B, g, 1) each
        distance = ((x - middle_x).square_() + (y - middle_y).square_()).sqrt_() / locations.strides
        return 0.001 * torch.pow(10.0, distance) - self.iou_weight * (overlap + 1e-7).log_()

    def _cheapest(self, cost: Tensor, overlap: Tensor) -> tuple[Tensor, Tensor]:
        """(B, g, C) int64 the cheapest locations of each box, and (B, g, C) bool which of them it wants."""
        most = min(self.top_k, cost.shape[2])
        k = highest(overlap, most)[0].sum(2, keepdim=True).long().clamp(min=1)
        costs, places = lowest(cost, most)
        return places, (torch.arange(most, device=cost.device) < k) & (costs < torch.inf)


def _as_background(logits: Tensor) -> Tensor:
    """(B, N) focal loss of each location, summed over classes, as if there were not a box."""
    batch, _, classes = logits.shape
    parts = torch.split(logits, max(1, _AT_ONCE // (batch * classes)), 1)
    return torch.cat([sigmoid_focal_loss(part, torch.zeros_like(part)).sum(2) for part in parts], 1)


def _classification(logits: Tensor, empty: Tensor) -> Tensor:
    """(B, g, N) focal loss, summed over classes, of each location against the class of a box.

    Args:
        logits: (B, g, N) of the box's class.
        empty: (B, N) what ``_as_background`` gives: all but the box's class counts alike.
    """
    change = sigmoid_focal_loss(logits, torch.ones_like(logits)) - sigmoid_focal_loss(logits, torch.zeros_like(logits))
    return (change + empty[:, None]).clamp_(min=0)
