"""Boxes around what is not drawn as a box: polygons, masks in run lengths, turned boxes, ellipses."""

import math
from collections.abc import Sequence
from typing import Any

from denseteacher.data.formats.coordinates import as_number, is_number

_MOST_RUNS = 10_000_000

Box = list[float]
"""x, y, width, height in pixels."""


def box_of_points(points: Sequence[Sequence[float]]) -> Box | None:
    """The box around points; None where there are none."""
    if not points:
        return None
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]


def box_of_turned(center: tuple[float, float], sides: tuple[float, float], degrees: float) -> Box:
    """The box around a box that is turned about its center, clockwise as seen."""
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    width, height = sides[0] * cosine + sides[1] * sine, sides[0] * sine + sides[1] * cosine
    return [center[0] - width / 2, center[1] - height / 2, width, height]


def box_of_ellipse(center: tuple[float, float], radii: tuple[float, float], degrees: float) -> Box:
    """The box around an ellipse that is turned about its center."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half = math.hypot(radii[0] * cosine, radii[1] * sine), math.hypot(radii[0] * sine, radii[1] * cosine)
    return [center[0] - half[0], center[1] - half[1], 2 * half[0], 2 * half[1]]


def box_of_segmentation(segmentation: Any) -> Box | None:
    """The box around a ``segmentation`` of COCO: polygons, or a mask in run lengths; None where it is neither."""
    if isinstance(segmentation, dict):
        return _box_of_runs(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        return None
    polygons = segmentation if all(isinstance(one, list) for one in segmentation) else [segmentation]
    points: list[tuple[float, float]] = []
    for polygon in polygons:
        numbers = [as_number(value) for value in polygon]
        if len(numbers) % 2 or None in numbers:
            return None
        plain = [number for number in numbers if number is not None]
        points += zip(plain[::2], plain[1::2], strict=True)
    return box_of_points(points)


def _box_of_runs(mask: dict[str, Any]) -> Box | None:
    """Runs of zeros and ones in turn, down one column after the other."""
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size):
        return None
    runs = _decoded(counts) if isinstance(counts, str) else counts
    if not isinstance(runs, list) or len(runs) > _MOST_RUNS or not all(map(is_number, runs)):
        return None
    if any(run < 0 or run != int(run) for run in runs) or sum(runs) > size[0] * size[1]:
        return None
    height, start = size[0], 0
    left, right, top, bottom = math.inf, -math.inf, math.inf, -math.inf
    for number, run in enumerate(map(int, runs)):
        if number % 2 and run:
            last = start + run - 1
            left, right = min(left, start // height), max(right, last // height)
            within = start // height == last // height
            top = min(top, start % height if within else 0)
            bottom = max(bottom, last % height if within else height - 1)
        start += run
    return None if left == math.inf else [left, top, right - left + 1, bottom - top + 1]


def _decoded(text: str) -> list[int] | None:
    """COCO's compressed run lengths: five bits a character, each number from the third on less the one before last."""
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, shift = 0, 0
    return None if shift else runs
