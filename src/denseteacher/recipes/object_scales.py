"""Where objects of the training scale lie between the levels of a pyramid, as the detector's own assigner has it."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from denseteacher.data.augment.weak import WeakView, pad_targets
from denseteacher.data.objects import Objects
from denseteacher.detectors import OneStageDetector
from denseteacher.detectors.assigners import Misses
from denseteacher.ops.anchors import valid_locations

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
_LOOKED_AT = 1000  # objects, evenly spread over all, that are enough to tell a share of 2 %
_AT_ONCE = 2**21  # pairs of an object and an anchor


class Scales(NamedTuple):
    """What becomes of the n objects that were looked at."""

    misses: Misses
    """What it means to be missed by this detector."""
    strides: list[int]
    """Strides of the levels, finest first."""
    looked_at: Indices
    """(n,) positions of the objects among all; a thousand of them, evenly spread, where there are more."""
    boxes: Array
    """(n, 4) xyxy pixels of the weak view of middle size."""
    scale: Array
    """(n,) pixels of the view a pixel of the file."""
    level: Indices
    """(n,) the level with most anchors that fit the object (``OneStageDetector.fitting``); -1 where none does."""

    @property
    def counts(self) -> list[int]:
        """Objects a level."""
        return [int((self.level == level).sum()) for level in range(len(self.strides))]

    @property
    def missed(self) -> Indices:
        """Rows of the objects that no level trains."""
        return np.flatnonzero(self.level < 0)

    @property
    def few(self) -> float:
        """Objects that may go without a level in ordinary data: tiny or thin ones."""
        return self.misses.ordinary * len(self.level)

    @property
    def misses_many(self) -> bool:
        """Whether more than a few are missed."""
        return len(self.missed) > self.few

    @property
    def extents(self) -> Array:
        """(n, 2) width and height."""
        extents: Array = self.boxes[:, 2:] - self.boxes[:, :2]
        return extents


def middle_scale(sizes: Array, weak: WeakView) -> Array:
    """(n,) what images of these heights and widths are multiplied by in the weak view of middle size."""
    short = float(np.median(weak.sides))
    scale: Array = np.minimum(short / sizes.min(axis=1, initial=np.inf), weak.bound / sizes.max(axis=1, initial=1))
    return scale


@torch.no_grad()
def measure_scales(objects: Objects, weak: WeakView, detector: OneStageDetector) -> Scales:
    """Which level of the detector trains which object, were it the only one of its image.

    Args:
        objects: All objects; where they are more than a thousand, as many of them are looked at.
        weak: The weak view, without ``auto`` sizes.
        detector: The detector whose assigner it is; its weights are not asked for.
    """
    count = len(objects.labels)
    looked_at = np.linspace(0, count - 1, min(count, _LOOKED_AT)).astype(np.int64)
    sizes = objects.sizes[looked_at]
    scale = middle_scale(sizes, weak)
    boxes = objects.boxes[looked_at] * scale[:, None]
    level = np.full(len(boxes), -1)
    for rows, canvas, origin in _windows(boxes, detector.strides[-1]):
        limits = sizes[rows] * scale[rows, None] - origin[:, ::-1]
        level[rows] = _levels(detector, canvas, boxes[rows] - np.tile(origin, 2), limits)
    return Scales(detector.misses, detector.strides, looked_at, boxes, scale, level)


def _windows(boxes: Array, grid: int) -> Iterator[tuple[Indices, tuple[int, int], Array]]:
    """Parts of the images that hold all anchors about the objects, which are far fewer than those of whole images.

    A window begins at a multiple of the coarsest stride, where the locations of all levels are those of the image.

    Yields:
        Rows of objects with windows of one size, its height and width, and the (n, 2) x and y where they begin.
    """
    first = np.floor(boxes[:, :2] / grid)
    cells = (np.floor(boxes[:, 2:] / grid) - first + 2).astype(np.int64)  # the location beyond the box may be nearest
    for columns, rows in np.unique(cells, axis=0):
        same = np.flatnonzero((cells == (columns, rows)).all(axis=1))
        yield same, (int(rows) * grid, int(columns) * grid), first[same] * grid


def _levels(detector: OneStageDetector, canvas: tuple[int, int], boxes: Array, limits: Array) -> Indices:
    """(n,) the level with most anchors that fit an object, alone on its canvas; -1 where none does.

    Args:
        detector: The detector.
        canvas: Height and width.
        boxes: (n, 4) the objects.
        limits: (n, 2) height and width of what of the canvas is image.
    """
    anchors = detector.anchors(canvas, torch.device("cpu"))
    members = functional.one_hot(detector.levels(anchors), len(detector.strides)).float()
    found = []
    pieces = -(-len(boxes) * len(anchors) // _AT_ONCE)
    for alone, limit in zip(np.array_split(boxes, pieces), np.array_split(limits, pieces), strict=True):
        targets = pad_targets(list(alone[:, None].astype(np.float32)), list(np.zeros((len(alone), 1), np.int64)))
        fitting = detector.fitting(targets, anchors) & valid_locations(anchors, torch.from_numpy(limit))
        most, best = (fitting.float() @ members).max(1)  # the finest among equals
        found.append(best.masked_fill(most == 0, -1).numpy())
    return np.concatenate(found)
