"""LabelMe: a JSON for each image, beside it."""

import json
import math
import posixpath
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from denseteacher.data.formats.annotations import Annotations
from denseteacher.data.formats.coordinates import as_number
from denseteacher.data.formats.faults import Fault, OnFault, brief, refuse
from denseteacher.data.formats.files import images_below
from denseteacher.data.formats.listed_images import Entry, as_side
from denseteacher.data.formats.objects_by_name import NamedObject, named_annotations
from denseteacher.data.formats.outlines import Box, box_of_points

_LOOKED_AT = 5  # files of a folder
_HEAD = 1 << 16  # bytes of a file in which its keys stand, before or behind the image itself
_WITHOUT_BOX = ("point", "points", "line", "linestrip")


def is_labelme(path: Path) -> bool:
    """Whether a path is a JSON of LabelMe, or a folder of such."""
    files = [path] if path.is_file() else sorted(path.glob("*.json"))[:_LOOKED_AT]
    return any(file.suffix.lower() == ".json" and file.is_file() and _is_labelme(file) for file in files)


def _is_labelme(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            head = stream.read(_HEAD)
            stream.seek(max(0, file.stat().st_size - _HEAD))
            ends = head + stream.read(_HEAD)
    except OSError:
        return False
    return b'"shapes"' in ends and (b'"imagePath"' in ends or b'"imageData"' in ends)


def read_labelme(
    path: Path, images: Path | None = None, *, fallback: Path | None = None, on_fault: OnFault = refuse
) -> Annotations:
    """Reads rectangles, and the boxes around polygons, circles, masks and turned boxes.

    Args:
        path: The folder, searched with all below it; or one of its files.
        images: Folder of the images; beside the JSON files if not given.
        fallback: Where they are looked for if they are not there.
        on_fault: Called for faults of entries.

    Raises:
        InputError: If it holds no such files.
    """
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*.json") if file.is_file())
    base = path.parent if path.is_file() else path
    entries: list[Entry] = []
    objects: list[NamedObject] = []
    faults: dict[str, list[Fault]] = {}
    for file in files:
        content = _content(file)
        if isinstance(content, str):
            fault = Fault("unreadable annotation file", content)
            faults.setdefault(fault.kind, []).append(fault)
            continue
        number = len(entries) + 1
        entries.append(_entry(number, file, base, content))
        for place, shape in enumerate(content["shapes"], 1):
            found = _object(shape, number, f"{file}, shape {place}")
            if isinstance(found, Fault):
                faults.setdefault(found.kind, []).append(found)
            else:
                objects.append(found)
    for kind in faults.values():
        on_fault(kind)
    own = base if images is None and images_below(base) else images
    return named_annotations(path, "labelme", entries, objects, images=own, fallback=fallback, on_fault=on_fault)


def _content(file: Path) -> dict[str, Any] | str:
    """What a file holds, or why it is none of LabelMe."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return f"{file} can't be read as JSON: {str(error)[:200]}"
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        return f"{file} is not a file of LabelMe: it has no list 'shapes'"
    return content


def _entry(number: int, file: Path, base: Path, content: Mapping[str, Any]) -> Entry:
    """The image that a file names, from where the file is: its path is relative to that, or of another machine."""
    named = content.get("imagePath")
    name = named.replace("\\", "/") if isinstance(named, str) and named else file.stem
    below = file.parent.relative_to(base).as_posix()
    if not name.startswith("/") and ":" not in name:  # not a place of another machine
        name = posixpath.normpath(f"{below}/{name}")
    return {
        "id": number,
        "file_name": name,
        "width": as_side(content.get("imageWidth")),
        "height": as_side(content.get("imageHeight")),
    }


def _object(shape: Any, image: int, source: str) -> NamedObject | Fault:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str | int):
        return Fault("annotation entry", f"{source} needs a label and points, not {brief(shape)}")
    kind = shape.get("shape_type") or "polygon"
    if kind in _WITHOUT_BOX:
        return Fault("shape without a box", f"{source} is passed over: a {kind} has no box", harmless=True)
    box = _box(kind, shape.get("points"))
    return NamedObject(image, str(shape["label"]).strip(), box, source, shape.get("difficult") is True)


def _box(kind: object, points: Any) -> Box:
    """The box around points; those of a circle are its center and one of its edge."""
    pairs = []
    for point in points if isinstance(points, list) else []:
        numbers = [as_number(one) for one in point] if isinstance(point, list) else []
        if len(numbers) < 2 or numbers[0] is None or numbers[1] is None:
            return [math.nan] * 4
        pairs.append((numbers[0], numbers[1]))
    if kind == "circle" and len(pairs) == 2:
        (x, y), edge = pairs
        radius = math.hypot(edge[0] - x, edge[1] - y)
        return [x - radius, y - radius, 2 * radius, 2 * radius]
    return box_of_points(pairs) or [math.nan] * 4
