"""What a report shows of an evaluation beyond its metrics: what is found and what is wrong, curves, confusions."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from denseteacher.evaluation.arrays import Bools, EvalArrays, Floats, Ints, read_arrays
from denseteacher.evaluation.matching import IGNORED, UNMATCHED, best_precision, match_groups, recall_and_precision

RECALLS: Floats = np.linspace(0, 1, 101)
"""Recalls at which COCO reads precision."""


class MatchedArrays(NamedTuple):
    """Which detection is which object of its class, as COCO matches at one IoU.

    Matching goes by falling score, so it holds at every score threshold: a lower detection changes no higher one.
    """

    arrays: EvalArrays
    hits: Ints
    """(n,) for each detection the object it is, ``UNMATCHED`` or ``IGNORED``."""
    found_at: Floats
    """(m,) for each object the score of the detection that is it; 0 where none is."""


class Curve(NamedTuple):
    """Precision against recall, of one class."""

    recall: Floats
    """(101,) ``RECALLS``."""
    precision: Floats
    """(101,) best precision among those score thresholds that reach the recall; 0 where none does."""
    scores: Floats
    """(101,) highest score threshold that reaches the recall; 0 where none does."""


def match_arrays(
    ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], *, iou: float = 0.5
) -> MatchedArrays:
    """Matches detections with a ground truth.

    Args:
        ground_truth: Content of a COCO file.
        results: COCO result entries.
        iou: Overlap from which on a detection is an object.

    Raises:
        InputError: If a result is of an unknown image or not finite.
    """
    arrays = read_arrays(ground_truth, results)
    hits = _match(arrays, *arrays.class_groups, iou)
    found_at = np.zeros(len(arrays.truth.classes))
    found_at[hits[hits >= 0]] = arrays.predictions.scores[hits >= 0]
    return MatchedArrays(arrays, hits, found_at)


def precision_recall(matched: MatchedArrays) -> dict[str, Curve]:
    """Precision against recall of each class that has objects.

    The mean of a curve's precision is the class's AP at this IoU (``coco_map``'s AP50), but that COCO takes no
    more than 100 detections an image.
    """
    arrays, hits, _ = matched
    objects = np.bincount(arrays.truth.classes[~arrays.truth.crowd], minlength=len(arrays.names))
    curves = {}
    for number in np.flatnonzero(objects):
        own = (arrays.predictions.classes == number) & (hits != IGNORED)
        curves[arrays.names[number]] = _curve(
            hits[own] != UNMATCHED, arrays.predictions.scores[own], int(objects[number])
        )
    return curves


def mean_precision(curves: Mapping[str, Curve]) -> Floats:
    """(101,) mean over the classes of the precision at each recall; all 0 without classes."""
    mean: Floats = np.mean([curve.precision for curve in curves.values()] or [np.zeros_like(RECALLS)], axis=0)
    return mean


def worst_images(matched: MatchedArrays, *, above: float, most: int) -> list[Any]:
    """Ids of the images with the most mistakes, worst first: objects missed and wrong detections above a score."""
    arrays = matched.arrays
    missed = (matched.found_at <= above) & ~arrays.truth.crowd
    wrong = (matched.hits == UNMATCHED) & (arrays.predictions.scores > above)
    count = np.bincount(arrays.truth.images[missed], minlength=len(arrays.images)).astype(np.float64)
    # of images with as many mistakes the one with the surer ones
    np.add.at(count, arrays.predictions.images[wrong], 1 + 0.01 * arrays.predictions.scores[wrong])
    order = np.argsort(-count, kind="stable")[:most]
    return [arrays.images[place]["id"] for place in order.tolist() if count[place]]


def confusion_matrix(arrays: EvalArrays, *, score: float = 0.3, iou: float = 0.5) -> Ints:
    """Counts what objects are taken for.

    By falling score each detection takes, of whatever class, the object that it overlaps most among those left.
    Those in crowd regions are not counted.

    Args:
        arrays: Ground truth and detections.
        score: Detections below are left out.
        iou: Overlap from which on a detection is of an object.

    Returns:
        (K + 1, K + 1): rows are the truth, columns the prediction, classes by rising id. The last column counts
        objects that nothing found, the last row detections of no object.
    """
    predictions = arrays.predictions.where(arrays.predictions.scores >= score)
    matched = _match(arrays._replace(predictions=predictions), predictions.images, arrays.truth.images, iou)
    hit, background = matched >= 0, len(arrays.names)
    missed = ~arrays.truth.crowd
    missed[matched[hit]] = False
    matrix = np.zeros((background + 1, background + 1), dtype=np.int64)
    np.add.at(matrix, (arrays.truth.classes[matched[hit]], predictions.classes[hit]), 1)
    np.add.at(matrix[background], predictions.classes[matched == UNMATCHED], 1)
    np.add.at(matrix[:, background], arrays.truth.classes[missed], 1)
    return matrix


def confusions(matrix: Ints, names: Sequence[str], most: int = 8) -> list[tuple[str, str, int]]:
    """The most frequent mistakes of one class for another: truth, prediction, count."""
    pairs = matrix[:-1, :-1].copy()
    np.fill_diagonal(pairs, 0)
    order = np.argsort(-pairs, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(order, pairs.shape)
    return [
        (names[row], names[column], int(pairs[row, column]))
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        if pairs[row, column]
    ]


def _match(arrays: EvalArrays, prediction_groups: Ints, object_groups: Ints, iou: float) -> Ints:
    """Matches as COCO does, within groups."""
    predictions, objects = arrays.predictions, arrays.truth
    return match_groups(
        predictions.boxes, prediction_groups, objects.boxes, object_groups, objects.crowd, at_least=iou, last=True
    )


def _curve(hits: Bools, scores: Floats, objects: int) -> Curve:
    """Reads precision and score at ``RECALLS``."""
    recall, precision = recall_and_precision(hits, objects)
    at = np.searchsorted(recall, RECALLS, side="left")  # past the end where it isn't reached
    return Curve(RECALLS, best_precision(precision)[at], np.append(scores, 0.0)[at])
