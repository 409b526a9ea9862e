"""Precision, recall and F1 at every score threshold, and the threshold at which F1 is best."""

from typing import NamedTuple

import numpy as np

from denseteacher.evaluation.arrays import Bools, Floats
from denseteacher.evaluation.diagnostics import MatchedArrays
from denseteacher.evaluation.matching import IGNORED, UNMATCHED, recall_and_precision

SCORES: Floats = np.linspace(0, 1, 101)
"""Thresholds at which the curves are drawn."""


class OperatingPoint(NamedTuple):
    """What a score threshold gives; shares of 1, not percent."""

    score: float
    """Detections above are kept: halfway between the lowest score that is kept and the next lower one."""
    f1: float
    """Harmonic mean of precision and recall."""
    precision: float
    recall: float


class ScoreCurve(NamedTuple):
    """Precision, recall and F1 of the detections down to each of n different scores."""

    scores: Floats
    """(n,) by falling score."""
    precision: Floats
    """(n,) share of the kept detections that are objects."""
    recall: Floats
    """(n,) share of the objects that are found."""

    @property
    def f1(self) -> Floats:
        """(n,) harmonic mean of precision and recall; 0 where both are."""
        both = self.precision + self.recall
        product: Floats = 2 * self.precision * self.recall
        return np.divide(product, both, out=np.zeros_like(both), where=both > 0)

    @property
    def best(self) -> OperatingPoint | None:
        """The point with the highest F1, of equal ones that with the highest score; None where no object is found."""
        f1 = self.f1
        if not f1.any():
            return None
        at = int(f1.argmax())
        below = self.scores[at + 1] if at + 1 < len(self.scores) else 0.0
        middle = (self.scores[at] + below) / 2
        return OperatingPoint(float(middle), float(f1[at]), float(self.precision[at]), float(self.recall[at]))

    def drawn(self) -> "ScoreCurve":
        """The curve at those of ``SCORES`` above which there is a detection, by rising score."""
        kept = len(self.scores) - np.searchsorted(self.scores[::-1], SCORES, side="right")
        at = kept[kept > 0] - 1
        return ScoreCurve(SCORES[kept > 0], self.precision[at], self.recall[at])


class ScoreCurves(NamedTuple):
    """The curve of each class that has objects, and that of all together."""

    classes: dict[str, ScoreCurve]
    overall: ScoreCurve
    """Curve of one threshold for all classes, in which each object and detection counts once."""


class BestPoints(NamedTuple):
    """The operating points with the highest F1; None where no object is found."""

    overall: OperatingPoint | None
    classes: dict[str, OperatingPoint | None]
    """Points of the classes that have objects."""


def score_curves(matched: MatchedArrays) -> ScoreCurves:
    """The curves at the IoU of the matching.

    Matching goes by falling score, so that leaving out the lower detections changes no match above them. Detections
    in crowd regions count neither way.
    """
    arrays, hits, _ = matched
    real = arrays.truth.classes[~arrays.truth.crowd]
    objects = np.bincount(real, minlength=len(arrays.names))
    counted, scores, classes = hits != IGNORED, arrays.predictions.scores, arrays.predictions.classes
    curves = {}
    for number in np.flatnonzero(objects):
        own = counted & (classes == number)
        curves[arrays.names[number]] = _curve(hits[own] != UNMATCHED, scores[own], int(objects[number]))
    return ScoreCurves(curves, _curve(hits[counted] != UNMATCHED, scores[counted], len(real)))


def best_points(curves: ScoreCurves) -> BestPoints:
    """The best operating point of each curve."""
    return BestPoints(curves.overall.best, {name: curve.best for name, curve in curves.classes.items()})


def _curve(hits: Bools, scores: Floats, objects: int) -> ScoreCurve:
    """The curve of detections by falling score; of equal scores all are kept or none."""
    if not objects:
        return ScoreCurve(*np.zeros((3, 0)))
    recall, precision = recall_and_precision(hits, objects)
    last = np.flatnonzero(np.append(np.diff(scores) != 0, True)) if len(scores) else np.zeros(0, np.int64)
    return ScoreCurve(scores[last], precision[last], recall[last])
