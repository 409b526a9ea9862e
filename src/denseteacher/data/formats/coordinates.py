"""Coordinates in annotation files: what can be one, and what looks as if it were not in pixels."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from denseteacher.data.formats.faults import Fault

_LARGEST = 1e9  # px; beyond it a coordinate is none


def is_number(value: Any) -> bool:
    """Whether a value of a JSON is a number that can be a coordinate."""
    if isinstance(value, int):  # of 400 digits perhaps, which are not float
        return not isinstance(value, bool) and abs(value) <= _LARGEST
    return isinstance(value, float) and math.isfinite(value) and abs(value) <= _LARGEST


def as_number(value: Any) -> float | None:
    """A number of a JSON or a table, which may be written as text; None where it is none."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return value if is_number(value) else None


def share_faults(path: Path, boxes: Sequence[Sequence[float]]) -> list[Fault]:
    """What is wrong where boxes that should be pixels are shares of the image: most lie between 0 and 1.

    Args:
        path: The data set.
        boxes: Four numbers each.
    """
    inside = [box for box in boxes if all(0 <= value <= 1 for value in box)]
    if not inside or 2 * len(inside) < len(boxes):
        return []
    return [
        Fault(
            "boxes that look like shares",
            f"{path}: {len(inside):,} of {len(boxes):,} boxes lie between 0 and 1, as {list(inside[0])}: these look "
            "like shares of the image, where pixels are needed; multiply them by its width and height",
        )
    ]
