"""The assigner of FCOS (Tian et al., 2019): center sampling, and a range of sizes for each level."""

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from denseteacher.detectors.assigners.base import Assigner, Locations, Predictions
from denseteacher.ops.assignment import BACKGROUND, Assignment, some_boxes
from denseteacher.ops.boxes import areas, centers
from denseteacher.structures import Targets


class FCOSAssigner(Assigner):
    """FCOS assignment with center sampling, over padded targets.

    A location is foreground for a box if it lies strictly inside the box's central region (the box cut to
    ``center_radius`` strides around its center) and the largest of its four distances to the box lies in
    its level's range. The range of a level of stride s is ``[size_factor / 2 * s, size_factor * s]``, open
    below on the finest and above on the coarsest level: for strides 8 to 128 and a factor of 8 the published
    borders 64, 128, 256, 512. Among several boxes the one of least area wins, the first among equals.
    """

    name: Literal["fcos"] = "fcos"
    center_radius: float = Field(1.5, ge=0)
    """Strides around a box's center that are trained on it; 0 takes the whole box."""
    size_factor: float = Field(8.0, gt=0)
    """Largest distance to a box's side that a level is trained on, in its strides."""

    def assign(self, targets: Targets, locations: Locations, predictions: Predictions | None) -> Assignment:
        """See ``Assigner``; predictions are not looked at."""
        mask, count = targets.mask, len(locations.anchors)
        least = targets.boxes.new_full((len(mask), count), torch.inf)  # the least area of each location's boxes
        best = targets.labels.new_zeros(len(mask), count)  # ... and the box that has it
        for some in some_boxes(mask, count):
            cost = areas(targets.boxes[:, some])[:, None].expand(-1, count, -1)
            cost = cost.masked_fill(~(self._fits(locations, targets.boxes[:, some]) & mask[:, None, some]), torch.inf)
            index = cost.argmin(dim=2)  # (B, N); argmin returns the first of equals
            low = cost.gather(2, index[..., None])[..., 0]
            best = torch.where(low < least, index + some.start, best)
            least = torch.minimum(low, least)
        labels = targets.labels.gather(1, best).masked_fill(~least.isfinite(), BACKGROUND)
        return Assignment(labels, targets.boxes.gather(1, best[..., None].expand(-1, -1, 4)), best)

    def _fits(self, locations: Locations, boxes: Tensor) -> Tensor:
        """(B, N, g) bool, which locations lie in the central region of a box and on a level for its size."""
        stride = locations.strides[:, None]  # (N, 1)
        left, top, right, bottom = boxes[:, None].unbind(-1)  # (B, 1, g) each
        place = centers(locations.anchors)[:, None].unbind(-1)
        reaches, depths = [], []
        # axis by axis: an operation along two numbers in memory would be many times slower
        for location, lower, upper in zip(place, (left, top), (right, bottom), strict=True):
            before, behind = location - lower, upper - location  # (B, N, g)
            reaches.append(torch.maximum(before, behind))
            if self.center_radius > 0:
                middle, radius = (lower + upper) / 2, self.center_radius * stride
                before = location - torch.maximum(lower, middle - radius)
                behind = torch.minimum(upper, middle + radius) - location
            depths.append(torch.minimum(before, behind))
        reach, inside = torch.maximum(*reaches), torch.minimum(*depths) > 0

        finest, coarsest = stride.amin(), stride.amax()
        least = torch.where(stride > finest, self.size_factor / 2 * stride, torch.zeros_like(stride))
        most = torch.where(stride < coarsest, self.size_factor * stride, torch.full_like(stride, torch.inf))
        return inside & (reach >= least) & (reach <= most)
