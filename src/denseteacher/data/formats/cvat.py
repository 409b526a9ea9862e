"""CVAT's own XML, "CVAT for images 1.1": one ``annotations.xml`` for all images."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from denseteacher.data.formats.annotations import Annotations
from denseteacher.data.formats.coordinates import as_number
from denseteacher.data.formats.faults import Fault, OnFault, refuse
from denseteacher.data.formats.listed_images import Entry, as_side
from denseteacher.data.formats.objects_by_name import NamedObject, named_annotations
from denseteacher.data.formats.outlines import Box, box_of_ellipse, box_of_points, box_of_turned
from denseteacher.errors import InputError

_ROOT = re.compile(rb"<annotations[\s>]")
_HEAD = 4096  # bytes that have the root of an XML file
_FILE = "annotations.xml"
_WITHOUT_BOX = ("polyline", "points", "cuboid", "skeleton")


def is_cvat(path: Path) -> bool:
    """Whether a path is CVAT's XML, or a folder with its ``annotations.xml``."""
    file = path / _FILE if path.is_dir() else path
    if file.suffix.lower() != ".xml" or not file.is_file():
        return False
    try:
        with file.open("rb") as stream:
            return _ROOT.search(stream.read(_HEAD)) is not None
    except OSError:
        return False


def read_cvat(
    path: Path, images: Path | None = None, *, fallback: Path | None = None, on_fault: OnFault = refuse
) -> Annotations:
    """Reads boxes, and the boxes around polygons, masks, ellipses and turned boxes.

    Args:
        path: The XML, or its folder.
        images: Folder of the images; found near the XML if not given.
        fallback: Where they are looked for if they are not near it.
        on_fault: Called for faults of entries.

    Raises:
        InputError: If it is not a such file.
    """
    file = path / _FILE if path.is_dir() else path
    root = _root(file)
    entries: list[Entry] = []
    objects: list[NamedObject] = []
    passed: list[Fault] = []
    for number, image in enumerate(root.iter("image"), 1):
        name = (image.get("name") or "").replace("\\", "/")
        if not name:
            on_fault([Fault("image entry", f"{file}: image {number} has no name")])
            continue
        sides = {side: as_side(image.get(side)) for side in ("width", "height")}
        entries.append({"id": number, "file_name": name, **sides})
        for place, shape in enumerate(image, 1):
            source = f"{file}: {shape.tag} {place} of {name}"
            if shape.tag in _WITHOUT_BOX:
                passed.append(Fault("shape without a box", f"{source} is passed over: it has no box", harmless=True))
            elif shape.tag != "tag":
                objects += _objects(shape, number, source)
    if not entries and root.find("track") is not None:
        raise InputError(f"{file} holds the tracks of a video: export the task from CVAT as COCO 1.0, with its images")
    on_fault(passed)
    classes = [(name.text or "").strip() for name in root.iterfind("meta//labels/label/name")]
    return named_annotations(
        file,
        "cvat",
        entries,
        objects,
        classes=[*filter(None, classes)],
        images=images,
        fallback=fallback,
        on_fault=on_fault,
    )


def _root(file: Path) -> ElementTree.Element:
    """The root of an XML file that defines nothing of its own."""
    if not file.is_file():  # a pipe would be waited for
        raise InputError(f"there is no file {file}")
    try:
        content = file.read_bytes()
        if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
            raise InputError(f"{file} has a document type of its own, which CVAT does not write: it is not read")
        root = ElementTree.fromstring(content)
    except (OSError, ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise InputError(f"{file} can't be read as XML: {str(error)[:200]}") from error
    if root.tag == "annotation":
        raise InputError(f"{file} is the XML of one image in VOC's format: name the folder that it is in")
    if root.tag != "annotations":
        raise InputError(f"{file} is not an XML of CVAT: its root is {root.tag[:50]!r}, not 'annotations'")
    return root


def _objects(shape: ElementTree.Element, image: int, source: str) -> Iterator[NamedObject]:
    read = _SHAPES.get(shape.tag)
    if read is not None:
        yield NamedObject(image, (shape.get("label") or "").strip(), read(shape) or [math.nan] * 4, source)


def _numbers(shape: ElementTree.Element, *names: str) -> list[float]:
    """Attributes as numbers, nan where there is none."""
    found = (as_number(shape.get(name)) for name in names)
    return [math.nan if number is None else number for number in found]


def _box(shape: ElementTree.Element) -> Box:
    left, top, right, bottom = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
    degrees = as_number(shape.get("rotation") or "0") or 0.0
    if degrees:
        return box_of_turned(((left + right) / 2, (top + bottom) / 2), (right - left, bottom - top), degrees)
    return [left, top, right - left, bottom - top]


def _polygon(shape: ElementTree.Element) -> Box | None:
    points = []
    for pair in (shape.get("points") or "").split(";"):
        numbers = [as_number(one) for one in pair.split(",")]
        if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
            return None
        points.append((numbers[0], numbers[1]))
    return box_of_points(points)


def _ellipse(shape: ElementTree.Element) -> Box:
    x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
    return box_of_ellipse((x, y), (rx, ry), as_number(shape.get("rotation") or "0") or 0.0)


def _mask(shape: ElementTree.Element) -> Box:
    return _numbers(shape, "left", "top", "width", "height")


_SHAPES = {"box": _box, "polygon": _polygon, "ellipse": _ellipse, "mask": _mask}
