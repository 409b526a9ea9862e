"""From what a recipe says about data to records: which images are labeled, unlabeled, for validation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from denseteacher.config import Config
from denseteacher.data.choices import Format, Protocol
from denseteacher.data.digits import make_digits
from denseteacher.data.formats import (
    Annotations,
    Report,
    labeled_images,
    read_annotations,
    refuse,
    training_subset,
    with_categories,
)
from denseteacher.data.records import ImageRecord, LabeledImages, UnopenedImages
from denseteacher.data.splits import (
    Split,
    listed_split,
    published_split,
    seeded_split,
    stac_split,
    stratified_split,
)
from denseteacher.data.streams import Url
from denseteacher.data.unlabeled import UnlabeledSource, open_sources
from denseteacher.errors import InputError


class DataConfig(Config):
    """Where the images come from and how many of them a step takes."""

    builtin: Literal["digits-small", "digits-large"] | None = None
    """A data set that is made on first use, in place of ``labeled``, ``images`` and ``val``."""
    root: Path | None = None
    """Folder of a data set in its published layout; relative paths below are relative to it."""
    format: Format | None = None
    """Of ``labeled`` and ``val``; told by looking if not given."""
    labeled: Path | None = None
    """Annotations of the labeled images: a COCO JSON, a VOC or YOLO data set, a CrowdHuman ``.odgt``."""
    subset: str | None = None
    """The part of ``labeled`` to train on, where it has several (``trainval`` or ``train`` if not given). Of a VOC
    folder without ``test`` that is ``val`` too, it is ``train``."""
    images: Path | None = None
    """Folder of the labeled images; found near the annotations if not given. Images that a JSON in ``unlabeled`` or
    ``val`` names are looked for there too."""
    unlabeled: Url | Path | tuple[Url | Path | UnlabeledSource, ...] | None = None
    """Folder, tar shards, COCO image-info JSON, VOC image set or text list of unlabeled images, or several of them;
    or a LitData data set, its folder or URL. Without it, and with a split, the images of ``labeled`` that the split
    leaves out."""
    unlabeled_images: Path | None = None
    """Folder of the files that a JSON or list in ``unlabeled`` names."""
    val: Path | None = None
    """Annotations to evaluate on; without them nothing is evaluated."""
    val_subset: str | None = None
    """The part of ``val`` to evaluate on (``test`` or ``val`` if not given)."""
    val_images: Path | None = None
    """Folder of the images of ``val``; found near it, or in ``images``, if not given."""
    split: Literal["none"] | Protocol | Path = "none"
    """How ``labeled`` is cut: ``seeded`` draws by percent or count, ``stratified`` too but evenly over the classes,
    ``published`` is COCO-Standard's table, ``stac`` STAC's draw with replacement, a path is a file of image ids."""
    percent: float | None = Field(None, gt=0, le=100)
    """Labeled share of the images that ``split`` draws from, in percent."""
    count: int | None = Field(None, gt=0)
    """Labeled images, instead of a percentage."""
    fold: int = Field(1, ge=0)
    """Which of the splits of this size."""
    hidden_labels: bool = False
    """For analyses: keep the labels of the images that a split leaves out, for methods that ask for them."""
    bad_boxes: Literal["error", "fix"] = "error"
    """What to do with boxes without area or outside of their image."""
    labeled_batch: int = Field(16, gt=0)
    """Labeled images a step, over all processes; each is seen as a weak and as a strong view."""
    unlabeled_batch: int = Field(16, gt=0)
    """Unlabeled images a step, over all processes, from the end of the burn-in."""

    @model_validator(mode="after")
    def _check_split(self) -> "DataConfig":
        if self.split in ("seeded", "stratified") and (self.percent is None) == (self.count is None):
            raise ValueError(f"split {str(self.split)!r} needs either percent or count")
        if self.split in ("published", "stac") and self.percent is None:
            raise ValueError(f"split {str(self.split)!r} needs percent")
        if self.hidden_labels and (self.split == "none" or self.unlabeled is not None):
            raise ValueError(
                "hidden_labels needs unlabeled images that have labels: those that data.split leaves out of "
                "data.labeled, without data.unlabeled"
            )
        return self

    def path(self, key: str) -> Path | None:
        """The path under a key, below ``root`` where it is relative."""
        path: Path | None = getattr(self, key)
        return path if path is None or self.root is None else self.root / path

    @property
    def labeled_subset(self) -> str | None:
        """``subset``, or what it is where the same data set is evaluated on."""
        path = self.path("labeled")
        if self.subset is not None or path is None or self.val != self.labeled:
            return self.subset
        return training_subset(path, self.val_subset, self.format)

    @property
    def own_val_images(self) -> Path | None:
        """Folder of the images of ``val``, where it is given, or where ``val`` is a part of ``labeled``."""
        return self.path("val_images") or (self.path("images") if self.val == self.labeled else None)

    @property
    def unlabeled_sources(self) -> list[UnlabeledSource]:
        """What ``unlabeled`` names, as one list, with paths below ``root``."""
        given = self.unlabeled if isinstance(self.unlabeled, tuple) else [self.unlabeled]
        sources = [
            one if isinstance(one, UnlabeledSource) else UnlabeledSource(path=one, images=self.unlabeled_images)
            for one in given
            if one is not None
        ]
        return sources if self.root is None else [source.below(self.root) for source in sources]


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
    validation: Validation | None
    split: Split
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
    source = config.path("labeled")
    if source is None:
        raise InputError("there are no labeled images: give --labeled PATH, the annotations that describe them")
    if config.root is None and not (source.is_absolute() or source.exists()):
        raise InputError(
            f"there is no {source}: give the folder of the recipe's data set as --data ROOT, or --labeled PATH"
        )
    subset = config.labeled_subset
    annotations = read_annotations(source, config.path("images"), format=config.format, subset=subset)
    everything = labeled_images(annotations, bad_boxes=config.bad_boxes)
    split = _split(annotations, config)
    positions = {image.id: position for position, image in enumerate(everything.images)}
    labeled = everything.select([positions[id_] for id_ in split.labeled_ids])
    if not any(len(boxes) for boxes in labeled.boxes):
        raise InputError(f"none of the {len(labeled.images)} labeled images of {source} has a box")
    unlabeled, notes = open_sources(config.unlabeled_sources, fallback=config.path("images"))
    notes = (*subset_notes(config), *notes)
    if config.unlabeled is not None:
        ids = unlabeled.ids if isinstance(unlabeled, UnopenedImages) else [image.id for image in unlabeled]
        named = ", ".join(str(one.path) for one in config.unlabeled_sources)
        split = Split(split.labeled_ids, ids, f"{split.source}; unlabeled: {named}")
    else:
        unlabeled = [everything.images[positions[id_]] for id_ in split.unlabeled_ids]
    hidden = everything.select([positions[id_] for id_ in split.unlabeled_ids]) if config.hidden_labels else None
    return TrainingData(labeled, unlabeled, _validation(config, labeled), split, hidden, notes)


def _with_builtin(config: DataConfig) -> DataConfig:
    if config.builtin is None:
        return config
    paths = make_digits(config.builtin.removeprefix("digits-"))
    return config.model_copy(update={"root": None, "labeled": paths.train, "val": paths.val})


def subset_notes(config: DataConfig) -> tuple[str, ...]:
    """That not all of a data set is trained on since it is evaluated on as well."""
    subset = config.labeled_subset
    if subset == config.subset:
        return ()
    return (f"labeled are the images of {subset!r} in {config.labeled}, since 'val' is evaluated on",)


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
        seed: Of the draws of ``seeded`` and ``stratified``.

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


def validation_annotations(config: DataConfig, report: Report = refuse) -> Annotations | None:
    """What ``val`` names, with the classes of its own; None where nothing is evaluated.

    Args:
        config: The data.
        report: Told about faults of entries.
    """
    path = config.path("val")
    if path is None:
        return None
    return read_annotations(
        path,
        config.own_val_images,
        format=config.format,
        subset=config.val_subset,
        role="validation",
        fallback=config.path("images"),
        report=report,
    )


def _validation(config: DataConfig, labeled: LabeledImages) -> Validation | None:
    path, annotations = config.path("val"), validation_annotations(config)
    if path is None or annotations is None:
        return None
    annotations = with_categories(annotations, labeled.categories)
    labeled_images(annotations, bad_boxes=config.bad_boxes)  # complains about bad boxes before a step is made
    return Validation(annotations.records, annotations.content, path)
