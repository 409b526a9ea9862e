"""What an evaluation found, class by class, and what it was measured on."""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.evaluation.arrays import class_names
from denseteacher.evaluation.metrics import Metrics
from denseteacher.evaluation.thresholds import BestPoints, OperatingPoint


class ClassScore(NamedTuple):
    """How well one class is found."""

    name: str
    objects: int
    """Objects in the validation images, without regions to ignore."""
    scores: dict[str, float | None]
    """``AP``, ``AP50``, ... in percent; None where there is no object to find."""
    best: OperatingPoint | None = None
    """Score threshold with the highest F1 at IoU 0.5, and what it gives; None where no object is found."""

    def content(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return self._asdict() | {"best": self.best and self.best._asdict()}


class RunEvaluation(NamedTuple):
    """How good the detector of a run is on the validation images."""

    step: int
    """Step of the teacher that is the detector."""
    file: str
    """Validation annotations."""
    digest: str
    """Digest of their content: two runs compare where it is the same."""
    images: int
    metrics: dict[str, float | None]
    classes: list[ClassScore]
    best: OperatingPoint | None = None
    """The same for one score threshold of all classes together."""

    def content(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        classes = [one.content() for one in self.classes]
        return self._asdict() | {"classes": classes, "best": self.best and self.best._asdict()}


def describe_evaluation(
    truth: Mapping[str, Any], found: Metrics, points: BestPoints, *, file: Path, step: int
) -> RunEvaluation:
    """Collects what an evaluation found.

    Args:
        truth: COCO content that was evaluated on.
        found: The metrics.
        points: The operating points with the highest F1.
        file: Where the content is from.
        step: Step of the detector.
    """
    counts = Counter(one["category_id"] for one in truth["annotations"] if not one.get("iscrowd"))
    classes = [
        ClassScore(name, counts[id_], _finite(found.per_class[name]), points.classes.get(name))
        for id_, name in class_names(truth).items()
    ]
    images = len(truth["images"])
    return RunEvaluation(step, str(file), _digest(truth), images, _finite(found.values), classes, points.overall)


def _digest(truth: Mapping[str, Any]) -> str:
    """The digest of images, boxes and classes, in whatever order and format they came."""
    images = sorted(str(one["id"]) for one in truth["images"])
    boxes = sorted((str(one["image_id"]), one["category_id"], *map(float, one["bbox"])) for one in truth["annotations"])
    return hashlib.sha256(json.dumps([images, boxes]).encode()).hexdigest()[:16]


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
