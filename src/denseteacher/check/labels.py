"""What is wrong with the labels: boxes, and how the classes are spread."""

from collections import Counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from denseteacher.check.data import CheckedData
from denseteacher.check.findings import Finding, Severity, Subset, finding
from denseteacher.data.formats import VOC_CLASSES
from denseteacher.data.objects import objects_of
from denseteacher.data.records import LabeledImages
from denseteacher.ops.boxes import iou

_SAME = 0.97  # IoU of two boxes drawn around one thing twice
_THINNEST = 1.0  # px
_LONGEST = 50.0  # longer side over shorter side
_WHOLE = 0.995  # share of the image's sides


def box_findings(labeled: LabeledImages, subset: Subset) -> list[Finding]:
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
        *finding("warning", "thin box", subset, examples(np.flatnonzero(thin)), "hardly a thing that one can learn"),
        *finding(
            "warning", "box twice", subset, examples(twice), "the same class and place: one object, counted twice"
        ),
        *finding("info", "box as large as its image", subset, examples(np.flatnonzero(whole))),
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


class ClassCount(NamedTuple):
    """One class of a subset."""

    name: str
    objects: int
    images: int


def count_classes(labeled: LabeledImages) -> list[ClassCount]:
    """All classes in the order of their ids."""
    objects = objects_of(labeled)
    classes = len(labeled.categories)
    counts = np.bincount(objects.labels, minlength=classes)
    pairs = np.unique(objects.owner * classes + objects.labels)
    images = np.bincount(pairs % max(classes, 1), minlength=classes)
    return [
        ClassCount(category.name, int(counts[index]), int(images[index]))
        for index, category in enumerate(labeled.categories)
    ]


def class_findings(checked: CheckedData) -> list[Finding]:
    """Classes that have no object, have twins, or stand in one subset alone."""
    trained = {one.name: one.objects for one in count_classes(checked.labeled)}
    without = [name for name, objects in trained.items() if not objects]
    findings = [
        *_without_objects(without, fixed=tuple(trained) == VOC_CLASSES),
        *_alike([category.name for category in checked.labeled.categories]),
    ]
    if checked.validation is None:
        return findings
    validated = {one.name: one.objects for one in count_classes(checked.validation)}
    unknown = [name for name in validated if name not in trained]
    unlearned = [name for name, objects in validated.items() if objects and trained.get(name) == 0]
    unseen = [name for name, objects in trained.items() if objects and not validated.get(name)]
    both = "labeled and validation"
    return [
        *findings,
        *finding("error", "class of validation that training lacks", both, unknown, "name the classes alike"),
        *finding("warning", "class of validation that has no labeled object", both, unlearned, "its AP will be 0"),
        *finding("info", "class without objects in validation", both, unseen, "its AP is not measured"),
    ]


def _without_objects(names: list[str], *, fixed: bool) -> list[Finding]:
    """Classes that can't be learned; no wonder where they are the fixed ones of VOC."""
    severity: Severity = "info" if fixed else "warning"
    return finding(severity, "class without objects", "labeled", names, "it can't be learned")


def empty_images(labeled: LabeledImages, subset: Subset) -> list[Finding]:
    """Images without objects."""
    empty = [image.name for image, boxes in zip(labeled.images, labeled.boxes, strict=True) if not len(boxes)]
    return finding("info", "image without objects", subset, empty, "fine where there are none: all of it is background")


def _alike(names: list[str]) -> list[Finding]:
    """Names that differ in nothing but capitals, spaces and signs."""
    plain = ["".join(filter(str.isalnum, name.casefold())) or name for name in names]
    counts = Counter(plain)
    twins = [name for name, key in zip(names, plain, strict=True) if counts[key] > 1]
    return finding("warning", "class names that are almost the same", "labeled", twins, "one class by two names?")
