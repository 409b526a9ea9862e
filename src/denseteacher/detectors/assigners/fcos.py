"""The assigner of FCOS (Tian et al., 2019): center sampling, and a range of sizes for each level."""

from typing import Literal

import torch
from pydantic import Field

from denseteacher.detectors.assigners.base import Assigner, Locations, Predictions
from denseteacher.ops.assignment import BACKGROUND, Assignment
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
        stride = locations.strides[:, None]  # (N, 1)
        left, top, right, bottom = targets.boxes[:, None].unbind(-1)  # (B, 1, G) each
        place = centers(locations.anchors)[:, None].unbind(-1)
        reaches, depths = [], []
        # axis by axis: an operation along two numbers in memory would be many times slower
        for location, lower, upper in zip(place, (left, top), (right, bottom), strict=True):
            before, behind = location - lower, upper - location  # (B, N, G)
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
        in_range = (reach >= least) & (reach <= most)

        cost = areas(targets.boxes)[:, None, :].expand_as(reach)
        cost = cost.masked_fill(~(inside & in_range & targets.mask[:, None, :]), torch.inf)
        best = cost.argmin(dim=2)  # (B, N); argmin returns the first of equals
        foreground = cost.gather(2, best[..., None])[..., 0].isfinite()
        labels = targets.labels.gather(1, best).masked_fill(~foreground, BACKGROUND)
        return Assignment(labels, targets.boxes.gather(1, best[..., None].expand(-1, -1, 4)), best)
