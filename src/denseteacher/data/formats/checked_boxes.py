"""Boxes of a data set as training needs them: checked, and by image."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from denseteacher.data.formats.annotations import Annotations
from denseteacher.data.formats.faults import Fault, OnFault, refuse
from denseteacher.data.records import ImageRecord, LabeledImages

_BOX_FAULTS = {"box without area": "has no area", "box outside of its image": "reaches outside"}
_OVERHANG = 1.0  # px that a box may reach past its image: rounding of the tool that drew it
Boxes = npt.NDArray[np.float32]


def labeled_images(
    annotations: Annotations,
    *,
    bad_boxes: Literal["error", "fix"] = "error",
    regions: bool = False,
    on_fault: OnFault = refuse,
) -> LabeledImages:
    """What training needs: boxes by image, and beside them the regions to ignore.

    Args:
        annotations: A data set.
        bad_boxes: ``error`` refuses a box without area or more than a pixel outside of its image; ``fix`` cuts
            boxes to their image and drops what has no area then.
        regions: Whether the regions to ignore are wanted. They are cut to their images, without a complaint.
        on_fault: Called for bad boxes, unless they are to be fixed.
    """
    records, classes = annotations.records, annotations.categories
    objects = [one for one in annotations.content["annotations"] if not one.get("iscrowd", 0)]
    label_of = {category.id: index for index, category in enumerate(classes)}
    owner = _owners(objects, records)
    labels = np.fromiter((label_of[one["category_id"]] for one in objects), np.int64, len(objects))
    checked = _checked_boxes(objects, records, owner)
    if bad_boxes == "error":
        on_fault(list(_box_faults(annotations.path, objects, records, owner, checked.empty, "box without area")))
        outside = checked.outside & ~checked.empty
        on_fault(list(_box_faults(annotations.path, objects, records, owner, outside, "box outside of its image")))
    boxes, own_labels = _by_image([checked.boxes, labels], owner, ~checked.empty, len(records))
    return LabeledImages(records, boxes, own_labels, classes, _regions(annotations) if regions else None)


def _regions(annotations: Annotations) -> list[Boxes] | None:
    """The regions to ignore of each image, as far as they lie in it; None where there are none."""
    records = annotations.records
    crowds = [one for one in annotations.content["annotations"] if one.get("iscrowd", 0)]
    owner = _owners(crowds, records)
    checked = _checked_boxes(crowds, records, owner)
    (boxes,) = _by_image([checked.boxes], owner, ~checked.empty, len(records))
    return boxes if any(map(len, boxes)) else None


def _owners(objects: list[dict[str, Any]], records: list[ImageRecord]) -> npt.NDArray[np.int64]:
    """(n,) position of each object's image."""
    position = {record.id: index for index, record in enumerate(records)}
    return np.fromiter((position[one["image_id"]] for one in objects), np.int64, len(objects))


def _by_image(
    columns: Sequence[npt.NDArray[Any]], owner: npt.NDArray[np.int64], which: npt.NDArray[np.bool_], images: int
) -> list[list[npt.NDArray[Any]]]:
    """The chosen rows of each column, in their order, as one array an image."""
    kept = np.flatnonzero(which)
    order = kept[np.argsort(owner[kept], kind="stable")]
    cuts = np.searchsorted(owner[order], np.arange(1, images))
    return [np.split(column[order], cuts)[:images] for column in columns]


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
