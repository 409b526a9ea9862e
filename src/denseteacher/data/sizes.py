"""How large an image is shown, and the canvases that images share; imports nothing of the package."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

_WORTH = 0.02  # of the pixels


def resized_size(height: int, width: int, short_side: int, max_side: int) -> tuple[int, int]:
    """Height and width of an image resized to a short side, its shape kept and its long side bounded.

    As in detectron2: both sides are scaled in floating point, scaled down together where the longer one
    exceeds the bound, and rounded half up once, at the end.

    Args:
        height: Height of the image in pixels.
        width: Width of the image in pixels.
        short_side: Wanted length of the shorter side in pixels.
        max_side: Bound of the longer side in pixels.
    """
    scale = short_side / min(height, width)
    scale = min(scale, max_side / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def common_canvas(sizes: Sequence[Sequence[int]], *, multiple: int = 32) -> tuple[int, int]:
    """Height and width of the smallest canvas that holds images of these heights and widths."""
    height, width = (-(-max(sides) // multiple) * multiple for sides in zip(*sizes, strict=True))
    return height, width


def few_canvases(
    sizes: Sequence[Sequence[int]], most: int, canvas_for: Callable[[Sequence[Sequence[int]]], tuple[int, int]]
) -> list[tuple[int, int]]:
    """The canvas of each image, so that all together have few pixels on few canvases.

    Images are put in order, by shape or by one of their sides, and the order is cut where that is best.
    An order that is cut once more must save ``_WORTH`` of the pixels.

    Args:
        sizes: Height and width of each image.
        most: Canvases.
        canvas_for: Gives the canvas that holds images of some sizes.
    """
    orders = [
        sorted(range(len(sizes)), key=key) for key in (lambda i: sizes[i][0] / sizes[i][1], lambda i: sizes[i][1])
    ]
    plans = [_cut_order([sizes[place] for place in order], most, canvas_for) for order in orders]
    _, ends, order = min((*plan, order) for plan, order in zip(plans, orders, strict=True))
    chosen = [(0, 0)] * len(sizes)
    for start, end in pairwise([0, *ends]):
        canvas = canvas_for([sizes[place] for place in order[start:end]])
        for place in order[start:end]:
            chosen[place] = canvas
    return chosen


def _cut_order(
    sizes: Sequence[Sequence[int]], most: int, canvas_for: Callable[[Sequence[Sequence[int]]], tuple[int, int]]
) -> tuple[float, list[int]]:
    """Pixels with what the cuts are worth, and the ends of the parts, of the best way to cut images in this order."""
    count = len(sizes)
    pixels = {
        (start, end): (end - start) * math.prod(canvas_for(sizes[start:end]))
        for start in range(count)
        for end in range(start + 1, count + 1)
    }
    best: list[tuple[int, list[int]]] = [(pixels[0, end], [end]) for end in range(1, count + 1)]
    found = (best[-1][0] * (1 + _WORTH), best[-1][1])
    for parts in range(2, min(most, count) + 1):
        best = [
            min(
                [
                    best[end - 1],
                    *((best[cut - 1][0] + pixels[cut, end], [*best[cut - 1][1], end]) for cut in range(1, end)),
                ]
            )
            for end in range(1, count + 1)
        ]
        found = min(found, (best[-1][0] * (1 + parts * _WORTH), best[-1][1]))
    return found
