"""The assigner of RetinaNet (Lin et al., 2017): the box that an anchor overlaps most."""

from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchvision.ops import box_iou

from denseteacher.detectors.assigners.base import Assigner, Locations, Misses, Predictions
from denseteacher.ops.assignment import BACKGROUND, IGNORED, Assignment
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
        overlap = _overlaps(targets, locations).masked_fill(~targets.mask[..., None], -1.0)
        best, index = overlap.max(dim=1)  # (B, N)
        most = overlap.amax(dim=2, keepdim=True)
        rescued = ((overlap == most) & (most > 0)).any(dim=1)
        labels = targets.labels.gather(1, index)
        labels = labels.masked_fill(best < self.foreground_iou, IGNORED)
        labels = labels.masked_fill(best < self.background_iou, BACKGROUND)
        labels = torch.where(rescued, targets.labels.gather(1, index), labels)
        return Assignment(labels, targets.boxes.gather(1, index[..., None].expand(-1, -1, 4)), index)

    def fitting(self, targets: Targets, locations: Locations) -> Tensor:
        """See ``Assigner``: anchors that overlap a box too much to be background."""
        fits = _overlaps(targets, locations) >= self.background_iou
        return (fits & targets.mask[..., None]).any(1)


def _overlaps(targets: Targets, locations: Locations) -> Tensor:
    """(B, G, N) IoU of the boxes with the priors."""
    overlap: Tensor = box_iou(targets.boxes.flatten(0, 1), locations.priors)
    return overlap.view(*targets.mask.shape, -1)
