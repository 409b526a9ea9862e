"""Pascal VOC's average precision at IoU 0.5, by both of its definitions."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from denseteacher.evaluation.arrays import Bools, EvalArrays, Ints, class_means, read_arrays
from denseteacher.evaluation.matching import IGNORED, UNMATCHED, best_precision, groups, iou, recall_and_precision

ELEVEN_POINTS, AREA = "VOC07 AP50", "VOC AP50"
"""AP up to VOC2009: mean of the precision at the recalls 0, 0.1, ..., 1; and since VOC2010: area under it."""

_IOU = 0.5


class VocMap(NamedTuple):
    """VOC's AP in percent; nan where there is no object to find."""

    values: dict[str, float]
    """``VOC07 AP50`` and ``VOC AP50``: means over the classes that have objects; none without classes."""
    per_class: dict[str, dict[str, float]]
    """The same of each class, by its name, in the order of the category ids."""


def voc_map(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> VocMap:
    """Compares detections with a ground truth as the VOC development kit does.

    By falling score each detection is compared with the object of its class that it overlaps most, taken or
    not: at IoU 0.5 or more it has found it, or is a false positive if another detection has. What overlaps an
    object with ``difficult`` 1 so counts neither way, and such objects need not be found; crowd regions likewise.

    The kit adds 1 to widths and heights since the boxes in VOC's files are pixels, first and last. The reader of
    the files makes their outer edges of them (x1 - 1, y1 - 1, x2, y2), so plain widths are the same here.

    Args:
        ground_truth: Content of a COCO file. Not changed.
        results: COCO result entries. Not changed.

    Raises:
        InputError: If a result is of an unknown image or not finite.
    """
    arrays = read_arrays(ground_truth, results)
    matched = _match(arrays)
    counted = ~_neither_way(arrays)
    per_class = {}
    for number, name in enumerate(arrays.names):
        hits = matched[(arrays.predictions.classes == number) & (matched != IGNORED)] != UNMATCHED
        per_class[name] = _average_precisions(hits, int((arrays.truth.classes[counted] == number).sum()))
    return VocMap(class_means(per_class), per_class)


def _neither_way(arrays: EvalArrays) -> Bools:
    return arrays.truth.difficult | arrays.truth.crowd


def _match(arrays: EvalArrays) -> Ints:
    """The object that each detection is, ``UNMATCHED`` or ``IGNORED``."""
    matched = np.full(len(arrays.predictions.scores), UNMATCHED)
    neither = _neither_way(arrays)
    for rows, columns in groups(*arrays.class_groups):
        overlap = iou(arrays.predictions.boxes[rows], arrays.truth.boxes[columns])
        reached = overlap.max(axis=1) >= _IOU
        rows, nearest = rows[reached], columns[overlap.argmax(axis=1)[reached]]
        _, first = np.unique(nearest, return_index=True)
        matched[rows[first]] = nearest[first]
        matched[rows[neither[nearest]]] = IGNORED
    return matched


def _average_precisions(hits: Bools, objects: int) -> dict[str, float]:
    """Both of them, of one class; ``hits`` are its detections by falling score."""
    if not objects:
        return {ELEVEN_POINTS: math.nan, AREA: math.nan}
    recall, precision = recall_and_precision(hits, objects)
    best = best_precision(precision)
    tenths = np.arange(11) / 10  # as exact as a recall of 3 of 10 objects is, which multiples of 0.1 are not
    return {
        ELEVEN_POINTS: 100 * float(best[np.searchsorted(recall, tenths, side="left")].mean()),
        AREA: 100 * float((np.diff(recall, prepend=0.0) * best[:-1]).sum()),
    }
