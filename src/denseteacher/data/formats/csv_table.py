"""A CSV table, a box a row: ``image,xmin,ymin,xmax,ymax,label`` or TensorFlow's ``filename,width,height,class,...``."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from denseteacher.data.formats.annotations import Annotations
from denseteacher.data.formats.coordinates import as_number
from denseteacher.data.formats.faults import Fault, OnFault, brief, refuse
from denseteacher.data.formats.listed_images import Entry, as_side
from denseteacher.data.formats.objects_by_name import NamedObject, named_annotations
from denseteacher.errors import InputError

_COLUMNS: dict[str, tuple[str, ...]] = {
    "image": (
        "image",
        "filename",
        "file_name",
        "file",
        "image_path",
        "path",
        "image_name",
        "img",
        "image_id",
        "imageid",
    ),
    "xmin": ("xmin", "x_min", "x1", "left", "xtl"),
    "ymin": ("ymin", "y_min", "y1", "top", "ytl"),
    "xmax": ("xmax", "x_max", "x2", "right", "xbr"),
    "ymax": ("ymax", "y_max", "y2", "bottom", "ybr"),
    "label": ("label", "class", "class_name", "classname", "name", "category", "labelname", "label_name"),
    "width": ("width", "image_width", "img_width"),
    "height": ("height", "image_height", "img_height"),
}
"""What a column may be called, in any case."""
_SIDES = ("xmin", "ymin", "xmax", "ymax")
_NEEDED = ("image", *_SIDES, "label")
_TENSORFLOW = ("image", "width", "height", "label", *_SIDES)
_DELIMITERS = ",;\t|"


def read_csv(
    path: Path, images: Path | None = None, *, fallback: Path | None = None, on_fault: OnFault = refuse
) -> Annotations:
    """Reads a table whose columns its first line names, or which has one of the two usual orders without such a line.

    Corners are pixels from 0 on: a box goes from ``xmin`` to ``xmax``. A row with an image alone is an image
    without objects. Images of one name are one image.

    Args:
        path: The table.
        images: Folder of the images; found near the table if not given.
        fallback: Where they are looked for if they are not near it.
        on_fault: Called for faults of entries.

    Raises:
        InputError: If it is not a such table.
    """
    rows = _rows(path)
    if not rows:
        raise InputError(f"{path} is empty: it should have a row for each box ({','.join(_NEEDED)})")
    columns, first = _layout(path, rows)
    entries: dict[str, Entry] = {}
    objects: list[NamedObject] = []
    faults: list[Fault] = []
    for number, row in rows[first:]:
        cells = {name: row[place].strip() for name, place in columns.items() if place < len(row)}
        name, source = cells.get("image", "").replace("\\", "/"), f"{path}, line {number}"
        if not name:
            faults.append(Fault("annotation entry", f"{source} names no image: {brief(row)}"))
            continue
        sides = {side: as_side(cells.get(side)) for side in ("width", "height")}
        entry = entries.setdefault(name, {"id": len(entries) + 1, "file_name": name, **sides})
        if any(cells.get(key) for key in ("label", *_SIDES)):
            objects.append(NamedObject(entry["id"], cells.get("label", ""), _box(cells), source))
    on_fault(faults)
    return named_annotations(
        path, "csv", list(entries.values()), objects, images=images, fallback=fallback, on_fault=on_fault
    )


def _box(cells: Mapping[str, str]) -> list[float]:
    corners = [as_number(cells.get(side, "")) for side in _SIDES]
    left, top, right, bottom = (math.nan if corner is None else corner for corner in corners)
    return [left, top, right - left, bottom - top]


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Rows that are not blank, with the numbers of their lines from 1."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    text = _text(path, content)
    lines = text.splitlines()
    sample = next((line for line in lines if line.strip()), "")
    delimiter = max(_DELIMITERS, key=sample.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}, can't be read as CSV: {error}") from error


def _text(path: Path, content: bytes) -> str:
    encodings = ("utf-16",) if content.startswith((b"\xff\xfe", b"\xfe\xff")) else ("utf-8-sig", "cp1252")
    for encoding in encodings:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise InputError(f"{path} can't be read as text: save the table as UTF-8")


def _layout(path: Path, rows: Sequence[tuple[int, Sequence[str]]]) -> tuple[dict[str, int], int]:
    """The places of the columns, and the first row that is not a heading."""
    heading = [cell.strip().lower().replace(" ", "_") for cell in rows[0][1]]
    found = {
        column: min(heading.index(name) for name in names if name in heading)
        for column, names in _COLUMNS.items()
        if set(names) & set(heading)
    }
    if set(_NEEDED) <= found.keys():
        return found, 1
    for order in (_NEEDED, _TENSORFLOW):
        numbers = [place for place, name in enumerate(order) if name not in ("image", "label")]
        full = next((row for _, row in rows if len(row) == len(order) and row[-1].strip()), [])
        if full and all(as_number(full[place]) is not None for place in numbers):
            return {name: place for place, name in enumerate(order)}, 0
    missing = ", ".join(name for name in _NEEDED if name not in found)
    raise InputError(
        f"{path} is not a table of boxes that is known: its first line should name the columns {', '.join(_NEEDED)}, "
        f"and lacks {missing}; it has {brief(','.join(heading))}"
    )
