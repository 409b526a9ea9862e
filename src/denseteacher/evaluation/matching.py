"""Which detection is which object, and the precision that follows: what the metrics share."""

from collections.abc import Iterator

import numpy as np

from denseteacher.evaluation.arrays import Bools, Floats, Ints

UNMATCHED, IGNORED = -1, -2
"""Values in place of an object's position: a mistake; a detection that counts neither way."""


def iou(first: Floats, second: Floats) -> Floats:
    """(n, m) intersection over union of (n, 4) and (m, 4) xyxy boxes; 0 where both have no area."""
    common = _intersection(first, second)
    return _ratio(common, _area(first)[:, None] + _area(second)[None] - common)


def covered_share(first: Floats, second: Floats) -> Floats:
    """(n, m) share of each first box that lies in each second one; 0 for a box without area."""
    return _ratio(_intersection(first, second), np.broadcast_to(_area(first)[:, None], (len(first), len(second))))


def match_in_turn(predictions: Floats, objects: Floats, ignored: Floats, *, at_least: float) -> Ints:
    """Gives each detection of one image, in turn, the object it overlaps most among those that are left.

    A detection that gets none but lies in an ignored region counts neither way; a region takes any number.

    Args:
        predictions: (n, 4) xyxy boxes by falling score.
        objects: (m, 4) boxes to find; of equal overlaps the first is taken.
        ignored: (k, 4) regions.
        at_least: IoU with an object, and share of the detection in a region, that it takes; above 0.

    Returns:
        (n,) position of the object, ``UNMATCHED`` or ``IGNORED``.
    """
    matched = np.full(len(predictions), UNMATCHED, dtype=np.int64)
    overlap = iou(predictions, objects)
    reached = overlap >= at_least
    for row in np.flatnonzero(reached.any(axis=1)):
        best = int(overlap[row].argmax())
        if overlap[row, best] >= at_least:
            matched[row] = best
            overlap[:, best] = 0.0  # it is taken
    inside = (covered_share(predictions, ignored) >= at_least).any(axis=1)
    matched[(matched == UNMATCHED) & inside] = IGNORED
    return matched


def match_groups(
    predictions: Floats,
    prediction_groups: Ints,
    objects: Floats,
    object_groups: Ints,
    ignored: Bools,
    *,
    at_least: float,
    last: bool = False,
) -> Ints:
    """``match_in_turn`` within each group, such as an image or a class of an image.

    Args:
        predictions: (n, 4) xyxy boxes by falling score.
        prediction_groups: (n,) group of each prediction.
        objects: (m, 4) boxes, the regions to ignore among them.
        object_groups: (m,) group of each.
        ignored: (m,) which of them are such regions.
        at_least: See there.
        last: Of equal overlaps take the last object, as COCO does, and not the first.

    Returns:
        (n,) position among ``objects``, ``UNMATCHED`` or ``IGNORED``.
    """
    matched = np.full(len(predictions), UNMATCHED, dtype=np.int64)
    for rows, columns in groups(prediction_groups, object_groups):
        real, regions = columns[~ignored[columns]], columns[ignored[columns]]
        real = real[::-1] if last else real
        own = match_in_turn(predictions[rows], objects[real], objects[regions], at_least=at_least)
        own[own >= 0] = real[own[own >= 0]]
        matched[rows] = own
    return matched


def groups(predictions: Ints, objects: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Positions of the detections and of the objects of each group that has both, in their order.

    Args:
        predictions: (n,) group of each detection, such as its image.
        objects: (m,) group of each object.
    """
    orders = [np.argsort(column, kind="stable") for column in (predictions, objects)]
    shared = np.intersect1d(predictions, objects)
    cuts = [
        zip(
            np.searchsorted(column[order], shared, side="left").tolist(),
            np.searchsorted(column[order], shared, side="right").tolist(),
            strict=True,
        )
        for column, order in zip((predictions, objects), orders, strict=True)
    ]
    for (first, last), (begin, end) in zip(*cuts, strict=True):
        yield orders[0][first:last], orders[1][begin:end]


def recall_and_precision(hits: Bools, objects: int) -> tuple[Floats, Floats]:
    """(n,) each, of the detections down to each one.

    Args:
        hits: (n,) whether each detection is an object, by falling score.
        objects: How many there are to find, at least one.
    """
    true = np.cumsum(hits)
    return true / objects, true / np.arange(1, len(hits) + 1)


def best_precision(precision: Floats) -> Floats:
    """(n + 1,) highest precision from each detection on; 0 after the last, for recalls that are not reached."""
    best: Floats = np.append(np.maximum.accumulate(precision[::-1])[::-1], 0.0)
    return best


def _intersection(first: Floats, second: Floats) -> Floats:
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    sides = np.minimum(first[:, None, 2:], second[None, :, 2:]) - corner
    product: Floats = sides.clip(min=0).prod(axis=2)
    return product


def _area(boxes: Floats) -> Floats:
    product: Floats = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return product


def _ratio(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
