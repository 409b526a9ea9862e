"""Labels that are probably wrong or missing: confident detections against labels.

Each fault has a score between 0 and 1: how strongly the detector contradicts the label, times how far its detections of
that class can be trusted on these very labels, so that what it often gets wrong itself comes late.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from denseteacher.evaluation.arrays import Bools, EvalArrays, Floats, Ints
from denseteacher.evaluation.matching import covered_share, groups, iou

FaultKind = Literal["missed", "phantom", "other class", "loose box"]
"""An object without a label; a label without an object; a label of another class; a box that does not fit."""

COVERED = 0.3
"""IoU from which a label and a detection are about the same place."""
SAME = 0.5
"""IoU from which they are about the same object."""
TIGHT = 0.7
"""IoU from which the box of a label fits."""
EXPECTED = 0.02
"""Share of labels that are expected to be phantoms: of as many unseen ones, that part is likely one."""


class LabelFault(NamedTuple):
    """A label that is probably wrong, or a place that probably lacks one."""

    kind: FaultKind
    score: float
    """How probable it is compared with the others, from 0 to 1."""
    image: int
    """Position in ``EvalArrays.images``."""
    label: int | None
    """Position in ``EvalArrays.truth``; None where a label is missing."""
    detection: int | None
    """Position in ``EvalArrays.predictions``; None where there is nothing to see."""


class _Seen(NamedTuple):
    """What the detector says of each label, and the labels of each detection."""

    any: Floats
    """(m,) highest score of a detection of any class at a label, from IoU ``COVERED`` on; 0 where there is none."""
    own: Floats
    """(m,) highest score of one of the label's class, from ``SAME`` on."""
    tight: Floats
    """(m,) highest score of one of the label's class, from ``TIGHT`` on."""
    other: Ints
    """(m,) best detection of another class, from ``SAME`` on, that is on no label of its own class; -1: none."""
    loose: Ints
    """(m,) detection of the label's class, between ``COVERED`` and ``TIGHT``, that contradicts it most; -1: none."""
    looseness: Floats
    """(m,) score of that detection times how far it is from fitting: 1 at ``COVERED``, 0 at ``TIGHT``."""
    fit: Floats
    """(n,) highest IoU of each detection with a label of its class."""
    covered: Floats
    """(n,) highest IoU with a label of any class."""
    counted: Bools
    """(n,) detections that lie in no region to ignore."""


def label_faults(arrays: EvalArrays, *, at_least: float = 0.0) -> list[LabelFault]:
    """Faults of labels by falling score; a label has its most probable one only.

    A label's strength of contradiction is

    - ``phantom``: 1 - the highest score of any detection there,
    - ``other class``: the score of another class's detection less the highest one of its own class,
    - ``loose box``: the looseness (``_Seen``) less the highest score of a detection that fits,

    and that of a detection that no label covers (``missed``) is its score. A phantom's trust is ``EXPECTED`` / (
    ``EXPECTED`` + the share of its class's labels that are seen no better, without itself): a detector that overlooks
    many objects says little by overlooking one. That of the other kinds is the share of the class's detections with the
    same score or more that are on a label of their class (``loose box``: that fit one), where the case itself counts
    for the detector.

    Args:
        arrays: Labels as the truth, and the detections.
        at_least: Faults of a lower score are left out.
    """
    truth, predictions = arrays.truth, arrays.predictions
    seen = _look(arrays)
    same = _trust(arrays, seen, SAME)
    faults = _missed(arrays, seen, same)
    fitting = _trust(arrays, seen, TIGHT)
    padded = np.append(predictions.scores, 0.0)  # of -1
    by_kind: dict[FaultKind, tuple[Floats, Ints]] = {
        "phantom": ((1 - seen.any) * _rarely_unseen(arrays, seen), np.full(len(truth.boxes), -1)),
        "other class": ((padded[seen.other] - seen.own) * np.append(same, 0.0)[seen.other], seen.other),
        "loose box": ((seen.looseness - seen.tight) * np.append(fitting, 0.0)[seen.loose], seen.loose),
    }
    kinds = list(by_kind)
    table = np.stack([by_kind[kind][0] for kind in kinds])
    for label in np.flatnonzero(~truth.crowd):
        best = int(table[:, label].argmax())
        detection = int(by_kind[kinds[best]][1][label])
        one = float(table[best, label]), int(truth.images[label]), int(label), None if detection < 0 else detection
        faults.append(LabelFault(kinds[best], *one))
    kept = [fault for fault in faults if fault.score > 0 and fault.score >= at_least]
    return sorted(kept, key=_rank)


def _rank(fault: LabelFault) -> tuple[float, int, bool, int]:
    place = fault.detection if fault.label is None else fault.label
    return -fault.score, fault.image, fault.label is None, place or 0


def _look(arrays: EvalArrays) -> _Seen:
    truth, predictions = arrays.truth, arrays.predictions
    m, n = len(truth.boxes), len(predictions.boxes)
    seen = _Seen(
        any=np.zeros(m),
        own=np.zeros(m),
        tight=np.zeros(m),
        other=np.full(m, -1, dtype=np.int64),
        loose=np.full(m, -1, dtype=np.int64),
        looseness=np.zeros(m),
        fit=np.zeros(n),
        covered=np.zeros(n),
        counted=np.ones(n, dtype=np.bool_),
    )
    for rows, columns in groups(predictions.images, truth.images):
        real, regions = columns[~truth.crowd[columns]], columns[truth.crowd[columns]]
        inside = covered_share(predictions.boxes[rows], truth.boxes[regions]) >= SAME
        seen.counted[rows] = ~inside.any(axis=1)
        _look_at_image(arrays, rows[seen.counted[rows]], real, seen)
    return seen


def _look_at_image(arrays: EvalArrays, rows: Ints, columns: Ints, seen: _Seen) -> None:
    """Fills in what concerns these detections and labels, which are those of one image."""
    if not len(rows) or not len(columns):
        return
    truth, predictions = arrays.truth, arrays.predictions
    overlap = iou(predictions.boxes[rows], truth.boxes[columns])
    is_own = predictions.classes[rows, None] == truth.classes[None, columns]
    scores = np.broadcast_to(predictions.scores[rows, None], overlap.shape)
    seen.covered[rows] = overlap.max(axis=1)
    seen.fit[rows] = np.where(is_own, overlap, 0.0).max(axis=1)
    seen.any[columns] = np.where(overlap >= COVERED, scores, 0.0).max(axis=0)
    seen.own[columns] = np.where(is_own & (overlap >= SAME), scores, 0.0).max(axis=0)
    seen.tight[columns] = np.where(is_own & (overlap >= TIGHT), scores, 0.0).max(axis=0)
    free = ~is_own & (overlap >= SAME) & (seen.fit[rows, None] < SAME)
    other = np.where(free, scores, 0.0)
    seen.other[columns] = np.where(other.max(axis=0) > 0, rows[other.argmax(axis=0)], -1)
    distance = (TIGHT - overlap) / (TIGHT - COVERED)
    loose = np.where(is_own & (overlap >= COVERED) & (overlap < TIGHT), scores * distance, 0.0)
    seen.looseness[columns] = loose.max(axis=0)
    seen.loose[columns] = np.where(loose.max(axis=0) > 0, rows[loose.argmax(axis=0)], -1)


def _missed(arrays: EvalArrays, seen: _Seen, trust: Floats) -> list[LabelFault]:
    predictions = arrays.predictions
    chosen = np.flatnonzero(seen.counted & (seen.covered < COVERED))
    return [
        LabelFault("missed", float(predictions.scores[row] * trust[row]), int(predictions.images[row]), None, int(row))
        for row in chosen
    ]


def _trust(arrays: EvalArrays, seen: _Seen, fit: float) -> Floats:
    """(n,) share of a class's detections with the score of each or more that fit a label; itself counts as one."""
    predictions = arrays.predictions
    trust = np.zeros(len(predictions.scores))
    for label in range(len(arrays.names)):
        rows = np.flatnonzero((predictions.classes == label) & seen.counted)
        scores, hits = predictions.scores[rows], seen.fit[rows] >= fit
        until = np.searchsorted(-scores, -scores, side="right")  # those of the same score too
        trust[rows] = (np.cumsum(hits)[until - 1] + ~hits) / until
    return trust


def _rarely_unseen(arrays: EvalArrays, seen: _Seen) -> Floats:
    """(m,) ``EXPECTED`` over itself plus the share of a class's other labels that are seen no better than each."""
    truth = arrays.truth
    trust = np.zeros(len(truth.boxes))
    for label in range(len(arrays.names)):
        columns = np.flatnonzero((truth.classes == label) & ~truth.crowd)
        ordered = np.sort(seen.any[columns])
        others = np.searchsorted(ordered, seen.any[columns], side="right") - 1
        trust[columns] = EXPECTED / (EXPECTED + others / max(1, len(columns)))
    return trust


def count_kinds(faults: Sequence[LabelFault]) -> dict[FaultKind, int]:
    """How many there are of each kind."""
    kinds: tuple[FaultKind, ...] = ("missed", "phantom", "other class", "loose box")
    return {kind: sum(fault.kind == kind for fault in faults) for kind in kinds}
