"""Pictures in a page: images as data URIs, with boxes that a reader can filter by score."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from denseteacher.visualization.boxes import fitted

SHOWN_ABOVE = 0.5
"""Score that detections are shown above; on a page at first, or without its sliders."""
_LARGEST = 720  # px
_TEXT = 1 / 20  # of a picture's width
_MOST_LINES = 6


class PageBox(NamedTuple):
    """A box on a picture, in its pixels."""

    x: float
    y: float
    width: float
    height: float
    text: str
    kind: str
    """``truth``, ``right``, ``wrong``, ``kept`` (a pseudo-box) or ``teacher_output``, whose truth is not known."""
    score: float
    """Of the detection, or of the one that found this object (0: none did)."""
    place: tuple[float, float] = (0.0, 0.0)
    """Where the text begins: x, and y of its baseline."""


class Picture(NamedTuple):
    """A picture under a caption."""

    caption: str
    uri: str
    width: int
    height: int
    boxes: Sequence[PageBox] = ()
    layer: str | None = None
    """URI of a heat map over it."""

    @property
    def text_size(self) -> float:
        """Of the boxes' texts, in the picture's pixels."""
        return self.width * _TEXT


def page_picture(
    caption: str, image: Image.Image, boxes: Sequence[PageBox] = (), layer: Image.Image | None = None
) -> Picture:
    """An image at a size for the page: reduced where it is large; a browser enlarges small ones.

    Args:
        caption: Below it.
        image: To show.
        boxes: In the image's own pixels, the most important first.
        layer: Laid over it; of the same size.
    """
    side = min(max(image.size), _LARGEST)
    shown, factor = fitted(image, side), side / max(image.size)
    scaled = [
        box._replace(x=box.x * factor, y=box.y * factor, width=box.width * factor, height=box.height * factor)
        for box in boxes
    ]
    placed = _with_places(scaled, shown.width * _TEXT)
    return Picture(caption, _jpeg(shown), *shown.size, placed, None if layer is None else _png(layer))


def _with_places(boxes: Sequence[PageBox], size: float) -> list[PageBox]:
    """Puts each text above its box, or further down where another one stands; the first boxes choose first."""
    placed: list[PageBox] = []
    for box in boxes:
        left, base = max(box.x, 0) + size / 5, box.y - size / 5
        base = base if base > size else box.y + 1.1 * size
        for _ in range(_MOST_LINES):
            if not any(_collide(left, base, box.text, other, size) for other in placed):
                break
            base += size
        placed.append(box._replace(place=(left, base)))
    return placed


def _collide(left: float, base: float, text: str, other: PageBox, size: float) -> bool:
    (other_left, other_base), width = other.place, 0.6 * size  # of a letter
    overlap = left < other_left + width * len(other.text) and other_left < left + width * len(text)
    return overlap and abs(base - other_base) < size


def _jpeg(image: Image.Image) -> str:
    return _uri(image.convert("RGB"), "JPEG", quality=88)


def _png(image: Image.Image) -> str:
    return _uri(image, "PNG", optimize=True)


def _uri(image: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()
