"""One of VOC's XML files: the size of its image, and its objects."""

import codecs
import math
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from denseteacher.data.formats.faults import Fault, OnFault
from denseteacher.data.formats.outlines import box_of_points, box_of_turned
from denseteacher.errors import InputError
from denseteacher.files import decode_text, read_regular

_SIDES = ("xmin", "ymin", "xmax", "ymax")
_TURNED = ("cx", "cy", "w", "h", "angle")  # roLabelImg's robndbox, the angle in radians
_COORDINATE = re.compile(r"([xy])(\d*)")
_LARGEST_FILE = 50_000_000  # bytes
_LARGEST = 1e9  # px
_LONGEST_SIDE = 1 << 24  # px
_DECLARED = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
_ENCODINGS = re.compile(r"utf-8|ascii|iso8859-\d+|cp\d+|gbk|gb2312|gb18030|big5|shift_jis|euc_(jp|kr)|koi8-[ru]")


def read_xml(file: Path, on_fault: OnFault) -> ElementTree.Element:
    """The root of an annotation file.

    Args:
        file: In UTF-8, in the encoding that it states, or in GBK or Latin-1.
        on_fault: Called where the encoding had to be found out.

    Raises:
        FileNotFoundError: If it is not there.
        InputError: If it can't be read.
    """
    if not os.path.lexists(file):
        raise FileNotFoundError(file)
    content = read_regular(file, _LARGEST_FILE)
    try:
        text, found = _decoded(content)
        root = ElementTree.fromstring(text)
    except (ElementTree.ParseError, ValueError, RecursionError) as error:
        raise InputError(f"{file} can't be read as XML: {str(error)[:200]}") from error
    if found is not None:
        said = f"{file} is not in the encoding that it states, or UTF-8 where it states none, and read as {found}"
        on_fault([Fault("annotation file of another encoding", said, harmless=True)])
    if root.tag.lower() != "annotation":
        raise InputError(f"{file} is not an annotation file of VOC: it holds <{root.tag[:80]}>, not <annotation>")
    return root


def _decoded(content: bytes) -> tuple[str, str | None]:
    """The text, and its encoding where that is not the one to be expected."""
    stated = _DECLARED.search(content)  # in UTF-16 it is not found, and the byte order mark says enough
    if stated is not None:
        try:
            codec = codecs.lookup(stated[1].decode()).name
            if _ENCODINGS.fullmatch(codec):
                return content.decode(codec).removeprefix("\ufeff"), None
        except (LookupError, UnicodeDecodeError):
            pass
    text, encoding = decode_text(content)
    is_expected = stated is None and encoding in ("utf-8", "utf-16")
    return text.removeprefix("\ufeff"), None if is_expected else encoding


def stated_size(root: ElementTree.Element) -> tuple[int, int] | None:
    """Height and width that a file states; None where it states none."""
    try:
        height, width = (float(root.findtext(f"size/{side}") or 0) for side in ("height", "width"))
    except ValueError:
        return None
    sound = all(1 <= side <= _LONGEST_SIDE and side == int(side) for side in (height, width))
    return (int(height), int(width)) if sound else None


def read_objects(root: ElementTree.Element, file: Path, image: int, on_fault: OnFault) -> list[dict[str, Any]]:
    """The objects of a file.

    Args:
        root: Its root.
        file: Its path, for messages.
        image: Id of its image.
        on_fault: Called for faults of objects.

    Returns:
        Annotations with their class as ``name``, and ``corners`` as they are written.
    """
    found = []
    for number, element in enumerate(root.iter("object"), 1):
        source = f"{file}, object {number}"
        name = (element.findtext("name") or "").strip()
        corners = _numbers(element, [f"bndbox/{side}" for side in _SIDES])
        if corners is not None:
            left, top, right, bottom = corners
            box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
            degrees = _rotation(element)
            if degrees:
                box = box_of_turned((box[0] + box[2] / 2, box[1] + box[3] / 2), (box[2], box[3]), degrees)
                said = f"{source} is turned by {degrees:g} degrees: the box around it is read"
                on_fault([Fault("turned box", said, harmless=True)])
        else:
            drawn = _box_around(element) if element.find("bndbox/xmin") is None else None
            if drawn is None:
                wanted = f"{source} needs a bndbox with the numbers {', '.join(_SIDES)}"
                on_fault([Fault("box of no four numbers", wanted)])
                continue
            box = drawn
            corners = [box[0], box[1], box[0] + box[2], box[1] + box[3]]
            said = f"{source} has an outline or a turned box in place of a bndbox: the box around it is read"
            on_fault([Fault("outline in place of a box", said, harmless=True)])
        if not name:
            on_fault([Fault("annotation entry", f"{source} has no name")])
            continue
        difficult = (element.findtext("difficult") or "").strip().lower() in ("1", "true", "yes")
        entry = {"image_id": image, "name": name, "bbox": box, "iscrowd": 0, "difficult": int(difficult)}
        found.append(entry | {"source": source, "corners": corners})
    return found


def _rotation(element: ElementTree.Element) -> float:
    """Degrees by which an object of CVAT is turned, whose corners are those before."""
    for attribute in element.iterfind("attributes/attribute"):
        if (attribute.findtext("name") or "").strip() == "rotation":
            return (_numbers(attribute, ["value"]) or [0.0])[0]
    return 0.0


def _numbers(element: ElementTree.Element, paths: list[str]) -> list[float] | None:
    try:
        numbers = [float(element.findtext(path) or "") for path in paths]
    except ValueError:
        return None
    return numbers if all(map(_is_coordinate, numbers)) else None


def _is_coordinate(number: float) -> bool:
    return math.isfinite(number) and abs(number) <= _LARGEST


def _box_around(element: ElementTree.Element) -> list[float] | None:
    """The box around a turned box, or around the points that an object has in any form: x1, y1, ..., or pt/x, pt/y."""
    turned = _numbers(element, [f"robndbox/{key}" for key in _TURNED])
    if turned is not None:
        x, y, width, height, angle = turned
        return box_of_turned((x, y), (width, height), math.degrees(angle))
    places: dict[str, list[float]] = {"x": [], "y": []}
    for one in element.iter():
        axis = _COORDINATE.fullmatch(one.tag)
        if axis is None:
            continue
        number = _numbers(one, ["."])
        if number is None:
            return None
        places[axis[1]] += number
    if len(places["x"]) != len(places["y"]) or len(places["x"]) < 2:
        return None
    return box_of_points(list(zip(places["x"], places["y"], strict=True)))
