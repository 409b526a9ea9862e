"""How much of a difference between two detectors is chance of the validation images: a paired bootstrap of AP."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from denseteacher.evaluation.arrays import Bools, EvalArrays, Floats, Ints, read_arrays
from denseteacher.evaluation.diagnostics import RECALLS
from denseteacher.evaluation.matching import IGNORED, match_groups

IOUS: Floats = np.linspace(0.5, 0.95, 10)
"""IoU thresholds at which COCO's AP matches."""
_MOST_CELLS = 2_000_000  # numbers of an intermediate array

Counts = NDArray[np.float32]  # whole numbers, of which sums below 2^24 are exact


class _Ranked(NamedTuple):
    """Detections of one class, by falling score."""

    images: Ints
    """(n,) positions of their images."""
    hits: Bools
    """(T, n) whether each is an object, at each of ``IOUS``."""
    counted: Bools
    """(T, n) False in regions to ignore."""
    objects: Counts
    """(images,) objects to find in each image."""


def resampled_ap(
    ground_truth: Mapping[str, Any],
    detectors: Sequence[Sequence[Mapping[str, Any]]],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Floats:
    """COCO's AP on validation sets of the same size, drawn from the given one with replacement (Efron, 1979).

    All detectors get the same draws, so that what is hard in an image cancels in their difference.

    Args:
        ground_truth: Content of a COCO file.
        detectors: COCO result entries of each.
        resamples: How many sets to draw.
        seed: Seed of the draws.

    Returns:
        (resamples, detectors) in percent; nan where a draw has no object.

    Raises:
        InputError: If a result is of an unknown image or not finite.
    """
    images = len(ground_truth["images"])
    draws = np.random.default_rng(seed).multinomial(images, np.full(images, 1 / images), size=resamples)
    return np.stack([weighted_ap(ground_truth, results, draws) for results in detectors], axis=1)


def weighted_ap(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], draws: Ints) -> Floats:
    """COCO's AP on sets in which each image occurs so many times.

    Detections are matched once: an image's matches are the same in every set.

    Args:
        ground_truth: Content of a COCO file.
        results: COCO result entries, at most 100 for each image and class.
        draws: (sets, images) how often each image occurs, images by rising id.

    Returns:
        (sets,) in percent; nan where a set has no object.

    Raises:
        InputError: If a result is of an unknown image or not finite.
    """
    counts = draws.astype(np.float32)
    total, classes = np.zeros(len(draws)), np.zeros(len(draws))
    for ranked in _ranked_classes(read_arrays(ground_truth, results)):
        objects = counts @ ranked.objects
        total += np.where(objects > 0, _class_ap(ranked, counts, np.maximum(objects, 1)), 0.0)
        classes += objects > 0
    mean: Floats = np.divide(total, classes, out=np.full(len(draws), np.nan), where=classes > 0)
    return 100 * mean


def _ranked_classes(arrays: EvalArrays) -> Iterator[_Ranked]:
    """The classes that have objects."""
    predictions, objects = arrays.predictions, arrays.truth
    groups = arrays.class_groups
    hits = np.stack(
        [
            match_groups(predictions.boxes, groups[0], objects.boxes, groups[1], objects.crowd, at_least=iou, last=True)
            for iou in IOUS.tolist()
        ]
    )
    for number in range(len(arrays.names)):
        own, real = predictions.classes == number, (objects.classes == number) & ~objects.crowd
        if real.any():
            per_image = np.bincount(objects.images[real], minlength=len(arrays.images)).astype(np.float32)
            yield _Ranked(predictions.images[own], hits[:, own] >= 0, hits[:, own] != IGNORED, per_image)


def _class_ap(ranked: _Ranked, counts: Counts, objects: Counts) -> Floats:
    """(sets,) mean over ``IOUS`` of one class's AP, from 0 to 1; some sets at a time, for the memory."""
    rows = max(1, _MOST_CELLS // max(1, len(ranked.images)))
    parts = [slice(first, first + rows) for first in range(0, len(counts), rows)]
    return np.concatenate([_part_ap(ranked, counts[part][:, ranked.images], objects[part]) for part in parts])


def _part_ap(ranked: _Ranked, weights: Counts, objects: Counts) -> Floats:
    """The same of some sets, with (sets, n) how often each detection occurs in them.

    An image that occurs twice has its detections twice, one right after the other: precision is the highest after the
    last of several hits, and before the first of several mistakes, so what lies between changes no AP.
    """
    everything = np.cumsum(weights, axis=1)
    total = np.zeros(len(weights))
    for hits, counted in zip(ranked.hits, ranked.counted, strict=True):
        places = np.flatnonzero(hits)  # precision and recall are read at hits alone
        true = np.cumsum(weights[:, places], axis=1)
        seen = (everything if counted.all() else np.cumsum(weights * counted, axis=1))[:, places]
        precision = true / np.maximum(seen, 1)
        best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # in double precision, in which COCO compares recalls
        reached = np.searchsorted(RECALLS, true / objects[:, None].astype(np.float64), side="right")
        total += (best * np.diff(reached, axis=1, prepend=0)).sum(axis=1) / len(RECALLS)
    return total / len(ranked.hits)
