"""How large an image is shown, and the canvas that images share; imports nothing."""

from collections.abc import Sequence


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
