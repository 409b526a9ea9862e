"""CrowdHuman: ``.odgt``, a JSON object a line."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from denseteacher.data.formats.annotations import Annotations, Fault, Report, is_number, refuse
from denseteacher.data.formats.voc import find_voc_image
from denseteacher.data.images import image_size
from denseteacher.errors import InputError

_HEADER_THREADS = 8  # reading headers waits for the disk
_PERSON = 1


def read_crowdhuman(path: Path, images: Path | None = None, *, report: Report = refuse) -> Annotations:
    """Reads CrowdHuman: full boxes (``fbox``) of people, cut to the image as its evaluation does.

    What is no person, or has ``extra.ignore``, is a region to ignore (ssod_systems.md, section 4.1). The published
    files do not say how large the images are; that comes from the image headers.

    Args:
        path: An ``.odgt``.
        images: Folder of the images; ``Images`` or ``images`` near the file if not given.
        report: Told about faults of entries.

    Raises:
        InputError: If there is no such file, or no image.
    """
    entries = _entries(path, report)
    folder = _image_folder(path, images, [str(entry["ID"]) for entry in entries])
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        found = list(pool.map(lambda entry: _image(path, folder, entry), entries))
    for kind in ("missing image file", "unreadable image"):
        report([image for image in found if isinstance(image, Fault) and image.kind == kind])
    listed: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for entry, image in zip(entries, found, strict=True):
        if not isinstance(image, Fault):
            listed.append(image | {"id": len(listed) + 1})
            objects += _objects(path, entry, listed[-1], report)
    for number, one in enumerate(objects, 1):
        one["id"] = number
    content = {"images": listed, "annotations": objects, "categories": [{"id": _PERSON, "name": "person"}]}
    return Annotations(path, "crowdhuman", content, folder)


def _entries(path: Path, report: Report) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"there is no readable .odgt file at {path}") from error
    entries: dict[str, dict[str, Any]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        if not isinstance(entry, dict) or "ID" not in entry or not isinstance(entry.get("gtboxes"), list):
            wanted = "has to be a JSON object with ID and the list gtboxes"
            report([Fault("image entry", f"{path}, line {number} {wanted}")])
        elif str(entry["ID"]) in entries:
            report([Fault("image id twice", f"{path}, line {number}: image {entry['ID']} stands twice")])
        else:
            entries[str(entry["ID"])] = entry
    if not entries:
        raise InputError(f"{path} names no images: each line has to be a JSON object with ID and gtboxes")
    return [entries[name] for name in sorted(entries)]


def _image_folder(path: Path, images: Path | None, names: list[str]) -> Path:
    near, above = path.parent, path.parent.parent
    places = (
        [images] if images is not None else [near / "Images", near / "images", above / "Images", above / "images", near]
    )
    for place in places:
        if any(find_voc_image(place, name) for name in names[:20]):
            return place
    tried = ", ".join(map(str, places))
    raise InputError(f"{path}: the image {names[0]!r} is in none of {tried}: give its folder with --images DIR")


def _image(path: Path, folder: Path, entry: dict[str, Any]) -> dict[str, Any] | Fault:
    name = str(entry["ID"])
    found = find_voc_image(folder, name)
    if found is None or "/" in name:
        return Fault("missing image file", f"{path}: the image {name!r} is not in {folder}")
    try:
        height, width = image_size(folder / found)
    except InputError as error:
        return Fault("unreadable image", str(error))
    return {"file_name": found, "width": width, "height": height}


def _objects(path: Path, entry: dict[str, Any], image: dict[str, Any], report: Report) -> list[dict[str, Any]]:
    found = []
    for number, one in enumerate(entry["gtboxes"], 1):
        source = f"{path}: box {number} of {entry['ID']}"
        box = one.get("fbox") if isinstance(one, dict) else None
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            report([Fault("box of no four numbers", f"{source} needs an fbox [x, y, width, height]")])
            continue
        found.append(
            {
                "image_id": image["id"],
                "category_id": _PERSON,
                "bbox": _cut(box, image["width"], image["height"]),
                "iscrowd": int(_is_ignored(one)),
                "source": source,
            }
        )
    return found


def _cut(box: list[float], width: int, height: int) -> list[float]:
    """The part of a box in its image; the box as it is where there is none, which ``labeled_images`` finds out."""
    left, top = max(0, box[0]), max(0, box[1])
    right, bottom = min(width, box[0] + box[2]), min(height, box[1] + box[3])
    return [left, top, right - left, bottom - top] if right > left and bottom > top else box


def _is_ignored(one: dict[str, Any]) -> bool:
    extra = one.get("extra")
    return one.get("tag") != "person" or (isinstance(extra, dict) and bool(extra.get("ignore", 0)))
