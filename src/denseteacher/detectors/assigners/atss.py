"""ATSS: a threshold of its own for every box, from the statistics of the anchors around its center."""

from collections.abc import Iterator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from denseteacher.detectors.assigners.base import Assigner, Locations, Predictions
from denseteacher.detectors.assigners.candidates import assigned, best_box, lowest
from denseteacher.ops.assignment import Assignment, some_boxes
from denseteacher.ops.boxes import centers, iou
from denseteacher.structures import Targets

_MOST_LEVELS = 8
"""Levels that a pyramid can have: ``detectors.pyramid`` has strides 2 to 256."""


class ATSSAssigner(Assigner):
    """Adaptive training sample selection (Zhang et al., CVPR 2020, algorithm 1).

    Candidates of a box are the locations of every level whose centers are nearest to its own. Those whose priors
    overlap the box by at least the mean plus the standard deviation of all its candidates' IoUs, and whose center lies
    inside the box, are foreground. A location wanted by several boxes goes to the one that its prior overlaps most.
    """

    name: Literal["atss"] = "atss"
    """The adaptive threshold."""
    top_k: int = Field(9, gt=0, le=1000)
    """Candidates of a box on each level; all where a level has fewer."""

    @torch.no_grad()
    def assign(self, targets: Targets, locations: Locations, predictions: Predictions | None) -> Assignment:
        """See ``Assigner``; predictions are not looked at."""
        places, among = self._candidates(targets, locations)
        boxes = targets.boxes[:, :, None]
        overlap = iou(locations.priors[places], boxes)  # (B, G, C)
        left, top, right, bottom = boxes.unbind(-1)
        x, y = centers(locations.anchors)[places].unbind(-1)
        wanted = among & (x > left) & (x < right) & (y > top) & (y < bottom)
        wanted &= (overlap >= _threshold(overlap, among)) & targets.mask[..., None]
        return assigned(targets, best_box(places, wanted, overlap, len(locations.anchors)))

    def _candidates(self, targets: Targets, locations: Locations) -> tuple[Tensor, Tensor]:
        """(B, G, C) int64 locations and (B, G, C) bool, False at what only fills a level's room."""
        middles = centers(targets.boxes)[:, :, None]
        points = centers(locations.anchors)
        levels = []
        for rows, among in _by_level(locations.levels):
            x, y = points[rows].unbind(-1)
            level = []
            for some in some_boxes(targets.mask, len(rows)):
                middle_x, middle_y = middles[:, some].unbind(-1)  # (B, g, 1) each
                distance = (x - middle_x).square_() + (y - middle_y).square_()
                distance = distance.masked_fill_(~among, torch.inf)
                level.append(lowest(distance, min(self.top_k, len(rows)))[1])
            places = torch.cat(level, 1)
            levels.append((rows[places], among[places]))
        return torch.cat([rows for rows, _ in levels], 2), torch.cat([among for _, among in levels], 2)


def _by_level(levels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The locations of each level, in room for as many as there can be: only the device knows how many there are.

    A pyramid's levels do not grow from fine to coarse, so that level l has at most N / (l + 1) locations.

    Yields:
        (M,) int64 rows, and (M,) bool which of them are the level's.
    """
    count = len(levels)
    sizes = levels.new_zeros(_MOST_LEVELS).index_add_(0, levels, torch.ones_like(levels))
    order, starts = levels.argsort(stable=True), sizes.cumsum(0) - sizes
    for level in range(_MOST_LEVELS):
        place = torch.arange(count // (level + 1), device=levels.device)
        if len(place):
            yield order[(starts[level] + place).clamp(max=count - 1)], place < sizes[level]


def _threshold(overlap: Tensor, among: Tensor) -> Tensor:
    """(B, G, 1) mean plus unbiased standard deviation of the IoUs (B, G, C) of each box's candidates.

    In fp64, where the mean of equal numbers is that number: candidates that are all alike are all good enough.
    """
    shares = among.double()
    count = shares.sum(2, keepdim=True)
    mean = (overlap * shares).sum(2, keepdim=True) / count
    variance = ((overlap - mean).square() * shares).sum(2, keepdim=True) / (count - 1).clamp(min=1)
    return mean + variance.sqrt()
