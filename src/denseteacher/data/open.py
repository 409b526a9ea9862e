"""What a recipe says about data, opened as records: which images are labeled, unlabeled, for validation."""

import os
from collections.abc import Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.data.bad_images import depth_note, without_bad_images
from denseteacher.data.choices import Protocol
from denseteacher.data.coco20cls import COCO20CLS_COUNT, only_voc_classes
from denseteacher.data.config import DataConfig, UnlabeledSource
from denseteacher.data.digits import make_digits
from denseteacher.data.formats import (
    Annotations,
    AnnotationSource,
    Fault,
    Notes,
    OnFault,
    labeled_images,
    open_unlabeled,
    read_annotations,
    refuse,
    with_categories,
)
from denseteacher.data.formats.litdata import StreamedImages, WrittenStream, write_stream
from denseteacher.data.records import ImageRecord, JoinedImages, LabeledImages, UnopenedImages
from denseteacher.data.splits import (
    Split,
    listed_split,
    published_split,
    seeded_split,
    stac_split,
    stratified_split,
)
from denseteacher.errors import InputError


class Validation(NamedTuple):
    """What a run is evaluated on."""

    images: list[ImageRecord]
    ground_truth: dict[str, Any]
    """The COCO content, crowd regions included."""
    path: Path


class TrainingData(NamedTuple):
    """All that a run reads."""

    labeled: LabeledImages
    unlabeled: Sequence[ImageRecord]
    validation: Validation | None = None
    split: Split = Split([], [], "not cut")
    hidden: LabeledImages | None = None
    """The unlabeled images with their labels after all, where ``DataConfig.hidden_labels`` asks for them."""
    notes: tuple[str, ...] = ()
    """Sentences for the user on what was found."""


def open_data(config: DataConfig) -> TrainingData:
    """Reads the annotations and lists the images.

    Raises:
        InputError: If something is missing or wrong; see the readers.
    """
    config = _with_builtin(config)
    source = config.labeled_source
    if source is None:
        raise InputError("there are no labeled images: give --labeled PATH, the annotations that describe them")
    # not Path.exists, which raises for names of more than 255 bytes
    if config.root is None and not (source.path.is_absolute() or os.path.exists(source.path)):  # noqa: PTH110
        raise InputError(
            f"there is no {source.path}: give the folder of the recipe's data set as --data ROOT, or --labeled PATH"
        )
    notes = Notes(config.bad_images)
    annotations = read_annotations(source, on_fault=notes)
    if config.bad_images == "skip":
        annotations = without_bad_images(annotations, notes)
    regions = config.ignore_regions == "leave_out"
    everything = labeled_images(annotations, bad_boxes=config.bad_boxes, regions=regions)
    kept = {image.id for image, boxes in zip(everything.images, everything.boxes, strict=True) if len(boxes)}
    if config.empty_images == "drop":
        annotations = _with_images(annotations, kept)
    split = _split(annotations, config)
    positions = {image.id: position for position, image in enumerate(everything.images)}
    labeled = everything.select([positions[id_] for id_ in split.labeled_ids])
    if not any(len(boxes) for boxes in labeled.boxes):
        raise InputError(f"none of the {len(labeled.images)} labeled images of {source.path} has a box")
    unlabeled, said = open_sources(config.unlabeled_sources, fallback=source.images, on_fault=notes)
    said = (*subset_notes(config), *_empty_notes(config, len(everything.images) - len(kept)), *said)
    if config.unlabeled is not None:
        ids = unlabeled.ids if isinstance(unlabeled, UnopenedImages) else [image.id for image in unlabeled]
        named = ", ".join(str(one.path) for one in config.unlabeled_sources)
        split = Split(split.labeled_ids, ids, f"{split.source}; unlabeled: {named}")
    else:
        unlabeled = [everything.images[positions[id_]] for id_ in split.unlabeled_ids]
    hidden = everything.select([positions[id_] for id_ in split.unlabeled_ids]) if config.hidden_labels else None
    validation = _validation(config, labeled, notes)
    said = (*said, *notes.sentences, *(depth_note(labeled.images) or depth_note(unlabeled)))
    return TrainingData(labeled, unlabeled, validation, split, hidden, said)


def _with_builtin(config: DataConfig) -> DataConfig:
    if config.builtin is None:
        return config
    paths = make_digits(config.builtin.removeprefix("digits-"))
    return config.model_copy(update={"root": None, "labeled": paths.train, "val": paths.val})


def subset_notes(config: DataConfig) -> tuple[str, ...]:
    """Sentences on a data set that is not all trained on since it is evaluated on as well."""
    source = config.labeled_source
    if source is None or source.subset == config.subset:
        return ()
    return (f"labeled are the images of {source.subset!r} in {config.labeled}, since 'val' is evaluated on",)


def _empty_notes(config: DataConfig, empty: int) -> tuple[str, ...]:
    """A sentence on how many images are left out since they have no box."""
    if config.empty_images == "keep" or not empty:
        return ()
    return (f"{empty:,} images of {config.path('labeled')} without a box are left out (data.empty_images)",)


def _with_images(annotations: Annotations, ids: Set[int]) -> Annotations:
    """The data set with these images alone."""
    content = annotations.content | {
        "images": [image for image in annotations.content["images"] if image["id"] in ids],
        "annotations": [one for one in annotations.content["annotations"] if one["image_id"] in ids],
    }
    return annotations._replace(content=content)


def draw_split(
    annotations: Annotations,
    protocol: Protocol | Path,
    *,
    percent: float | None = None,
    count: int | None = None,
    fold: int = 1,
    seed: int = 0,
) -> Split:
    """Cuts a data set into a labeled and an unlabeled part.

    Args:
        annotations: The data set.
        protocol: See ``DataConfig.split``.
        percent: Labeled share.
        count: Number of labeled images, instead of a share, where images are drawn.
        fold: Which of the draws of this size.
        seed: Seed of the draws of ``seeded`` and ``stratified``.

    Raises:
        InputError: If the protocol needs something else, or doesn't fit the data.
    """
    ids = [image["id"] for image in annotations.content["images"]]
    if isinstance(protocol, Path):
        return listed_split(ids, protocol)
    if protocol == "seeded":
        return seeded_split(ids, percent=percent, count=count, fold=fold, seed=seed)
    everything = labeled_images(annotations, bad_boxes="fix")
    if protocol == "stratified":
        return stratified_split(everything, percent=percent, count=count, fold=fold, seed=seed)
    if percent is None:
        raise InputError(f"the split {protocol!r} needs a percentage")
    return published_split(everything, percent, fold) if protocol == "published" else stac_split(ids, percent, fold)


def _split(annotations: Annotations, config: DataConfig) -> Split:
    if config.split == "none":
        ids = [image.id for image in annotations.records]
        return Split(ids, [], f"all of {config.path('labeled')}")
    # a split belongs to the data, not to the run: two seeds of a run train on the same labels
    size: dict[str, Any] = {"percent": config.percent, "count": config.count, "fold": config.fold}
    return draw_split(annotations, config.split, **size, seed=0)


def validation_annotations(config: DataConfig, on_fault: OnFault = refuse) -> Annotations | None:
    """What ``val`` names, with the classes of its own; None where nothing is evaluated.

    Args:
        config: The data.
        on_fault: Called for faults of entries.
    """
    source = config.val_source
    if source is None:
        return None
    return read_annotations(source, role="validation", fallback=config.path("images"), on_fault=on_fault)


def _validation(config: DataConfig, labeled: LabeledImages, notes: Notes) -> Validation | None:
    source, annotations = config.val_source, validation_annotations(config, notes)
    if source is None or annotations is None:
        return None
    if config.bad_images == "skip":
        annotations = without_bad_images(annotations, notes)
    annotations = with_categories(annotations, labeled.categories)
    # complains about bad boxes before a step is made
    if not any(map(len, labeled_images(annotations, bad_boxes=config.bad_boxes).boxes)):
        raise InputError(no_objects(source.path, annotations))
    return Validation(annotations.records, annotations.content, source.path)


def no_objects(path: Path, annotations: Annotations) -> str:
    """What is wrong with validation data in which there is nothing to find."""
    regions = len(annotations.content["annotations"])
    crowds = f", only {regions:,} regions that do not count (iscrowd)" if regions else ""
    return (
        f"none of the {len(annotations.content['images']):,} validation images of {path} has an object to find"
        f"{crowds}: AP can't be measured on them; give other data as --val, or none"
    )


def open_sources(
    sources: Sequence[UnlabeledSource], *, fallback: Path | None = None, on_fault: OnFault = refuse
) -> tuple[Sequence[ImageRecord], tuple[str, ...]]:
    """The images of all sources, and what there is to say about them.

    Args:
        sources: Any number of them.
        fallback: Where the images of a JSON are looked for if they are not near it.
        on_fault: Called for faults of entries.

    Raises:
        InputError: If there are no images at one of them, or ``on_fault`` raises.
    """
    found = [_open(source, fallback, on_fault) for source in sources]
    chosen = sum(len(images) for source, images in zip(sources, found, strict=True) if source.only is not None)
    notes = (f"COCO20cls: {chosen:,} images; the list that is known has {COCO20CLS_COUNT:,}",) if chosen else ()
    if len(found) == 1:
        return found[0], notes
    for images in found:
        if isinstance(images, StreamedImages):
            raise InputError(f"{images.source} is a LitData data set, which goes with no other unlabeled images")
    if any(isinstance(images, UnopenedImages) for images in found):
        return JoinedImages(found), notes
    records = (record for images in found for record in images)  # ids of several sources would stand twice
    return [replace(record, id=number) for number, record in enumerate(records, 1)], notes


def _open(source: UnlabeledSource, fallback: Path | None, on_fault: OnFault) -> Sequence[ImageRecord]:
    if source.only is None:
        return open_unlabeled(source.path, source.images, fallback=fallback, on_fault=on_fault)
    return only_voc_classes(read_annotations(AnnotationSource(Path(source.path), source.images), on_fault=on_fault))


def stream_sources(sources: Sequence[UnlabeledSource], output: Path) -> WrittenStream:
    """``write_stream`` of the images of all sources, but for those that are missing or can't be read."""
    unreadable: list[str] = []

    def pass_over(faults: Sequence[Fault]) -> None:
        unreadable.extend(fault.message for fault in faults if not fault.harmless)

    written = write_stream(open_sources(sources, on_fault=pass_over)[0], output)
    return written._replace(unreadable=[*unreadable, *written.unreadable])
