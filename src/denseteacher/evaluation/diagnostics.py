"""What a report shows of an evaluation beyond its metrics: precision-recall curves and the confusion matrix."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from denseteacher.evaluation.matching import IGNORED, UNMATCHED, groups, match_in_turn
from denseteacher.evaluation.scene import Bools, Floats, Ints, Scene, read_scene

RECALLS: Floats = np.linspace(0, 1, 101)
"""At which COCO reads precision."""


class Curve(NamedTuple):
    """Precision against recall, of one class."""

    recall: Floats
    """(101,) ``RECALLS``."""
    precision: Floats
    """(101,) best precision among those score thresholds that reach the recall; 0 where none does."""
    scores: Floats
    """(101,) highest score threshold that reaches the recall; 0 where none does."""


def precision_recall(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, iou: float = 0.5
) -> dict[str, Curve]:
    """Precision against recall of each class that has objects, matched as COCO does at one IoU.

    The mean of a curve's precision is the class's AP at this IoU (``coco_map``'s AP50), but that COCO takes no
    more than 100 detections an image.

    Args:
        ground_truth: Content of a COCO file.
        results: COCO result entries.
        iou: Overlap at which a detection is an object.

    Raises:
        InputError: If a result is of an unknown image or not finite.
    """
    scene = read_scene(ground_truth, results)
    hits = hits_by_class(scene, iou)
    objects = np.bincount(scene.objects.classes[~scene.objects.crowd], minlength=len(scene.names))
    curves = {}
    for number in np.flatnonzero(objects):
        own = (scene.found.classes == number) & (hits != IGNORED)
        curves[scene.names[number]] = _curve(hits[own] != UNMATCHED, scene.found.scores[own], int(objects[number]))
    return curves


def mean_precision(curves: Mapping[str, Curve]) -> Floats:
    """(101,) mean over the classes of the precision at each recall; all 0 without classes."""
    mean: Floats = np.mean([curve.precision for curve in curves.values()] or [np.zeros_like(RECALLS)], axis=0)
    return mean


def confusion_matrix(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, score: float = 0.3, iou: float = 0.5
) -> Ints:
    """Counts what objects are taken for.

    By falling score each detection takes, of whatever class, the object that it overlaps most among those left.
    Those in crowd regions are not counted.

    Args:
        ground_truth: Content of a COCO file.
        results: COCO result entries.
        score: Detections below are left out.
        iou: Overlap from which on a detection is of an object.

    Returns:
        (K + 1, K + 1): rows are the truth, columns the prediction, classes by rising id. The last column counts
        objects that nothing found, the last row detections of no object.

    Raises:
        InputError: If a result is of an unknown image or not finite.
    """
    scene = read_scene(ground_truth, results)
    found = scene.found.where(scene.found.scores >= score)
    background = len(scene.names)
    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    matched = np.full(len(found.scores), UNMATCHED)
    for rows, columns in groups(found.images, scene.objects.images):
        matched[rows] = _match(scene, found.boxes[rows], columns, iou)
    hit = matched >= 0
    missed = ~scene.objects.crowd
    missed[matched[hit]] = False
    np.add.at(matrix, (scene.objects.classes[matched[hit]], found.classes[hit]), 1)
    np.add.at(matrix[background], found.classes[matched == UNMATCHED], 1)
    np.add.at(matrix[:, background], scene.objects.classes[missed], 1)
    return matrix


def hits_by_class(scene: Scene, iou: float) -> Ints:
    """For each detection the object of its class that it is, ``UNMATCHED`` or ``IGNORED``."""
    hits = np.full(len(scene.found.scores), UNMATCHED)
    found, objects = (one.images * len(scene.names) + one.classes for one in (scene.found, scene.objects))
    for rows, columns in groups(found, objects):
        hits[rows] = _match(scene, scene.found.boxes[rows], columns, iou)
    return hits


def _match(scene: Scene, boxes: Floats, columns: Ints, iou: float) -> Ints:
    """Matches boxes with some of the objects; gives positions among all of them."""
    objects = scene.objects.where(columns)
    real = columns[~objects.crowd][::-1]  # of equal overlaps COCO takes the last object
    matched = match_in_turn(boxes, scene.objects.boxes[real], objects.boxes[objects.crowd], at_least=iou)
    matched[matched >= 0] = real[matched[matched >= 0]]
    return matched


def _curve(hits: Bools, scores: Floats, objects: int) -> Curve:
    """Reads precision and score at ``RECALLS``."""
    true = np.cumsum(hits)
    recall, precision = true / objects, true / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, RECALLS, side="left")  # past the end where it isn't reached
    return Curve(RECALLS, np.append(best, 0.0)[at], np.append(scores, 0.0)[at])
