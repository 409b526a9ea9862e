"""TAL: task-aligned assignment, by how well class and box of a location fit together."""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from denseteacher.detectors.assigners.base import Assigner, Locations, Predictions
from denseteacher.detectors.assigners.candidates import (
    assigned,
    best_box,
    boxes_of,
    highest,
    lie_inside,
    logits_of,
    overlaps_own,
)
from denseteacher.ops.assignment import Assignment, some_boxes
from denseteacher.ops.boxes import pairwise_iou
from denseteacher.structures import Targets


class TALAssigner(Assigner):
    """Task-aligned assignment (Feng et al., TOOD, ICCV 2021, section 3.2).

    The alignment of a location with a box is ``t = s^alpha * IoU^beta``, of its score for the box's class and the IoU
    of its predicted box. Of the locations strictly inside a box the ``top_k`` with the highest t, if above 0, are its
    foreground; a location wanted by several boxes goes to the one that its predicted box overlaps most. TOOD's code
    drops those outside of the box after it has taken the ``top_k``; here, as in PP-YOLOE, they do not take part.

    Scaled to the box's largest IoU, t is what a location counts in the box loss. It is the target of its class score
    too where the class loss has soft ones (``cls_loss: quality_focal``, as in TOOD, or ``joint``); ``focal`` has hard
    labels.
    """

    looks = True
    soft_labels: ClassVar[bool] = True
    name: Literal["tal"] = "tal"
    """The best aligned locations."""
    top_k: int = Field(13, gt=0, le=1000)
    """Most locations of a box."""
    alpha: float = Field(1.0, ge=0, le=100)
    """Exponent of the class score."""
    beta: float = Field(6.0, ge=0, le=100)
    """Exponent of the IoU."""

    @torch.no_grad()
    def assign(self, targets: Targets, locations: Locations, predictions: Predictions | None) -> Assignment:
        """See ``Assigner``; the weight of a location is t, scaled as said in ``_normalized``."""
        logits = None if predictions is None else predictions.logits
        predicted = boxes_of(locations, predictions)
        count, kept = len(locations.anchors), []
        for some in some_boxes(targets.mask, count):
            inside = lie_inside(locations.anchors, targets.boxes[:, some], targets.mask[:, some])
            overlap = pairwise_iou(targets.boxes[:, some], predicted)
            alignment = overlap.pow(self.beta)
            if logits is not None:
                alignment = alignment * logits_of(logits, targets.labels[:, some]).sigmoid_().pow_(self.alpha)
            alignment = alignment.masked_fill(~inside, 0)
            best, places = highest(alignment, min(self.top_k, count))
            kept.append((places, best, overlap.gather(2, places)))
        places, alignment, overlap = (torch.cat(part, 1) for part in zip(*kept, strict=True))
        owner = best_box(places, alignment > 0, overlap, count)
        assignment = assigned(targets, owner)
        weights = _normalized(assignment, owner, places, alignment, overlaps_own(assignment, predicted))
        return assignment._replace(weights=weights)


def _normalized(assignment: Assignment, owner: Tensor, places: Tensor, alignment: Tensor, overlap: Tensor) -> Tensor:
    """(B, N) fp32 t of each location, scaled so that the highest of a box is the largest IoU that the box has.

    Args:
        assignment: Of B images.
        owner: (B, N) int64 each location's box, -1 at background.
        places: (B, G, C) int64, the candidates of each box.
        alignment: (B, G, C) their t, 0 where they are not wanted.
        overlap: (B, N) IoU with the own box.
    """
    box = torch.arange(places.shape[1], device=places.device)[:, None].expand_as(places)
    flat = places.flatten(1)
    own = (owner.gather(1, flat).view_as(box) == box) & (alignment > 0)
    highest_t = alignment.masked_fill(~own, 0).amax(2, keepdim=True)
    largest = overlap.gather(1, flat).view_as(alignment).masked_fill(~own, 0).amax(2, keepdim=True)
    weights = (alignment / highest_t.clamp(min=torch.finfo(alignment.dtype).tiny) * largest).masked_fill(~own, 0)
    spread = torch.zeros_like(overlap).scatter_reduce(1, flat, weights.flatten(1), "amax")
    return spread.clamp(max=1).masked_fill(assignment.labels < 0, 0)
