"""Where objects of the training scale lie between the levels of a pyramid, for all objects at once."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from denseteacher.data.augment.weak import WeakView
from denseteacher.data.objects import Objects
from denseteacher.detectors import FCOSConfig, RetinaNetConfig
from denseteacher.detectors.retinanet import ANCHOR_RATIOS, ANCHOR_SCALES
from denseteacher.ops.anchors import box_anchors
from denseteacher.ops.boxes import iou

Array = npt.NDArray[np.float64]
_ALLOWED = {"fcos": 0.02, "retinanet": 0.1}  # share of objects that go without a place in ordinary data


class Scales(NamedTuple):
    """What becomes of each of the n objects."""

    detector: Literal["fcos", "retinanet"]
    strides: list[int]
    """Of the levels, finest first."""
    boxes: Array
    """(n, 4) xyxy pixels of the weak view of middle size."""
    scale: Array
    """(n,) pixels of the view a pixel of the file."""
    level: npt.NDArray[np.int64]
    """(n,) position of the level that trains it; -1 where FCOS has no location for it, or where RetinaNet has no
    anchor for it but the best one, which is always trained."""

    @property
    def counts(self) -> list[int]:
        """Objects a level."""
        return [int((self.level == level).sum()) for level in range(len(self.strides))]

    @property
    def missed(self) -> npt.NDArray[np.int64]:
        """Positions of the objects that no level trains."""
        return np.flatnonzero(self.level < 0)

    @property
    def few(self) -> float:
        """Objects that may go without a level in ordinary data: tiny or thin ones."""
        return _ALLOWED[self.detector] * len(self.level)

    @property
    def misses_many(self) -> bool:
        """Whether more than a few are missed."""
        return len(self.missed) > self.few

    @property
    def longest(self) -> Array:
        """(n,) the longer side."""
        longest: Array = self.extents.max(axis=1, initial=0)
        return longest

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


def measure_scales(objects: Objects, weak: WeakView, detector: FCOSConfig | RetinaNetConfig) -> Scales:
    """Which level of the detector trains which object, were it the only one of its image."""
    scale = middle_scale(objects.sizes, weak)
    boxes = objects.boxes * scale[:, None]
    strides = [2**level for level in range(detector.levels[0], detector.levels[1] + 1)]
    if isinstance(detector, FCOSConfig):
        fit = np.stack([_locations(boxes, stride, strides, detector) for stride in strides], axis=1)
        enough = 1.0
    else:
        sizes = objects.sizes * scale[:, None]
        fit = np.stack([_best_overlap(boxes, sizes, stride, detector) for stride in strides], axis=1)
        enough = detector.background_iou
    level = np.where(fit.max(axis=1, initial=0) >= enough, fit.argmax(axis=1), -1)
    return Scales(detector.name, strides, boxes, scale, level)


def _locations(boxes: Array, stride: int, strides: list[int], config: FCOSConfig) -> Array:
    """(n,) locations of one level that FCOS trains on each box: ``ops.assigners.assign_fcos``, counted.

    The largest distance to a side is the larger of those along x and along y. So the locations within the upper
    border of the level's range are a rectangle of the grid, and those below its lower border another one in it.
    """
    most = config.size_factor if stride < strides[-1] else np.inf
    least = config.size_factor / 2 if stride > strides[0] else 0.0
    grid = boxes / stride - config.location_offset
    lower, upper = grid[:, :2], grid[:, 2:]
    inner_lower, inner_upper = lower, upper
    if config.center_radius > 0:
        middle = (lower + upper) / 2
        inner_lower = np.maximum(lower, middle - config.center_radius)
        inner_upper = np.minimum(upper, middle + config.center_radius)
    first = np.maximum(np.floor(inner_lower) + 1, np.ceil(upper - most))
    last = np.minimum(np.ceil(inner_upper) - 1, np.floor(lower + most))
    too_near = _points(np.maximum(first, np.floor(upper - least) + 1), np.minimum(last, np.ceil(lower + least) - 1))
    return _points(first, last) - too_near


def _points(first: Array, last: Array) -> Array:
    """(n,) points of the grid in rectangles, from (n, 2) first to last column and row."""
    points: Array = np.maximum(last - first + 1, 0).prod(axis=1)
    return points


def _best_overlap(boxes: Array, sizes: Array, stride: int, config: RetinaNetConfig) -> Array:
    """(n,) IoU of each box with the anchor of one level that overlaps it most."""
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    last = np.ceil(sizes[:, ::-1] / stride) - 1
    location = torch.from_numpy(np.clip(np.round(center / stride), 0, last) * stride)
    sides = [config.anchor_scale * scale for scale in ANCHOR_SCALES]
    anchors = box_anchors([(1, 1)], [stride], sides, ANCHOR_RATIOS, torch.device("cpu"))
    overlap = iou(torch.from_numpy(boxes)[:, None], anchors + location.repeat(1, 2)[:, None])
    best: Array = overlap.amax(1).double().numpy()
    return best
