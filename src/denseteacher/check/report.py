"""The whole check of a data set, and the part of it that is cheap enough to go before every run."""

from dataclasses import asdict
from typing import Any, NamedTuple

from denseteacher.check.cost import (
    Duration,
    StepMemory,
    batch_cost,
    measure_duration,
    shorter_run,
    step_memory,
    worst_canvas,
)
from denseteacher.check.data import CheckedData, checked_data, read_checked_data
from denseteacher.check.findings import Finding, Subset, by_severity, finding
from denseteacher.check.fit import Suggestion, ratio_findings, scale_findings, suggest_values
from denseteacher.check.images import (
    Identities,
    duplicate_findings,
    file_findings,
    identify,
    inspect_images,
    size_findings,
    unlisted_findings,
)
from denseteacher.check.labels import ClassCount, box_findings, class_findings, count_classes, empty_images
from denseteacher.check.pool import PoolComparison, compare_pool
from denseteacher.data.objects import objects_of
from denseteacher.data.open import TrainingData
from denseteacher.data.records import LabeledImages
from denseteacher.detectors import OneStageDetector, shape_detector
from denseteacher.hardware import this_machine
from denseteacher.pseudo_labels.foreground import Foreground
from denseteacher.recipes.object_scales import Scales, measure_scales
from denseteacher.recipes.resolve import recipe_foreground, resolve
from denseteacher.recipes.schema import Recipe

_NOTED_STEPS = 2  # batches that tell whether a recipe's own ratio is far off


class Measures(NamedTuple):
    """What a detector would make of the data."""

    scales: Scales
    foreground: Foreground
    memory: StepMemory
    suggestions: list[Suggestion]
    batch_cost: str | None
    """A sentence on what more unlabeled than labeled images cost."""
    duration: Duration | None
    """Duration of the run; None where there is a GPU, or nothing is to be measured."""
    small: Duration | None
    """Duration of the recipe for CPUs, where it is much shorter."""

    @property
    def options(self) -> str:
        """The suggestions as options to copy."""
        return " ".join(f"--set {one.key}={one.value}" for one in self.suggestions)

    def content(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        scales, foreground, memory, suggestions = self[:4]
        durations = {"duration": self.duration, "small_duration": self.small}
        levels = dict(zip(map(str, scales.strides), scales.counts, strict=True))
        return {
            "levels": levels | {"none": len(scales.missed)},
            "foreground": foreground._asdict() | {"ratio": foreground.ratio},
            "memory": {
                "canvas": memory.canvas,
                "fixed_bytes": memory.fixed,
                "bytes_by_accumulate": memory.parts,
            },
            "suggestions": [one._asdict() for one in suggestions],
            "options": self.options,
            "batch_cost": self.batch_cost,
            **{name: one and one._asdict() for name, one in durations.items()},
        }


class CheckReport(NamedTuple):
    """All that a check says."""

    findings: list[Finding]
    """The most serious first."""
    images: dict[Subset, int]
    """Sound images of each subset."""
    classes: list[ClassCount]
    """Classes of the labeled subset."""
    measures: Measures | None
    """Measures of the run; None where there is not a labeled object."""
    recipe: Recipe
    """The recipe without ``auto`` values."""
    decoded: bool
    """Whether the images were read."""
    labeled: LabeledImages
    """The labeled subset."""
    pool: PoolComparison | None
    """Unlabeled images beside labeled ones; None where there are none, or nobody asked."""

    @property
    def errors(self) -> int:
        """Kinds of error."""
        return sum(one.severity == "error" for one in self.findings)

    def content(self) -> dict[str, Any]:
        """Everything, for a JSON file."""
        return {
            "findings": [asdict(one) for one in self.findings],
            "images": self.images,
            "classes": [one._asdict() for one in self.classes],
            **({} if self.measures is None else self.measures.content()),
            "recipe": self.recipe.model_dump(mode="json"),
            "decoded": self.decoded,
            "pool": None if self.pool is None else self.pool.content(),
        }


def check_data(recipe: Recipe, *, quick: bool = False, pool: bool | None = None) -> CheckReport:
    """Reads everything that a run of this recipe would read, once.

    Args:
        recipe: A recipe whose ``data`` names what to check.
        quick: Leave out the content of the images: what can't be decoded, and copies under other names.
        pool: Whether to compare unlabeled images with labeled ones; None does it where images are read and the
            backbone's weights are on this machine.

    Raises:
        InputError: If a subset of the data can't be read at all, or the recipe's detector can't be built.
    """
    checked, findings = read_checked_data(recipe.data)
    if not findings:  # what could not be read, or was not, is listed nowhere
        findings += unlisted_findings(checked)
    findings += _image_findings(checked, quick=quick)
    compared = None
    if checked.unlabeled and (not quick if pool is None else pool):
        compared = compare_pool(recipe.detector, checked.labeled.images, checked.unlabeled, fetch=bool(pool))
        findings += compared.findings()
    findings += class_findings(checked)
    for name, labeled in checked.labels():
        findings += [*empty_images(labeled, name), *box_findings(labeled, name)]
    ratio = recipe.method.selected_share
    measured: list[Foreground] = []

    def foreground(resolved: Recipe) -> Foreground:
        shapes = shape_detector(resolved.detector, len(checked.labeled.categories))
        measured.append(recipe_foreground(resolved, shapes, checked.labeled))
        return measured[-1]

    machine = this_machine()
    recipe = resolve(
        recipe, labeled=checked.labeled, unlabeled=checked.unlabeled_count, foreground=foreground, machine=machine
    )
    if any(map(len, checked.labeled.boxes)):
        share = measured[0] if measured else foreground(recipe)
        measures = _measure(recipe, checked, share, ratio, timed=not quick and recipe.runtime.device == "cpu")
        findings += scale_findings(checked.labeled, measures.scales)
        findings += ratio_findings(ratio, share)
    else:
        measures = None
        findings += finding("error", "no labeled object", "labeled", ["none of the images has a box"])
    images = {subset: len(images) for subset, images in checked.images()}
    if checked.unlabeled_count:
        images["unlabeled"] = checked.unlabeled_count
    classes, labeled = count_classes(checked.labeled), checked.labeled
    return CheckReport(by_severity(findings), images, classes, measures, recipe, not quick, labeled, compared)


def notes_before_run(recipe: Recipe, detector: OneStageDetector, data: TrainingData, ratio: float | None) -> list[str]:
    """Sentences on what looks wrong about the data of a run, without opening an image.

    Args:
        recipe: Resolved.
        detector: The run's.
        data: The run's.
        ratio: The share of locations that the user has asked for; None where none is selected, or it was measured.
    """
    checked = checked_data(data)
    scales = measure_scales(objects_of(checked.labeled), recipe.augment.weak, detector)
    findings = [
        *duplicate_findings({subset: identify(images) for subset, images in checked.images()}),
        *class_findings(checked),
        *scale_findings(checked.labeled, scales),
    ]
    if ratio is not None:
        findings += ratio_findings(ratio, recipe_foreground(recipe, detector, checked.labeled, steps=_NOTED_STEPS))
    cost = batch_cost(recipe, detector)
    sentences = [_sentence(one) for one in by_severity(findings) if one.severity != "info"]
    return sentences if cost is None else [*sentences, cost]


def _measure(
    recipe: Recipe, checked: CheckedData, foreground: Foreground, ratio: float | None, *, timed: bool
) -> Measures:
    labeled = checked.labeled
    most = max(map(len, labeled.boxes))
    detector = shape_detector(recipe.detector, len(labeled.categories))
    scales = measure_scales(objects_of(labeled), recipe.augment.weak, detector)
    canvas = worst_canvas(recipe.augment.weak, [*labeled.images, *checked.unlabeled])
    memory = step_memory(recipe, detector, canvas, most)
    unlabeled = checked.unlabeled_count
    duration = measure_duration(recipe, labeled, unlabeled=unlabeled) if timed else None
    small = None if duration is None else shorter_run(duration, labeled, unlabeled=unlabeled)
    suggestions = suggest_values(recipe, checked, scales, foreground, ratio)
    return Measures(scales, foreground, memory, suggestions, batch_cost(recipe, detector), duration, small)


def _image_findings(checked: CheckedData, *, quick: bool) -> list[Finding]:
    """What the image files themselves show, and which of them are the same."""
    findings: list[Finding] = []
    identities: dict[Subset, Identities] = {}
    for subset, images in checked.images():
        digests = None
        if not quick:
            inspections = inspect_images(images)
            findings += file_findings(inspections, subset)
            digests = [inspection.digest for inspection in inspections]
        identities[subset] = identify(images, digests)
        findings += size_findings(images, subset)
    return [*findings, *duplicate_findings(identities)]


def _sentence(one: Finding) -> str:
    meaning = f" ({one.meaning})" if one.meaning else ""
    return f"check: {one.kind}, {one.subset}: {one.count:,}, for example {one.examples[0]}{meaning}"
