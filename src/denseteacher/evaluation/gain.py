"""What unlabeled images were worth: a run beside the same detector trained without them, as a file and in words."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.files import write_json

_NOTHING = 0.05  # AP; what is printed as 0.0


class BestTeacher(NamedTuple):
    """The detector of a run: its teacher where it was best on the validation images."""

    step: int
    AP: float
    AP50: float
    last_step: int
    last_AP: float
    """AP of the teacher at the last step."""


class ClassGain(NamedTuple):
    """One class."""

    name: str
    labeled_boxes: int
    """Boxes in the labeled images that were trained on."""
    AP_without: float | None
    """AP of the baseline; None where there is no object to find."""
    AP_with: float | None
    """AP of the run."""

    @property
    def gain(self) -> float | None:
        """Difference in AP."""
        return None if self.AP_with is None or self.AP_without is None else self.AP_with - self.AP_without


class UnlabeledGain(NamedTuple):
    """What the unlabeled images were worth."""

    labeled: int
    """Images."""
    unlabeled: int
    validation: int
    without: BestTeacher
    """The baseline: the same burn-in, recipe, seed, split and steps, trained on labeled images alone."""
    with_: BestTeacher
    """The run."""
    classes: list[ClassGain]
    """Classes by falling gain."""
    interval: tuple[float, float] | None = None
    """Where the gain in AP lies in 95 of 100 resamplings of the validation images; None where none were made."""
    resamples: int = 0

    @property
    def gain(self) -> float:
        """Difference in AP of the two detectors."""
        return self.with_.AP - self.without.AP

    @property
    def sentence(self) -> str:
        """The answer, plainly: what they were worth."""
        images = f"The {self.unlabeled:,} unlabeled images were worth"
        if abs(self.gain) < _NOTHING:
            return f"{images} nothing: the same detector reaches {self.without.AP:.1f} AP without them."
        if self.gain < 0:
            return (
                f"{images} {self.gain:.1f} AP: the same detector is better without them, {self.without.AP:.1f} AP "
                f"instead of {self.with_.AP:.1f}."
            )
        return (
            f"{images} {self.gain:+.1f} AP over the same detector without them: {self.with_.AP:.1f} instead of "
            f"{self.without.AP:.1f}."
        )

    @property
    def certainty(self) -> str:
        """How far the validation images can tell."""
        if self.interval is None:
            return f"How certain that is on {self.validation:,} validation images was not measured."
        low, high = self.interval
        drawn = f"in 95 of 100 resamplings of the {self.validation:,} validation images"
        chance = ", so it may be chance of these images" if low <= 0 <= high and abs(self.gain) >= _NOTHING else ""
        return f"It lies between {low:+.1f} and {high:+.1f} {drawn}{chance}."

    @property
    def method(self) -> str:
        """What is compared, for who wants to know."""
        return (
            f"Both detectors are teachers at their best by these {self.validation:,} validation images, with unlabeled "
            f"images at step {self.with_.step:,}, without at step {self.without.step:,}; each was chosen in the same "
            f"way, which favors neither. At the last step, {self.with_.last_step:,}, they reach "
            f"{self.with_.last_AP:.1f} and {self.without.last_AP:.1f} AP. Burn-in, recipe, seed, split and number of "
            f"steps are the same. Another seed can shift the difference too."
        )


def write_gain(file: Path, gain: UnlabeledGain) -> None:
    """Writes what the unlabeled images were worth, whole or not at all.

    Raises:
        RunError: If the disk refuses.
    """
    content = {
        "sentence": gain.sentence,
        "certainty": gain.certainty,
        "gain": {"AP": gain.gain, "AP50": gain.with_.AP50 - gain.without.AP50},
        "interval": gain.interval,
        "resamples": gain.resamples,
        "images": {"labeled": gain.labeled, "unlabeled": gain.unlabeled, "validation": gain.validation},
        "without": gain.without._asdict(),
        "with": gain.with_._asdict(),
        "classes": [one._asdict() | {"gain": one.gain} for one in gain.classes],
    }
    write_json(file, content)


def read_gain(file: Path) -> UnlabeledGain | None:
    """What ``write_gain`` wrote; None where a run has no finished baseline."""
    if not file.is_file():
        return None
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return UnlabeledGain(
        **content["images"],
        without=BestTeacher(**content["without"]),
        with_=BestTeacher(**content["with"]),
        classes=[
            ClassGain(**{key: value for key, value in one.items() if key != "gain"}) for one in content["classes"]
        ],
        interval=None if content["interval"] is None else tuple(content["interval"]),
        resamples=content["resamples"],
    )


def by_falling_gain(classes: Sequence[ClassGain]) -> list[ClassGain]:
    """The largest gain first; classes without objects to find last."""
    return sorted(classes, key=lambda one: (one.gain is None, -(one.gain or 0.0)))
