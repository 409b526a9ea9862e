"""What a recipe says about its data."""

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from denseteacher.config import Config
from denseteacher.data.choices import Format, Protocol
from denseteacher.data.formats import AnnotationSource, training_subset
from denseteacher.data.formats.litdata import Url, is_url


class UnlabeledSource(Config):
    """One of several places with unlabeled images."""

    path: Url | Path
    """A place as in ``DataConfig.unlabeled``."""
    images: Path | None = None
    """Folder of the files that a JSON or list at ``path`` names; found near it if not given."""
    only: Literal["voc"] | None = None
    """``voc`` takes those images of a COCO data set that show objects of VOC's twenty classes and no others."""

    def below(self, root: Path) -> "UnlabeledSource":
        """The source with paths below a folder, where they are relative."""
        images = None if self.images is None else root / self.images
        return UnlabeledSource(path=self.path if is_url(self.path) else root / self.path, images=images, only=self.only)


class DataConfig(Config):
    """Where the images come from and how many of them a step takes."""

    builtin: Literal["digits-small", "digits-large"] | None = None
    """A data set that is made on first use, in place of ``labeled``, ``images`` and ``val``."""
    root: Path | None = None
    """Folder of a data set in its published layout; relative paths below are relative to it."""
    format: Format | None = None
    """Format of ``labeled`` and ``val``; detected if not given."""
    labeled: Path | None = None
    """Annotations of the labeled images: a COCO JSON, a VOC or YOLO data set, a CrowdHuman ``.odgt``, CVAT's XML, a
    folder of LabelMe, Label Studio's JSON, a CSV table."""
    subset: str | None = None
    """The part of ``labeled`` to train on, where it has several (``trainval`` or ``train`` if not given). Of a VOC
    folder without ``test`` that is ``val`` too, it is ``train``."""
    images: Path | None = None
    """Folder of the labeled images; found near the annotations if not given. Images that a JSON in ``unlabeled`` or
    ``val`` names are looked for there too."""
    unlabeled: Url | Path | tuple[Url | Path | UnlabeledSource, ...] | None = None
    """Folder, pattern, tar shards, COCO image-info JSON, VOC image set or text list of unlabeled images, or several;
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
    """Whether to keep the labels of the images that a split leaves out, for analyses and methods that ask for them."""
    bad_boxes: Literal["error", "fix"] = "error"
    """What to do with boxes without area or outside of their image."""
    ignore_regions: Literal["leave_out", "background"] = "leave_out"
    """What the labeled images' regions to ignore (COCO's ``iscrowd``, CrowdHuman's ``ignore``) are to the class loss:
    left out of it, at the locations that ``detector.ignore_rule`` names, or background, as in published runs on COCO.
    VOC's difficult objects are ordinary ones."""
    labels_complete: bool = True
    """Whether every object of the labeled images has a label. If not, what a teacher is sure of and no label covers
    is left out of their class loss from the end of the burn-in on; until then it is background, as all else."""
    sure_score: float = Field(0.4, gt=0, lt=1)
    """Class score above which the teacher is sure, with ``labels_complete: false``. An object is then more likely than
    not: focal loss with its usual alpha of 0.25 and gamma of 2 is least at 0.40 where the chance is one half."""
    bad_images: Literal["error", "skip"] = "error"
    """What to do with image files that are missing or can't be read: refuse the data, or leave such images out and
    say how many. ``skip`` decodes all labeled and validation images before the first step; in place of an unlabeled
    image that turns out damaged when a step draws it, the next one of its orientation is taken."""
    empty_images: Literal["keep", "drop"] = "keep"
    """What to do with images of ``labeled`` without a box, crowd regions aside: ``keep`` them as background, or
    ``drop`` them before the split, as the published runs on COCO do."""
    labeled_batch: int = Field(16, gt=0)
    """Labeled images a step, over all processes; each is seen as a weak and as a strong view."""
    unlabeled_batch: int = Field(16, gt=0)
    """Unlabeled images a step, over all processes, from the end of the burn-in."""
    orientation_group: int | None = Field(None, gt=0)
    """Labeled images that come together because all are taller than wide, or none is. As published it is 2, and
    unlabeled images are drawn freely; null gives one orientation to all images of a step, unlabeled ones too."""

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
    def labeled_source(self) -> AnnotationSource | None:
        """What ``labeled`` names; where ``val`` names the same, by default the part that is not evaluated on."""
        path, subset, validation = self.path("labeled"), self.subset, self.val_source
        if path is None:
            return None
        if subset is None and validation is not None and self.val == self.labeled:
            subset = training_subset(validation)
        return AnnotationSource(path, self.path("images"), self.format, subset)

    @property
    def val_source(self) -> AnnotationSource | None:
        """What ``val`` names; its images are those of ``labeled``, where it is a part of that."""
        path = self.path("val")
        if path is None:
            return None
        images = self.path("val_images") or (self.path("images") if self.val == self.labeled else None)
        return AnnotationSource(path, images, self.format, self.val_subset)

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
