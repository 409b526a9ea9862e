"""Boxes that are no mistake of form and yet look wrong."""

import numpy as np
import numpy.typing as npt
import torch

from denseteacher.check.findings import Finding, Part, finding
from denseteacher.data.objects import objects_of
from denseteacher.data.records import LabeledImages
from denseteacher.ops.boxes import iou

_SAME = 0.97  # IoU of two boxes drawn around one thing twice
_THINNEST = 1.0  # px
_LONGEST = 50.0  # longer side over shorter side
_WHOLE = 0.995  # share of the image's sides


def box_findings(labeled: LabeledImages, part: Part) -> list[Finding]:
    """Thin boxes, boxes as large as their image, and boxes that stand twice."""
    boxes, labels, owner, sizes = objects_of(labeled)
    extent = boxes[:, 2:] - boxes[:, :2]
    short, long = extent.min(axis=1, initial=np.inf), extent.max(axis=1, initial=0)
    thin = (short < _THINNEST) | (long > _LONGEST * short)
    whole = (extent >= _WHOLE * sizes[:, ::-1]).all(axis=1)

    def examples(positions: npt.NDArray[np.int64]) -> list[str]:
        return [_describe(labeled, boxes, labels, owner, int(position)) for position in positions]

    twice = _repeated(boxes, labels, owner)
    return [
        *finding("warning", "thin box", part, examples(np.flatnonzero(thin)), "hardly a thing that one can learn"),
        *finding("warning", "box twice", part, examples(twice), "the same class and place: one object, counted twice"),
        *finding("info", "box as large as its image", part, examples(np.flatnonzero(whole))),
    ]


def _describe(
    labeled: LabeledImages,
    boxes: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    owner: npt.NDArray[np.int64],
    position: int,
) -> str:
    x1, y1, x2, y2 = boxes[position]
    name = labeled.categories[labels[position]].name
    return f"{labeled.images[owner[position]].name}: {name} at {x1:.4g}, {y1:.4g} of {x2 - x1:.4g} x {y2 - y1:.4g} px"


def _repeated(
    boxes: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], owner: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Positions of boxes that cover the one before, sorted by image, class and corner."""
    order = np.lexsort((*boxes.T[::-1], labels, owner))
    overlap = iou(torch.from_numpy(boxes[order[:-1]]), torch.from_numpy(boxes[order[1:]])).numpy()
    same = (owner[order[:-1]] == owner[order[1:]]) & (labels[order[:-1]] == labels[order[1:]])
    return np.sort(order[1:][same & (overlap >= _SAME)])
