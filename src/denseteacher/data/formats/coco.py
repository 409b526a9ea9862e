"""COCO JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from denseteacher.data.formats.annotations import Annotations, Content
from denseteacher.data.formats.coco_entries import Ids, Known, sound_annotations, sound_categories, sound_images
from denseteacher.data.formats.coordinates import share_faults
from denseteacher.data.formats.faults import OnFault, refuse
from denseteacher.data.formats.files import find_image_folder
from denseteacher.data.formats.image_names import leaves_folder
from denseteacher.data.formats.listed_images import Entry, ListedImages, find_listed, with_sizes
from denseteacher.data.records import ImageRecord
from denseteacher.errors import InputError


def read_coco(
    path: Path,
    images: Path | None = None,
    *,
    fallback: Path | None = None,
    check_files: bool = True,
    on_fault: OnFault = refuse,
) -> Annotations:
    """Reads a labeled COCO data set.

    Args:
        path: The JSON.
        images: Folder of the image files; searched for near the JSON if not given.
        fallback: Where they are looked for if they are not near the JSON.
        check_files: Look for the image files.
        on_fault: Called for faults of entries.

    Raises:
        InputError: If the file is not a COCO JSON.
    """
    content = load_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InputError(_no_coco(path, content, key))
    listed, image_ids = sound_images(path, content["images"], on_fault)
    categories, category_ids = sound_categories(path, content["categories"], on_fault)
    if not listed or not categories:
        raise InputError(f"{path} lists no {'categories' if listed else 'images'}")
    all_ids = {image["id"] for image in listed}
    found = (
        find_listed(path, listed, images, fallback, on_fault)
        if check_files
        else _likely(path, listed, images, on_fault)
    )
    known = Known(
        {image["id"]: image["file_name"] for image in found.entries},
        _numbers(content["images"], image_ids) | all_ids,
        {category["id"] for category in categories},
        image_ids,
        category_ids,
    )
    known = known._replace(dropped=known.dropped - known.images.keys())
    annotations = sound_annotations(path, content["annotations"], known, on_fault)
    on_fault(share_faults(path, [one["bbox"] for one in annotations if not one["iscrowd"]]))
    content |= {"images": found.entries, "categories": categories, "annotations": annotations}
    return Annotations(path, "coco", content, found.folder)


def _numbers(images: Sequence[Any], ids: Ids) -> set[int]:
    numbers = (ids.number(image.get("id")) for image in images if isinstance(image, dict))
    return {number for number in numbers if number is not None}


def read_image_info(
    path: Path, images: Path | None = None, *, fallback: Path | None = None, on_fault: OnFault = refuse
) -> list[ImageRecord]:
    """The images of a COCO JSON, with or without annotations, by rising id; see ``read_coco``.

    Raises:
        InputError: If the file lists no images, or they are not there.
    """
    content = load_json(path)
    if not isinstance(content.get("images"), list) or not content["images"]:
        raise InputError(f"{path} is not a COCO image info: it has no list 'images'")
    listed, _ = sound_images(path, content["images"], on_fault)
    if not listed:
        raise InputError(f"{path} lists no images")
    folder, entries = find_listed(path, listed, images, fallback, on_fault)
    return Annotations(path, "coco", {"images": entries}, folder).records


def load_json(path: Path) -> Content:
    """The object in a JSON file.

    Raises:
        InputError: If it holds none.
    """

    def no_number(name: str) -> NoReturn:
        raise ValueError(f"{name} is not a number of JSON")

    try:
        content = json.loads(path.read_bytes(), parse_constant=no_number)
    except FileNotFoundError as error:
        raise InputError(f"there is no annotation file {path}") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder, where a COCO JSON file is needed") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read as JSON: {str(error).splitlines()[0][:200]}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not a COCO JSON: it holds a {type(content).__name__}, not an object")
    return content


def _no_coco(path: Path, content: Mapping[str, Any], missing: str) -> str:
    """What a JSON is that has not all lists of a COCO file, and what to do with it."""
    values = [value for value in content.values() if isinstance(value, dict)]
    if "_via_img_metadata" in content or any("regions" in value and "filename" in value for value in values[:1]):
        return (
            f"{path} is a project or an export of VIA (VGG Image Annotator): open it there, and export it by "
            "Annotation > Export Annotations (COCO format)"
        )
    if isinstance(content.get("objects"), list) and ("size" in content or "tags" in content):
        return (
            f"{path} is an annotation of Supervisely: export the project by Supervisely's app Export to COCO, and "
            "name the JSON that it writes"
        )
    if {"classes", "tags"} <= content.keys():
        return f"{path} is the meta.json of Supervisely: export the project by Supervisely's app Export to COCO"
    return f"{path} is not a COCO annotation file: it has no list {missing!r}"


def _likely(path: Path, listed: list[Entry], images: Path | None, on_fault: OnFault) -> ListedImages:
    """The images in their folder, or where it would be if they are not there."""
    try:
        folder = find_image_folder(
            path, images, [one["file_name"] for one in listed if not leaves_folder(one["file_name"])]
        )
    except InputError:
        folder = images or path.parent
    return ListedImages(folder, with_sizes(path, folder, listed, on_fault))
