"""The lines of YOLO's text files: a class number, and a box, an outline or a box with keypoints."""

import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.data.formats.faults import Fault, OnFault
from denseteacher.data.formats.files import text_lines
from denseteacher.errors import InputError

_MOST = 1.001  # a share of the image's size, with the rounding of those who write five digits
_MOST_CLASSES = 10_000  # where no file says what they are called
_WANTED = "has to be a class number and x, y, width, height (or an outline) as shares of the image's size"


class Classes(NamedTuple):
    """What a class number, and the numbers after it, mean."""

    names: list[str] | None = None
    keypoints: tuple[int, int] | None = None
    """How many keypoints follow a box, and of how many numbers each; None where there are none."""


def read_objects(file: Path, image: dict[str, Any], classes: Classes, on_fault: OnFault) -> list[dict[str, Any]]:
    """The objects of a text file, which needs not be there.

    Args:
        file: The text file of an image.
        image: Its entry, with ``id``, ``width`` and ``height``.
        classes: What its numbers mean.
        on_fault: Called for faults of lines.
    """
    found: list[dict[str, Any]] = []
    try:
        lines = text_lines(file, f"{file} can't be read as text") if os.path.lexists(file) else []
    except InputError as error:
        on_fault([Fault("unreadable annotation file", str(error))])
        return found
    for number, line in lines:
        source = f"{file}, line {number}"
        numbers = _numbers(line)
        fault = _line_fault(numbers, classes)
        if fault is not None:
            on_fault([Fault(fault.kind, f"{source}: {line[:60]!r} {fault.message}")])
            continue
        if len(numbers) == 6:
            read = "has a sixth number (a confidence or a track's number), which is left out"
            on_fault([Fault("line of six numbers", f"{source}: {line[:60]!r} {read}", harmless=True)])
        shares = numbers[1:5] if len(numbers) == 6 or classes.keypoints is not None else numbers[1:]
        box = _box(shares, image["width"], image["height"])
        found.append(
            {"image_id": image["id"], "category_id": int(numbers[0]), "bbox": box, "iscrowd": 0, "source": source}
        )
    return found


def _numbers(line: str) -> list[float]:
    try:
        return [float(word) for word in line.split()]
    except ValueError:
        return []


def _line_fault(numbers: list[float], classes: Classes) -> Fault | None:
    count = len(numbers)
    if classes.keypoints is not None:
        points, each = classes.keypoints
        is_right = count in (5, 5 + points * each)
        wanted = f"{_WANTED}, followed by {points} keypoints of {each} numbers each as 'kpt_shape' says"
    else:
        is_right = count in (5, 6) or (count >= 7 and count % 2 == 1)
        wanted = _WANTED
        if count > 6 and not is_right:
            wanted += "; if these are keypoints, 'kpt_shape' in the data.yaml should say how many"
    if not is_right or not all(map(math.isfinite, numbers)):
        return Fault("box of no four numbers", wanted)
    most = _MOST_CLASSES if classes.names is None else len(classes.names)
    if not 0 <= numbers[0] < most or numbers[0] != int(numbers[0]):
        known = f"0 to {most - 1}" if classes.names is not None else "0 or above"
        return Fault("unknown category", f"has the unknown class {numbers[0]:g}; known: {known}")
    places = numbers[1:] if classes.keypoints is None and count != 6 else numbers[1:5]
    if max(map(abs, places)) > _MOST:
        return Fault("box outside of its image", "has numbers above 1: they are shares of the image's size, not pixels")
    return None


def _box(shares: list[float], width: int, height: int) -> list[float]:
    """x, y, width, height in pixels; of an outline, or a rotated box by its corners, the box around."""
    if len(shares) == 4:
        x, y, w, h = shares
        return [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
    xs, ys = shares[::2], shares[1::2]
    left, top = min(xs) * width, min(ys) * height
    return [left, top, max(xs) * width - left, max(ys) * height - top]
