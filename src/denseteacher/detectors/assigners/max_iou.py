"""The assigner of RetinaNet (Lin et al., 2017): the box that an anchor overlaps most."""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchvision.ops import box_iou

from denseteacher.detectors.assigners.base import Assigner, Locations, Misses, Predictions
from denseteacher.ops.assignment import BACKGROUND, IGNORED, Assignment, some_boxes
from denseteacher.structures import Targets


class MaxIoUAssigner(Assigner):
    """RetinaNet's assignment, over padded targets.

    An anchor belongs to the box that it overlaps most (the first among equals): as foreground if the IoU
    reaches ``foreground_iou``, as background if it is below ``background_iou``, else it is ignored. The
    anchors that overlap some box more than all others do are foreground too, so that no box is left without;
    as in detectron2 and torchvision they are trained on the box that they themselves overlap most. Where
    anchors are locations, squares of side 8 strides stand for them.
    """

    misses: ClassVar[Misses] = Misses(
        "object that no anchor fits",
        "at the size of the training views, only their best anchor is trained on them",
        0.1,
    )

    name: Literal["max_iou"] = "max_iou"
    foreground_iou: float = Field(0.5, gt=0, le=1)
    """Anchors that overlap a box this much are trained on it."""
    background_iou: float = Field(0.4, ge=0, le=1)
    """Anchors that overlap every box less than this are background; those in between are not trained."""

    @model_validator(mode="after")
    def _check_ious(self) -> Self:
        if self.background_iou > self.foreground_iou:
            raise ValueError(
                f"background_iou is {self.background_iou}, above foreground_iou {self.foreground_iou}: "
                "an anchor can't be both"
            )
        return self

    def assign(self, targets: Targets, locations: Locations, predictions: Predictions | None) -> Assignment:
        """See ``Assigner``; predictions are not looked at."""
        shape = len(targets.mask), len(locations.priors)
        best = targets.boxes.new_full(shape, -torch.inf)  # the largest IoU of each anchor
        index = targets.labels.new_zeros(shape)  # ... and the box that it has it with
        rescued = targets.mask.new_zeros(shape)
        for some in some_boxes(targets.mask, shape[1]):
            overlap = _overlaps(targets, some, locations).masked_fill(~targets.mask[:, some, None], -1.0)
            high, box = overlap.max(dim=1)  # (B, N)
            index = torch.where(high > best, box + some.start, index)
            best = torch.maximum(high, best)
            most = overlap.amax(dim=2, keepdim=True)
            rescued |= ((overlap == most) & (most > 0)).any(dim=1)
        labels = targets.labels.gather(1, index)
        labels = labels.masked_fill(best < self.foreground_iou, IGNORED)
        labels = labels.masked_fill(best < self.background_iou, BACKGROUND)
        labels = torch.where(rescued, targets.labels.gather(1, index), labels)
        return Assignment(labels, targets.boxes.gather(1, index[..., None].expand(-1, -1, 4)), index)

    def fitting(self, targets: Targets, locations: Locations) -> Tensor:
        """See ``Assigner``: anchors that overlap a box too much to be background."""
        found = targets.mask.new_zeros(len(targets.mask), len(locations.priors))
        for some in some_boxes(targets.mask, len(locations.priors)):
            fits = _overlaps(targets, some, locations) >= self.background_iou
            found |= (fits & targets.mask[:, some, None]).any(1)
        return found


def _overlaps(targets: Targets, some: slice, locations: Locations) -> Tensor:
    """(B, g, N) IoU of some of the boxes with the priors."""
    boxes = targets.boxes[:, some]
    overlap: Tensor = box_iou(boxes.flatten(0, 1), locations.priors)
    return overlap.view(*boxes.shape[:2], -1)
