"""COCO JSON: reading for training and for evaluation, and writing the two parts of a split."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from denseteacher.data.records import Category, ImageRecord, LabeledImages
from denseteacher.errors import InputError

_OVERHANG = 1.0  # px that a box may reach past its image: rounding of the tool that drew it
Boxes = npt.NDArray[np.float32]


def read_coco(
    path: Path,
    images: Path | None = None,
    *,
    bad_boxes: Literal["error", "fix"] = "error",
    categories: Sequence[Category] | None = None,
    check_files: bool = True,
) -> LabeledImages:
    """Reads a labeled COCO data set: images by rising id, categories by rising id, crowd regions left out.

    Args:
        path: The JSON.
        images: Folder of the image files; searched for near the JSON if not given.
        bad_boxes: ``error`` refuses a box without area or more than a pixel outside of its image; ``fix`` cuts
            boxes to their image and drops what has no area then.
        categories: The classes that the data must have, for validation data.
        check_files: Look for the image files.

    Raises:
        InputError: If the file is no COCO JSON, refers to what is not there, or holds bad boxes.
    """
    content = coco_ground_truth(path)
    classes = [Category(int(one["id"]), str(one["name"])) for one in content["categories"]]
    classes.sort(key=lambda category: category.id)
    if categories is not None and classes != list(categories):
        unlike = sorted({f"{c.id}: {c.name}" for c in set(classes) ^ set(categories)})
        raise InputError(f"{path} has other categories than the detector or training data: {', '.join(unlike[:5])}")
    records = _records(path, content["images"], images, check_files=check_files)
    annotations = [one for one in content["annotations"] if not one.get("iscrowd", 0)]
    position = {record.id: index for index, record in enumerate(records)}
    label_of = {category.id: index for index, category in enumerate(classes)}
    owner = np.fromiter((position[one["image_id"]] for one in annotations), np.int64, len(annotations))
    labels = np.fromiter((label_of[one["category_id"]] for one in annotations), np.int64, len(annotations))
    boxes, kept = _checked_boxes(path, annotations, records, owner, bad_boxes)
    owner, labels = owner[kept], labels[kept]
    order = np.argsort(owner, kind="stable")
    cuts = np.searchsorted(owner[order], np.arange(1, len(records)))
    return LabeledImages(records, np.split(boxes[order], cuts), np.split(labels[order], cuts), classes)


def read_image_info(path: Path, images: Path | None = None) -> list[ImageRecord]:
    """The images of a COCO JSON, with or without annotations, by rising id.

    Raises:
        InputError: If the file lists no images, or they are not there.
    """
    content = _load(path)
    listed = content.get("images")
    if not isinstance(listed, list) or not listed:
        raise InputError(f"{path} is no COCO image info: it has no list 'images'")
    _check_images(path, listed)
    return _records(path, listed, images, check_files=True)


def coco_ground_truth(path: Path) -> dict[str, Any]:
    """The content of a COCO JSON as it stands, crowd regions included.

    Raises:
        InputError: If it is no COCO JSON, ids stand twice, or an annotation refers to what is not there.
    """
    content = _load(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InputError(f"{path} is no COCO annotation file: it has no list {key!r}")
    if not content["images"] or not content["categories"]:
        raise InputError(f"{path} lists no {'categories' if content['images'] else 'images'}")
    _check_images(path, content["images"])
    for category in content["categories"]:
        if not isinstance(category, dict) or "id" not in category or "name" not in category:
            raise InputError(f"{path}: the category {category!r} needs an id and a name")
    _check_unique(path, "category", [one["id"] for one in content["categories"]])
    _check_annotations(path, content)
    return content


def _load(path: Path) -> dict[str, Any]:
    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    try:
        content = json.loads(path.read_bytes(), parse_constant=refuse)
    except FileNotFoundError as error:
        raise InputError(f"there is no annotation file {path}") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder, where a COCO JSON file is needed") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read as JSON: {str(error).splitlines()[0][:200]}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is no COCO JSON: it holds a {type(content).__name__}, not an object")
    return content


def _check_images(path: Path, images: list[Any]) -> None:
    for image in images:
        if not isinstance(image, dict) or not isinstance(image.get("id"), int) or not _is_name(image.get("file_name")):
            raise InputError(f"{path}: an image needs a whole-number id and a file_name, not {str(image)[:100]}")
        for key in ("width", "height"):
            if not isinstance(image.get(key), int) or image[key] < 1:
                raise InputError(f"{path}: image {image['id']} needs a {key} in pixels, not {image.get(key)!r}")
    _check_unique(path, "image", [image["id"] for image in images])


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _check_unique(path: Path, kind: str, ids: Iterable[Any]) -> None:
    twice = [id_ for id_, count in Counter(ids).items() if count > 1]
    if twice:
        raise InputError(f"{path}: {kind} id {twice[0]} stands twice")


def _check_annotations(path: Path, content: dict[str, Any]) -> None:
    images = {image["id"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    for one in content["annotations"]:
        name = f"{path}: annotation {one.get('id') if isinstance(one, dict) else one!r}"
        if not isinstance(one, dict) or not {"image_id", "category_id", "bbox"} <= one.keys():
            raise InputError(f"{name} needs image_id, category_id and bbox")
        if one["image_id"] not in images:
            raise InputError(f"{name} is of image {one['image_id']!r}, which is not listed")
        if one["category_id"] not in categories:
            raise InputError(
                f"{name} has the unknown category {one['category_id']!r}; known: {sorted(categories)[:20]}"
            )
        box = one["bbox"]
        if not isinstance(box, list) or len(box) != 4 or not all(_is_number(value) for value in box):
            raise InputError(f"{name} has the bbox {str(box)[:80]}, where [x, y, width, height] is needed")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _checked_boxes(
    path: Path,
    annotations: list[dict[str, Any]],
    records: list[ImageRecord],
    owner: npt.NDArray[np.int64],
    bad_boxes: Literal["error", "fix"],
) -> tuple[Boxes, npt.NDArray[np.bool_]]:
    """Boxes (xyxy) cut to their images, and which of the annotations are left."""
    boxes = np.array([one["bbox"] for one in annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    sizes = np.array([(record.width, record.height) for record in records], dtype=np.float64)[owner].reshape(-1, 2)
    limits = np.concatenate([sizes, sizes], axis=1)
    cut = np.minimum(np.maximum(boxes, 0), limits)
    empty = (cut[:, 2:] <= cut[:, :2]).any(axis=1)
    outside = ((boxes < -_OVERHANG) | (boxes > limits + _OVERHANG)).any(axis=1)
    wrong = np.flatnonzero(empty | outside)
    if bad_boxes == "error" and len(wrong):
        one, record = annotations[wrong[0]], records[owner[wrong[0]]]
        fault = "has no area" if empty[wrong[0]] else "reaches outside"
        raise InputError(
            f"{path}: annotation {one.get('id')} has the box {one['bbox']} (x, y, width, height), which {fault} in "
            f"image {record.id} of {record.width} x {record.height} pixels ({len(wrong)} such boxes in all); correct "
            "them, or cut and drop them with --set data.bad_boxes=fix"
        )
    return cut[~empty].astype(np.float32), ~empty


def _records(path: Path, images: list[dict[str, Any]], folder: Path | None, *, check_files: bool) -> list[ImageRecord]:
    names = [image["file_name"] for image in images]
    for name in names:
        _refuse_escape(path, name)
    place = find_image_folder(path, folder, names[0]) if check_files else (folder or path.parent)
    if check_files:
        _check_files(path, place, names)
    records = [
        ImageRecord(image["id"], place / image["file_name"], image["width"], image["height"]) for image in images
    ]
    return sorted(records, key=lambda record: record.id)


def _refuse_escape(path: Path, name: str) -> None:
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\", "~")) or ".." in parts or "\0" in name or ":" in parts[0]:
        raise InputError(f"{path}: the file_name {name!r} leaves the image folder: it must be a plain path inside it")


def _check_files(path: Path, folder: Path, names: list[str]) -> None:
    """All files are there, and no symbolic link leads out of the folder."""
    inside = os.path.realpath(folder) + os.sep
    real_parents: dict[str, str] = {}
    missing = []
    for name in names:
        full = os.path.join(folder, name)  # noqa: PTH118 (Path objects are slow for 100,000 files)
        parent = os.path.dirname(full)  # noqa: PTH120
        if parent not in real_parents:
            real_parents[parent] = os.path.realpath(parent) + os.sep
        if not os.path.isfile(full):  # noqa: PTH113
            missing.append(name)
        elif not real_parents[parent].startswith(inside) or (
            os.path.islink(full) and not os.path.realpath(full).startswith(inside)  # noqa: PTH114
        ):
            raise InputError(f"{path}: the file_name {name!r} leads out of {folder} by a symbolic link")
    if missing:
        raise InputError(
            f"{path}: {len(missing)} of {len(names)} image files are not in {folder}, the first is {missing[0]!r}"
        )


def find_image_folder(path: Path, images: Path | None, first: str) -> Path:
    """The folder in which the first image of a JSON lies.

    Args:
        path: The JSON.
        images: The folder given by the user, or its parent; without one, the usual places near the JSON.
        first: ``file_name`` of an image.

    Raises:
        InputError: If it is in none of them.
    """
    stem = path.stem.removeprefix("instances_").removeprefix("image_info_")
    if images is not None:
        candidates = [images, images / stem, images / "images", images / "images" / stem]
    else:
        near, above = path.parent, path.parent.parent
        candidates = [
            near,
            near / "images",
            near / stem,
            above / "images",
            above / stem,
            above / "images" / stem,
            above,
        ]
    for candidate in candidates:
        if (candidate / first).is_file():
            return candidate
    tried = ", ".join(str(candidate) for candidate in candidates)
    raise InputError(f"{path}: the image {first!r} is in none of {tried}: give its folder with --images DIR")


def write_split(path: Path, labeled_ids: Sequence[int], folder: Path) -> tuple[Path, Path]:
    """Writes ``labeled.json`` and ``unlabeled.json`` (images without annotations) of a COCO file.

    Images, annotations and categories keep all their fields; crowd regions stay.

    Raises:
        InputError: If one of the files is there with other content.
    """
    content = coco_ground_truth(path)
    chosen = set(labeled_ids)
    labeled = dict(content)
    labeled["images"] = [image for image in content["images"] if image["id"] in chosen]
    labeled["annotations"] = [one for one in content["annotations"] if one["image_id"] in chosen]
    unlabeled = {
        "images": [image for image in content["images"] if image["id"] not in chosen],
        "categories": content["categories"],
    }
    files = folder / "labeled.json", folder / "unlabeled.json"
    texts = [json.dumps(part) for part in (labeled, unlabeled)]
    for file, text in zip(files, texts, strict=True):
        if file.exists() and file.read_text() != text:
            raise InputError(
                f"{file} is there already with other content: choose another --output; nothing was changed"
            )
    for file, text in zip(files, texts, strict=True):
        temporary = file.with_name(f".{file.name}.tmp")
        temporary.write_text(text)
        temporary.replace(file)
    return files
