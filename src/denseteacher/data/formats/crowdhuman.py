"""CrowdHuman: ``.odgt``, a JSON object a line."""

import json
from pathlib import Path
from typing import Any

from denseteacher.data.formats.annotations import Annotations
from denseteacher.data.formats.coordinates import is_number
from denseteacher.data.formats.faults import Fault, OnFault, refuse
from denseteacher.data.formats.files import image_named, sizes_or_errors, text_lines
from denseteacher.errors import InputError

_PERSON = 1


def read_crowdhuman(
    path: Path, images: Path | None = None, *, fallback: Path | None = None, on_fault: OnFault = refuse
) -> Annotations:
    """Reads CrowdHuman: full boxes (``fbox``) of people, cut to the image as its evaluation does.

    What is not a person, or has ``extra.ignore``, is a region to ignore (docs/sources.md, CrowdHuman). The published
    files do not say how large the images are; that comes from the image headers.

    Args:
        path: An ``.odgt``.
        images: Folder of the images; ``Images`` or ``images`` near the file if not given.
        fallback: Where they are looked for if they are not near the file.
        on_fault: Called for faults of entries.

    Raises:
        InputError: If there is no such file, or no image.
    """
    entries = _entries(path, on_fault)
    folder = _image_folder(path, images, fallback, [str(entry["ID"]) for entry in entries])
    named = {name: _file_name(folder, name) for name in (str(entry["ID"]) for entry in entries)}
    missing = [name for name, file in named.items() if file is None]
    on_fault([Fault("missing image file", f"{path}: the image {name!r} is not in {folder}") for name in missing])
    files = {name: file for name, file in named.items() if file is not None}
    sizes = dict(zip(files, sizes_or_errors((folder / file, None) for file in files.values()), strict=True))
    on_fault([Fault("unreadable image", str(size)) for size in sizes.values() if isinstance(size, InputError)])
    listed: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for entry in entries:
        size = sizes.get(str(entry["ID"]))
        if isinstance(size, tuple):
            file = files[str(entry["ID"])]
            listed.append({"id": len(listed) + 1, "file_name": file, "width": size[1], "height": size[0]})
            objects += _objects(path, entry, listed[-1], on_fault)
    for number, one in enumerate(objects, 1):
        one["id"] = number
    content = {"images": listed, "annotations": objects, "categories": [{"id": _PERSON, "name": "person"}]}
    return Annotations(path, "crowdhuman", content, folder)


def _entries(path: Path, on_fault: OnFault) -> list[dict[str, Any]]:
    entries: dict[str, dict[str, Any]] = {}
    for number, line in text_lines(path, f"there is no readable .odgt file at {path}"):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            entry = None
        if not isinstance(entry, dict) or "ID" not in entry or not isinstance(entry.get("gtboxes"), list):
            wanted = "has to be a JSON object with ID and the list gtboxes"
            on_fault([Fault("image entry", f"{path}, line {number} {wanted}")])
        elif str(entry["ID"]) in entries:
            on_fault([Fault("image id twice", f"{path}, line {number}: image {entry['ID']} stands twice")])
        else:
            entries[str(entry["ID"])] = entry
    if not entries:
        raise InputError(f"{path} names no images: each line has to be a JSON object with ID and gtboxes")
    return [entries[name] for name in sorted(entries)]


def _image_folder(path: Path, images: Path | None, fallback: Path | None, names: list[str]) -> Path:
    near, above = path.parent, path.parent.parent
    usual = [near / "Images", near / "images", above / "Images", above / "images", near]
    places = [images] if images is not None else usual if fallback is None else [*usual, fallback]
    for place in places:
        if any(image_named(place, name) for name in names[:20]):
            return place
    tried = ", ".join(map(str, places))
    raise InputError(f"{path}: the image {names[0]!r} is in none of {tried}: give its folder with --images DIR")


def _file_name(folder: Path, name: str) -> str | None:
    return None if "/" in name else image_named(folder, name)


def _objects(path: Path, entry: dict[str, Any], image: dict[str, Any], on_fault: OnFault) -> list[dict[str, Any]]:
    found = []
    for number, one in enumerate(entry["gtboxes"], 1):
        source = f"{path}: box {number} of {entry['ID']}"
        box = one.get("fbox") if isinstance(one, dict) else None
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
            on_fault([Fault("box of no four numbers", f"{source} needs an fbox [x, y, width, height]")])
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
