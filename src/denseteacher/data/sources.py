"""From what a recipe says about data to records: which images are labeled, unlabeled, for validation."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from denseteacher.config import Config
from denseteacher.data.digits import make_digits
from denseteacher.data.formats.coco import coco_ground_truth, read_coco
from denseteacher.data.formats.folder import read_unlabeled
from denseteacher.data.records import ImageRecord, LabeledImages
from denseteacher.data.splits import Split, listed_split, published_split, seeded_split
from denseteacher.errors import InputError


class DataConfig(Config):
    """Where the images come from and how many of them a step takes."""

    builtin: Literal["digits-small", "digits-large"] | None = None
    """A data set that is made on first use, in place of ``labeled``, ``images`` and ``val``."""
    root: Path | None = None
    """Folder of a data set in its published layout; relative paths below are relative to it."""
    labeled: Path | None = None
    """COCO JSON of the labeled images."""
    images: Path | None = None
    """Folder of the labeled images; found beside the JSON if not given."""
    unlabeled: Path | None = None
    """Folder, COCO image-info JSON or text list of unlabeled images; without it, and with a split, the images
    of ``labeled`` that the split leaves out."""
    unlabeled_images: Path | None = None
    """Folder of the files that a JSON or list in ``unlabeled`` names."""
    val: Path | None = None
    """COCO JSON to evaluate on; without it nothing is evaluated."""
    val_images: Path | None = None
    split: Literal["none", "seeded", "published"] | Path = "none"
    """How ``labeled`` is cut: ``seeded`` draws by percent or count, ``published`` is COCO-Standard's table, a
    path is a file of image ids."""
    percent: float | None = Field(None, gt=0, le=100)
    count: int | None = Field(None, gt=0)
    """Labeled images, instead of a percentage."""
    fold: int = Field(1, ge=0)
    hidden_labels: bool = False
    """For analyses: keep the labels of the images that a split leaves out, for methods that ask for them."""
    bad_boxes: Literal["error", "fix"] = "error"
    """What to do with boxes without area or outside of their image."""
    labeled_batch: int = Field(16, gt=0)
    """Labeled images a step, over all processes; each is seen as a weak and as a strong view."""
    unlabeled_batch: int = Field(16, gt=0)

    @model_validator(mode="after")
    def _check_split(self) -> "DataConfig":
        if self.split == "seeded" and (self.percent is None) == (self.count is None):
            raise ValueError("split 'seeded' needs either percent or count")
        if self.split == "published" and self.percent is None:
            raise ValueError("split 'published' needs percent")
        if self.hidden_labels and (self.split == "none" or self.unlabeled is not None):
            raise ValueError(
                "hidden_labels needs unlabeled images that have labels: those that data.split leaves out of "
                "data.labeled, without data.unlabeled"
            )
        return self

    def path(self, key: str) -> Path | None:
        """The path under a key, below ``root`` where it is relative."""
        value: Path | None = getattr(self, key)
        return value if value is None or self.root is None else self.root / value


class Validation(NamedTuple):
    """What a run is evaluated on."""

    images: list[ImageRecord]
    ground_truth: dict[str, Any]
    """The COCO content, crowd regions included."""
    path: Path


class TrainingData(NamedTuple):
    """All that a run reads."""

    labeled: LabeledImages
    unlabeled: list[ImageRecord]
    validation: Validation | None
    split: Split
    hidden: LabeledImages | None = None
    """The unlabeled images with their labels after all, where ``DataConfig.hidden_labels`` asks for them."""


def open_data(config: DataConfig) -> TrainingData:
    """Reads the annotations and lists the images.

    Raises:
        InputError: If something is missing or wrong; see the readers.
    """
    config = _with_builtin(config)
    source = config.path("labeled")
    if source is None:
        raise InputError("there are no labeled images: give --labeled PATH, the COCO JSON that describes them")
    everything = read_coco(source, config.path("images"), bad_boxes=config.bad_boxes)
    split = _split(everything, config)
    positions = {image.id: position for position, image in enumerate(everything.images)}
    labeled = everything.select([positions[id_] for id_ in split.labeled_ids])
    if not any(len(boxes) for boxes in labeled.boxes):
        raise InputError(f"none of the {len(labeled.images)} labeled images of {source} has a box")
    given = config.path("unlabeled")
    if given is not None:
        unlabeled = read_unlabeled(given, config.path("unlabeled_images"))
        split = Split(split.labeled_ids, [image.id for image in unlabeled], f"{split.source}; unlabeled: {given}")
    else:
        unlabeled = [everything.images[positions[id_]] for id_ in split.unlabeled_ids]
    hidden = everything.select([positions[id_] for id_ in split.unlabeled_ids]) if config.hidden_labels else None
    return TrainingData(labeled, unlabeled, _validation(config, labeled), split, hidden)


def _with_builtin(config: DataConfig) -> DataConfig:
    if config.builtin is None:
        return config
    paths = make_digits(config.builtin.removeprefix("digits-"))
    return config.model_copy(update={"root": None, "labeled": paths.train, "val": paths.val})


def _split(everything: LabeledImages, config: DataConfig) -> Split:
    ids = [image.id for image in everything.images]
    if config.split == "none":
        return Split(ids, [], f"all of {config.path('labeled')}")
    if config.split == "seeded":
        # a split belongs to the data, not to the run: two seeds of a run train on the same labels
        return seeded_split(ids, percent=config.percent, count=config.count, fold=config.fold, seed=0)
    if config.split == "published":
        assert config.percent is not None
        return published_split(everything, config.percent, config.fold)
    return listed_split(ids, Path(config.split))


def _validation(config: DataConfig, labeled: LabeledImages) -> Validation | None:
    path = config.path("val")
    if path is None:
        return None
    images = config.path("val_images") or (None if config.builtin else config.path("images"))
    data = read_coco(path, images, bad_boxes=config.bad_boxes, categories=labeled.categories)
    return Validation(data.images, coco_ground_truth(path), path)
