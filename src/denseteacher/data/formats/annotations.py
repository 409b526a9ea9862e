"""What every annotation format is read into: the content of a COCO file, and the faults found on the way."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from denseteacher.data.choices import Format
from denseteacher.data.records import Category, ImageRecord, LabeledImages
from denseteacher.errors import InputError

Content = dict[str, Any]
Boxes = npt.NDArray[np.float32]
_BOX_FAULTS = {"box without area": "has no area", "box outside of its image": "reaches outside"}
_OVERHANG = 1.0  # px that a box may reach past its image: rounding of the tool that drew it


class Fault(NamedTuple):
    """Something wrong with one entry of a data set."""

    kind: str
    """What it is, the same for all faults of this kind."""
    message: str
    """A sentence that names the file and the entry."""


Report = Callable[[Sequence[Fault]], None]
"""Told faults of one kind. Where it returns, reading goes on without the entries."""


def refuse(faults: Sequence[Fault]) -> None:
    """The report for those who want to use the data.

    Raises:
        InputError: About the first fault, if there is any.
    """
    if faults:
        rest = f" ({len(faults)} such in all)" if len(faults) > 1 else ""
        raise InputError(f"{faults[0].message}{rest}")


def is_number(value: Any) -> bool:
    """Whether a value of a JSON is a number that can be a coordinate."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class AnnotationSource(NamedTuple):
    """Where a labeled data set lies, and what has been said of how to read it."""

    path: Path
    """A COCO JSON; a VOC folder or image set; a YOLO ``data.yaml`` or folder; a CrowdHuman ``.odgt``; or a folder
    that holds one of them."""
    images: Path | None = None
    """Folder of the image files; found near ``path`` if not given."""
    format: Format | None = None
    """Format of the annotations; detected if not given."""
    subset: str | None = None
    """The part to read, where ``path`` has several (``trainval``, ``val``, ...)."""

    @classmethod
    def of(
        cls, path: str | Path, images: str | Path | None, format: Format | None, subset: str | None
    ) -> "AnnotationSource":
        """The source that a user's arguments name."""
        return cls(Path(path), None if images is None else Path(images), format, subset)


class Annotations(NamedTuple):
    """A labeled data set, whatever format it came in."""

    path: Path
    """As the user named it."""
    format: Format
    content: Content
    """``images``, ``annotations`` and ``categories`` as in a COCO file. Regions to ignore (crowds, masks) have
    ``iscrowd`` 1; objects that VOC calls difficult have ``difficult`` 1. An annotation of a file of its own has
    that as its ``source``."""
    images: Path
    """Folder that the ``file_name`` of an image is relative to."""

    @property
    def categories(self) -> list[Category]:
        """The classes by rising id."""
        classes = [Category(int(one["id"]), str(one["name"])) for one in self.content["categories"]]
        return sorted(classes, key=lambda category: category.id)

    @property
    def records(self) -> list[ImageRecord]:
        """The images by rising id."""
        records = [
            ImageRecord(image["id"], self.images / image["file_name"], image["width"], image["height"])
            for image in self.content["images"]
        ]
        return sorted(records, key=lambda record: record.id)


def with_categories(annotations: Annotations, categories: Sequence[Category]) -> Annotations:
    """The data set with the category ids of a detector or of the training data, matched by name.

    Raises:
        InputError: If it has a class that they lack.
    """
    own = annotations.categories
    if own == list(categories):
        return annotations
    ids = {category.name: category.id for category in categories}
    unknown = [category.name for category in own if category.name not in ids]
    if unknown or len(ids) < len(categories):
        raise InputError(
            f"{annotations.path} has other categories than the detector or training data: {', '.join(unknown[:5])}; "
            f"known are {', '.join(sorted(ids)[:20])}"
        )
    new_id = {category.id: ids[category.name] for category in own}
    content = annotations.content | {
        "categories": [{"id": category.id, "name": category.name} for category in categories],
        "annotations": [
            one | {"category_id": new_id[one["category_id"]]} for one in annotations.content["annotations"]
        ],
    }
    return annotations._replace(content=content)


def labeled_images(
    annotations: Annotations, *, bad_boxes: Literal["error", "fix"] = "error", report: Report = refuse
) -> LabeledImages:
    """What training needs: boxes by image, without the regions to ignore.

    Args:
        annotations: A data set.
        bad_boxes: ``error`` refuses a box without area or more than a pixel outside of its image; ``fix`` cuts
            boxes to their image and drops what has no area then.
        report: Told about bad boxes, unless they are to be fixed.
    """
    records, classes = annotations.records, annotations.categories
    objects = [one for one in annotations.content["annotations"] if not one.get("iscrowd", 0)]
    position = {record.id: index for index, record in enumerate(records)}
    label_of = {category.id: index for index, category in enumerate(classes)}
    owner = np.fromiter((position[one["image_id"]] for one in objects), np.int64, len(objects))
    labels = np.fromiter((label_of[one["category_id"]] for one in objects), np.int64, len(objects))
    checked = _checked_boxes(objects, records, owner)
    if bad_boxes == "error":
        report(list(_box_faults(annotations.path, objects, records, owner, checked.empty, "box without area")))
        outside = checked.outside & ~checked.empty
        report(list(_box_faults(annotations.path, objects, records, owner, outside, "box outside of its image")))
    kept = np.flatnonzero(~checked.empty)
    order = kept[np.argsort(owner[kept], kind="stable")]
    cuts = np.searchsorted(owner[order], np.arange(1, len(records)))
    boxes, own_labels = np.split(checked.boxes[order], cuts), np.split(labels[order], cuts)
    return LabeledImages(records, boxes[: len(records)], own_labels[: len(records)], classes)


class _CheckedBoxes(NamedTuple):
    boxes: Boxes
    """(n, 4) xyxy, cut to their images."""
    empty: npt.NDArray[np.bool_]
    outside: npt.NDArray[np.bool_]


def _checked_boxes(
    objects: list[dict[str, Any]], records: list[ImageRecord], owner: npt.NDArray[np.int64]
) -> _CheckedBoxes:
    boxes = np.array([one["bbox"] for one in objects], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    sizes = np.array([(record.width, record.height) for record in records], dtype=np.float64)[owner].reshape(-1, 2)
    limits = np.concatenate([sizes, sizes], axis=1)
    cut = np.minimum(np.maximum(boxes, 0), limits)
    empty: npt.NDArray[np.bool_] = (cut[:, 2:] <= cut[:, :2]).any(axis=1)
    outside: npt.NDArray[np.bool_] = np.any((boxes < -_OVERHANG) | (boxes > limits + _OVERHANG), axis=1)
    return _CheckedBoxes(cut.astype(np.float32), empty, outside)


def _box_faults(
    path: Path,
    objects: list[dict[str, Any]],
    records: list[ImageRecord],
    owner: npt.NDArray[np.int64],
    wrong: npt.NDArray[np.bool_],
    kind: str,
) -> Iterator[Fault]:
    for index in np.flatnonzero(wrong):
        one, record = objects[index], records[owner[index]]
        name = one.get("source") or f"{path}: annotation {one.get('id')}"
        yield Fault(
            kind,
            f"{name} has the box {one['bbox']} (x, y, width, height), which {_BOX_FAULTS[kind]} in image {record.id} "
            f"({record.path.name}) of {record.width} x {record.height} pixels; correct it, or cut and drop such boxes "
            "with --set data.bad_boxes=fix",
        )
