"""CrowdHuman's log-average miss rate (MR^-2, the paper's mMR), with the AP and the recall of its protocol.

The protocol is that of CrowdHuman's evaluation code, as docs/sources.md describes it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from denseteacher.errors import InputError
from denseteacher.evaluation.arrays import EvalArrays, Floats, Ints, read_arrays
from denseteacher.evaluation.matching import IGNORED, UNMATCHED, match_groups, recall_and_precision

REFERENCES = (0.01, 0.0178, 0.0316, 0.0562, 0.1, 0.1778, 0.3162, 0.5623, 1.0)
"""False positives per image at which the miss rate is read."""

_MORE_THAN_HALF = float(np.nextafter(0.5, 1))  # the protocol asks for an overlap above 0.5
_LEAST = 1e-10  # stands for a miss rate of 0, whose logarithm there is none of


class MissRate(NamedTuple):
    """What was measured. The first three are in percent, and nan where there is nobody to find."""

    mMR: float
    """Log-average miss rate; lower is better."""
    AP: float
    """Area under precision over recall, by trapezoids from the first detection on."""
    recall: float
    """Recall of all detections together."""
    fppi: Floats
    """(n,) false positives per image among the detections down to each that counts, by falling score."""
    miss_rates: Floats
    """(n,) share of the people that they miss."""
    scores: Floats
    """(n,) of those detections."""


def log_average_miss_rate(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> MissRate:
    """Compares detections of people with a CrowdHuman ground truth.

    Boxes are cut to their image. By falling score a detection takes, of the people left, the one that it overlaps
    most, with IoU above 0.5; else it is dropped if more than half of it lies in an ignore region; else it is a
    false positive. The miss rate is read where the false positives per image first reach each of ``REFERENCES``,
    or at the last detection; the result is the geometric mean.

    Args:
        ground_truth: Content of a COCO file of one class; ignore regions have ``iscrowd`` 1, images have a width
            and a height. Not changed.
        results: COCO result entries. Not changed.

    Raises:
        InputError: If there is not one class, an image has no size, or a result is of an unknown image or not
            finite.
    """
    arrays = read_arrays(ground_truth, results)
    if len(arrays.names) != 1:
        raise InputError(f"a miss rate is of one class, but there are {len(arrays.names)}: {', '.join(arrays.names)}")
    arrays = _clipped(arrays)
    people = int((~arrays.truth.crowd).sum())
    matched = match_groups(
        arrays.predictions.boxes,
        arrays.predictions.images,
        arrays.truth.boxes,
        arrays.truth.images,
        arrays.truth.crowd,
        at_least=_MORE_THAN_HALF,
    )
    counts = matched != IGNORED
    hits, scores = matched[counts] != UNMATCHED, arrays.predictions.scores[counts]
    if not people:
        return MissRate(math.nan, math.nan, math.nan, *(np.full(len(scores), math.nan),) * 2, scores)
    recall, precision = recall_and_precision(hits, people)
    fppi, miss_rates = np.cumsum(~hits) / len(arrays.images), 1 - recall
    return MissRate(
        100 * _log_average(fppi, miss_rates),
        100 * float((np.diff(recall) * (precision[1:] + precision[:-1]) / 2).sum()),
        100 * float(recall[-1]) if len(recall) else 0.0,
        fppi,
        miss_rates,
        scores,
    )


def _clipped(arrays: EvalArrays) -> EvalArrays:
    sizes = np.zeros((len(arrays.images), 2))
    for place, image in enumerate(arrays.images):
        if not image.get("width") or not image.get("height"):
            raise InputError(f"image {image['id']!r} has no width or height, which the miss rate cuts boxes to")
        sizes[place] = image["width"], image["height"]

    def cut(boxes: Floats, images: Ints) -> Floats:
        return np.clip(boxes, 0, np.tile(sizes[images], 2))

    objects, predictions = arrays.truth, arrays.predictions
    return arrays._replace(
        truth=objects._replace(boxes=cut(objects.boxes, objects.images)),
        predictions=predictions._replace(boxes=cut(predictions.boxes, predictions.images)),
    )


def _log_average(fppi: Floats, miss_rates: Floats) -> float:
    """Geometric mean of the miss rates at ``REFERENCES``."""
    if not len(fppi):
        return 1.0
    at = np.minimum(np.searchsorted(fppi, REFERENCES, side="left"), len(fppi) - 1)
    return float(np.exp(np.log(np.maximum(miss_rates[at], _LEAST)).mean()))
