"""The three subsets of a run's data, read with all their faults collected."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from denseteacher.check.findings import FaultLog, Finding, Subset, finding
from denseteacher.data.config import DataConfig
from denseteacher.data.formats import Annotations, Fault, labeled_images, read_annotations
from denseteacher.data.open import (
    TrainingData,
    draw_split,
    no_objects,
    open_sources,
    subset_notes,
    validation_annotations,
)
from denseteacher.data.records import ImageRecord, LabeledImages, UnopenedImages
from denseteacher.errors import InputError

_LOOKED_AT = 1000  # images of those that are too many to open all


class CheckedData(NamedTuple):
    """What a run would train and be evaluated on."""

    labeled: LabeledImages
    unlabeled: list[ImageRecord]
    """Unlabeled images that were looked at."""
    unlabeled_count: int
    """Number of all unlabeled images."""
    validation: LabeledImages | None

    def images(self) -> Iterator[tuple[Subset, list[ImageRecord]]]:
        """The subsets that have images, and those of them that are looked at."""
        yield "labeled", self.labeled.images
        if self.unlabeled:
            yield "unlabeled", self.unlabeled
        if self.validation is not None:
            yield "validation", self.validation.images

    def labels(self) -> Iterator[tuple[Subset, LabeledImages]]:
        """The subsets that have labels."""
        yield "labeled", self.labeled
        if self.validation is not None:
            yield "validation", self.validation


def checked_data(data: TrainingData) -> CheckedData:
    """What ``open_data`` has read without a fault; without unlabeled images that it left unopened."""
    validation = None
    if data.validation is not None:
        images, content, path = data.validation
        annotations = Annotations(path, "coco", content, path.parent)
        validation = replace(labeled_images(annotations, bad_boxes="fix"), images=images)
    unlabeled = [] if isinstance(data.unlabeled, UnopenedImages) else list(data.unlabeled)
    return CheckedData(data.labeled, unlabeled, len(data.unlabeled), validation)


def read_checked_data(config: DataConfig) -> tuple[CheckedData, list[Finding]]:
    """Reads what ``open_data`` would read, and goes on where that would refuse.

    Raises:
        InputError: If a subset can't be read at all.
    """
    log = FaultLog(config.bad_images)
    labeled, unlabeled, findings = _training_images(config, log)
    looked_at = _look_at(unlabeled, log) if isinstance(unlabeled, UnopenedImages) else list(unlabeled)
    if len(looked_at) < len(unlabeled):
        said = f"{len(looked_at):,} of {len(unlabeled):,} images were looked at, evenly spread"
        findings += finding("info", "images that are too many to open all", "unlabeled", [said])
    checked = CheckedData(labeled, looked_at, len(unlabeled), _validation(config, log))
    return checked, [*log.findings(), *findings]


def _look_at(images: UnopenedImages, log: FaultLog) -> list[ImageRecord]:
    """Some of the images, evenly spread."""
    records = []
    for position in images.spread(_LOOKED_AT):
        try:
            records.append(images[position])
        except InputError as error:
            log.on_fault("unlabeled")([Fault("unreadable image", str(error))])
    return records


def _training_images(config: DataConfig, log: FaultLog) -> tuple[LabeledImages, Sequence[ImageRecord], list[Finding]]:
    source = config.labeled_source
    assert source is not None
    annotations = read_annotations(source, on_fault=log.on_fault("labeled"))
    labeled = _labeled_images(annotations, config, log, "labeled")
    findings = _annotation_ids(annotations, "labeled")
    findings += finding("info", "part of the data set", "labeled", subset_notes(config))
    unlabeled, _ = open_sources(config.unlabeled_sources, fallback=source.images, on_fault=log.on_fault("unlabeled"))
    if config.split != "none":
        try:
            split = draw_split(annotations, config.split, percent=config.percent, count=config.count, fold=config.fold)
        except InputError as error:
            return labeled, unlabeled, [*findings, *finding("error", "split of the data", "labeled", [str(error)])]
        positions = {image.id: position for position, image in enumerate(labeled.images)}
        if config.unlabeled is None:
            unlabeled = [labeled.images[positions[id_]] for id_ in split.unlabeled_ids]
        labeled = labeled.select([positions[id_] for id_ in split.labeled_ids])
    return labeled, unlabeled, findings


def _validation(config: DataConfig, log: FaultLog) -> LabeledImages | None:
    annotations = validation_annotations(config, log.on_fault("validation"))
    if annotations is None:
        return None
    labeled = _labeled_images(annotations, config, log, "validation")
    if labeled.images and not any(map(len, labeled.boxes)):
        log.on_fault("validation")([Fault("no object to find", no_objects(annotations.path, annotations))])
    return labeled


def _labeled_images(annotations: Annotations, config: DataConfig, log: FaultLog, subset: Subset) -> LabeledImages:
    """Sound boxes; bad ones are only worth a warning where training is told to repair them."""
    on_fault = log.on_fault(subset, "error" if config.bad_boxes == "error" else "warning")
    return labeled_images(annotations, on_fault=on_fault)


def _annotation_ids(annotations: Annotations, subset: Subset) -> list[Finding]:
    seen: set[object] = set()
    twice = []
    for one in annotations.content["annotations"]:
        if "id" in one and one["id"] in seen:
            twice.append(f"{annotations.path}: annotation id {one['id']} stands twice")
        seen.add(one.get("id"))
    return finding(
        "warning", "annotation id twice", subset, twice, "training ignores these ids; other tools mix them up"
    )
