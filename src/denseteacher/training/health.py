"""What a run's numbers say about its health, in sentences with what to do."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

CLASS_KL, IMAGES_WITHOUT, LABELED_WITHOUT, SCORE = (
    "health/class_kl",
    "health/images_without",
    "health/labeled_without",
    "health/score",
)
"""Names of the numbers (``training.unlabeled_sample``) in the rows of evaluations."""

_KL = 0.4
"""Between 0.085 and 1.79, a healthy and a broken run of Unbiased Teacher: see docs/sources.md, Contaminated pools."""
_WITHOUT = 0.3  # share of images without pseudo-labels beyond that of labeled images without objects
_BEHIND = 0.9  # of the student's AP
_APART = 0.5  # of the teacher's AP
_WORSE = 0.9  # of the best AP so far
_LEAST = 1.0  # AP that is no rounding
_FADED, _RISEN = 0.6, 1.1  # times the score at the end of the burn-in


class HealthNote(NamedTuple):
    """What one comparison of numbers says."""

    good: bool
    sentence: str


def health_notes(rows: Sequence[Mapping[str, Any]], *, burn_in: int | None) -> list[HealthNote]:
    """Judges the last evaluation; nothing before the burn-in ends, or of a run that watches no unlabeled images.

    Args:
        rows: Rows of a ``metrics.jsonl``.
        burn_in: Step at which unlabeled images join in.
    """
    watched = [row for row in rows if row.get(SCORE) is not None and row.get("teacher/AP") is not None]
    if burn_in is None or not watched or watched[-1]["step"] < burn_in:
        return []
    now = watched[-1]
    before = next((row for row in reversed(watched) if row["step"] <= burn_in), watched[0])
    best = max(watched, key=lambda row: float(row["teacher/AP"]))
    notes = (_classes(now), _without(now), _two_models(now), _drift(now, before, best))
    return [note for note in notes if note is not None]


def summary(notes: Sequence[HealthNote]) -> list[str]:
    """Lines for a terminal: one with all that is good, and one for each thing that isn't."""
    good = "; ".join(note.sentence for note in notes if note.good)
    return ([f"health: {good}"] if good else []) + [f"health: warning: {one.sentence}" for one in notes if not one.good]


def _classes(now: Mapping[str, Any]) -> HealthNote | None:
    divergence = now.get(CLASS_KL)
    if divergence is None:
        return None
    if divergence < _KL:
        return HealthNote(True, f"pseudo-labels have about the classes of the labels (KL {divergence:.2f})")
    return HealthNote(
        False,
        f"the classes of the pseudo-labels are not those of the labels (KL {divergence:.2f}; 0.09 was healthy and 1.8 "
        "broken in a published study), so some are lost or invented: lengthen method.burn_in, lower "
        "method.unlabeled_weight, label more objects of the rare classes",
    )


def _without(now: Mapping[str, Any]) -> HealthNote:
    share, labeled = float(now[IMAGES_WITHOUT]), float(now[LABELED_WITHOUT])
    if share <= labeled + _WITHOUT:
        return HealthNote(True, f"{share:.0%} of the unlabeled images have no pseudo-label")
    return HealthNote(
        False,
        f"the teacher is sure of nothing in {share:.0%} of the unlabeled images, and only {labeled:.0%} of the labeled "
        "ones have no object: lengthen method.burn_in or, of a method that has it, lower method.threshold; see with "
        "'denseteacher check --pool' whether these images are like the labeled ones",
    )


def _two_models(now: Mapping[str, Any]) -> HealthNote | None:
    teacher, student = float(now["teacher/AP"]), now.get("student/AP")
    if student is None:
        return None
    both = f"AP {teacher:.1f} against {student:.1f}"
    if teacher < _BEHIND * student and student - teacher > _LEAST:
        return HealthNote(
            False, f"the teacher is far behind the student ({both}): it follows too slowly, lower ema.decay"
        )
    if student < _APART * teacher and teacher - student > _LEAST:
        return HealthNote(
            False,
            f"the student is far behind the teacher ({both}): its training is not stable, lower optim.lr or "
            "method.unlabeled_weight",
        )
    return HealthNote(True, f"teacher and student go together ({both})")


def _drift(now: Mapping[str, Any], before: Mapping[str, Any], best: Mapping[str, Any]) -> HealthNote:
    """Whether the teacher gets surer or less sure, and whether it gets worse."""
    teacher, highest = float(now["teacher/AP"]), float(best["teacher/AP"])
    score, earlier = float(now[SCORE]), float(before[SCORE])
    scores = f"mean best score of an image {earlier:.2f} at step {before['step']:,}, {score:.2f} now"
    if teacher < _WORSE * highest and highest - teacher > _LEAST:
        if score > _RISEN * earlier:
            how = "gets surer and worse, as one does that learns its own mistakes"
        elif score < _FADED * earlier:
            how = "gets worse and unsure: objects become background"
        else:
            how = "gets worse"
        return HealthNote(
            False,
            f"the teacher {how} (AP {highest:.1f} at step {best['step']:,}, {teacher:.1f} now; {scores}): lower "
            "method.unlabeled_weight, and see with 'denseteacher check --pool' whether the unlabeled images are like "
            "the labeled ones",
        )
    if score < _FADED * earlier:
        return HealthNote(
            False,
            f"the teacher's scores fade ({scores}): objects that it doubts are learned as background; lower "
            "method.unlabeled_weight or lengthen method.burn_in",
        )
    return HealthNote(True, f"scores are steady ({scores})")
