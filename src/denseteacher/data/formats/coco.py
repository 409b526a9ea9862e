"""COCO JSON."""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, NoReturn

from denseteacher.data.formats.annotations import Annotations, Content, Fault, Report, is_number, refuse
from denseteacher.data.formats.files import find_image_folder
from denseteacher.data.records import ImageRecord
from denseteacher.errors import InputError


def read_coco(
    path: Path,
    images: Path | None = None,
    *,
    fallback: Path | None = None,
    check_files: bool = True,
    report: Report = refuse,
) -> Annotations:
    """Reads a labeled COCO data set.

    Args:
        path: The JSON.
        images: Folder of the image files; searched for near the JSON if not given.
        fallback: Where they are looked for if they are not near the JSON.
        check_files: Look for the image files.
        report: Told about faults of entries.

    Raises:
        InputError: If the file is no COCO JSON.
    """
    content = load_json(path)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise InputError(f"{path} is no COCO annotation file: it has no list {key!r}")
    listed = _sound_images(path, content["images"], report)
    categories = _sound_categories(path, content["categories"], report)
    if not listed and content["images"]:
        raise InputError(f"{path} lists no sound image; the first: {_image_fault(content['images'][0])}")
    if not listed or not categories:
        raise InputError(f"{path} lists no {'categories' if listed else 'images'}")
    if check_files:
        folder = _folder(path, listed, images, fallback, report)
        listed = _existing(path, folder, listed, report)
    else:
        folder = _likely_folder(path, listed, images)
    dropped = _ids(content["images"]) - _ids(listed)
    content |= {"images": listed, "categories": categories}
    content["annotations"] = _sound_annotations(path, content, dropped, report)
    return Annotations(path, "coco", content, folder)


def read_image_info(
    path: Path, images: Path | None = None, *, fallback: Path | None = None, report: Report = refuse
) -> list[ImageRecord]:
    """The images of a COCO JSON, with or without annotations, by rising id; see ``read_coco``.

    Raises:
        InputError: If the file lists no images, or they are not there.
    """
    content = load_json(path)
    if not isinstance(content.get("images"), list) or not content["images"]:
        raise InputError(f"{path} is no COCO image info: it has no list 'images'")
    listed = _sound_images(path, content["images"], report)
    folder = _folder(path, listed, images, fallback, report)
    listed = _existing(path, folder, listed, report)
    return Annotations(path, "coco", {"images": listed}, folder).records


def load_json(path: Path) -> Content:
    """The object in a JSON file.

    Raises:
        InputError: If it holds none.
    """

    def no_number(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    try:
        content = json.loads(path.read_bytes(), parse_constant=no_number)
    except FileNotFoundError as error:
        raise InputError(f"there is no annotation file {path}") from error
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder, where a COCO JSON file is needed") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} can't be read as JSON: {str(error).splitlines()[0][:200]}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is no COCO JSON: it holds a {type(content).__name__}, not an object")
    return content


def _sound_images(path: Path, images: list[Any], report: Report) -> list[dict[str, Any]]:
    faults, sound = [], []
    for image in map(_tidied, images):
        fault = _image_fault(image)
        if fault is None:
            sound.append(image)
        else:
            faults.append(Fault("image entry", f"{path}: {fault}"))
    report(faults)
    return _unique(path, "image", sound, report)


def _tidied(image: Any) -> Any:
    """An entry of which the name has plain slashes, as those from Windows have not, and the sizes are whole numbers."""
    if not isinstance(image, dict):
        return image
    name, sides = image.get("file_name"), {key: image.get(key) for key in ("width", "height")}
    changed: dict[str, Any] = {"file_name": name.replace("\\", "/")} if isinstance(name, str) and "\\" in name else {}
    changed |= {key: int(side) for key, side in sides.items() if isinstance(side, float) and side.is_integer()}
    return image | changed if changed else image


def _image_fault(image: Any) -> str | None:
    if not isinstance(image, dict) or not isinstance(image.get("id"), int) or not _is_name(image.get("file_name")):
        return f"an image needs a whole-number id and a file_name, not {str(image)[:100]}"
    for key in ("width", "height"):
        if not isinstance(image.get(key), int) or image[key] < 1:
            return f"image {image['id']} needs a {key} in pixels, not {image.get(key)!r}"
    return None


def _sound_categories(path: Path, categories: list[Any], report: Report) -> list[dict[str, Any]]:
    def is_sound(category: Any) -> bool:
        return isinstance(category, dict) and isinstance(category.get("id"), int) and "name" in category

    report(
        [
            Fault("category entry", f"{path}: the category {category!r} needs a whole-number id and a name")
            for category in categories
            if not is_sound(category)
        ]
    )
    return _unique(path, "category", [category for category in categories if is_sound(category)], report)


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _unique(path: Path, kind: str, entries: list[dict[str, Any]], report: Report) -> list[dict[str, Any]]:
    """The first entry of each id."""
    first = {entry["id"]: entry for entry in reversed(entries)}
    twice = {entry["id"] for entry in entries if first[entry["id"]] is not entry}
    report([Fault(f"{kind} id twice", f"{path}: {kind} id {id_} stands twice") for id_ in sorted(twice)])
    return [entry for entry in entries if first[entry["id"]] is entry]


def _ids(images: list[Any]) -> set[int]:
    return {image["id"] for image in images if isinstance(image, dict) and isinstance(image.get("id"), int)}


def _sound_annotations(path: Path, content: Content, dropped: set[int], report: Report) -> list[dict[str, Any]]:
    """The annotations without a fault; those of images that were dropped go without a word of their own."""
    images = {image["id"]: image["file_name"] for image in content["images"]}
    categories = {category["id"] for category in content["categories"]}
    faults: dict[str, list[Fault]] = {}
    sound = []
    for one in content["annotations"]:
        fault = _annotation_fault(one, images, categories)
        if fault is None:
            sound.append(one)
        else:
            name = f"{path}: annotation {one.get('id') if isinstance(one, dict) else one!r}"
            if isinstance(one, dict) and isinstance(one.get("image_id"), int):
                if one["image_id"] in dropped:
                    continue
                name += f" of {images[one['image_id']]}" if one["image_id"] in images else ""
            faults.setdefault(fault.kind, []).append(Fault(fault.kind, f"{name} {fault.message}"))
    for kind in faults.values():
        report(kind)
    return sound


def _annotation_fault(one: Any, images: Collection[int], categories: set[int]) -> Fault | None:
    if not isinstance(one, dict) or not {"image_id", "category_id", "bbox"} <= one.keys():
        return Fault("annotation entry", "needs image_id, category_id and bbox")
    if not isinstance(one["image_id"], int) or one["image_id"] not in images:
        return Fault("annotation of no image", f"is of image {one['image_id']!r}, which is not listed")
    if not isinstance(one["category_id"], int) or one["category_id"] not in categories:
        known = sorted(categories)[:20]
        return Fault("unknown category", f"has the unknown category {one['category_id']!r}; known: {known}")
    box = one["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        return Fault("box of no four numbers", f"has the bbox {str(box)[:80]}, where [x, y, width, height] is needed")
    return None


def _folder(
    path: Path, images: list[dict[str, Any]], given: Path | None, fallback: Path | None, report: Report
) -> Path:
    """The image folder, once no name leads out of it."""
    report(
        [
            Fault(
                "file name that leaves the folder",
                f"{path}: the file_name {image['file_name']!r} leaves the image folder: it must be a plain path "
                "inside it",
            )
            for image in images
            if _escapes(image["file_name"])
        ]
    )
    names = [image["file_name"] for image in images if not _escapes(image["file_name"])]
    return find_image_folder(path, given, names, fallback)


def _likely_folder(path: Path, images: list[dict[str, Any]], given: Path | None) -> Path:
    """The image folder, or where it would be if there are no images."""
    try:
        return find_image_folder(path, given, [image["file_name"] for image in images])
    except InputError:
        return given or path.parent


def _escapes(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return name.startswith(("/", "\\", "~")) or ".." in parts or "\0" in name or ":" in parts[0]


def _existing(path: Path, folder: Path, images: list[dict[str, Any]], report: Report) -> list[dict[str, Any]]:
    """The images whose files are there, inside the folder, without a symbolic link out of it."""
    inside = os.path.realpath(folder) + os.sep
    parents: dict[str, str] = {}
    found, missing, linked = [], [], []
    for image in images:
        name = image["file_name"]
        if _escapes(name):
            continue
        full = os.path.join(folder, name)  # noqa: PTH118 (Path objects are slow for 100,000 files)
        parent = os.path.dirname(full)  # noqa: PTH120
        if parent not in parents:
            parents[parent] = os.path.realpath(parent) + os.sep
        if not os.path.isfile(full):  # noqa: PTH113
            missing.append(name)
        elif not parents[parent].startswith(inside) or (
            os.path.islink(full) and not os.path.realpath(full).startswith(inside)  # noqa: PTH114
        ):
            linked.append(name)
        else:
            found.append(image)
    report([Fault("missing image file", f"{path}: the image file {name!r} is not in {folder}") for name in missing])
    leads = f"leads out of {folder} by a symbolic link"
    report([Fault("image file outside", f"{path}: the file_name {name!r} {leads}") for name in linked])
    return found
