"""Rows of pictures in a page: what unlabeled images teach, and detections beside the ground truth.

Images are data URIs; a reader can filter the boxes on them by score.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from denseteacher.data.images import load_image
from denseteacher.data.records import ImageRecord
from denseteacher.evaluation.arrays import Bools, Floats, Ints
from denseteacher.evaluation.diagnostics import MatchedArrays
from denseteacher.evaluation.matching import IGNORED, UNMATCHED
from denseteacher.report.previews import UnlabeledExample
from denseteacher.structures import Detections
from denseteacher.visualization.boxes import fitted
from denseteacher.visualization.heatmap import heat_layer

_MOST_BOXES = 30
_LARGEST = 720  # px
_TEXT = 1 / 20  # of a picture's width
_LETTER = 0.6  # of the text's size; most are narrower
_MOST_LINES = 6


class PageBox(NamedTuple):
    """A box on a picture, in its pixels."""

    x: float
    y: float
    width: float
    height: float
    text: str
    kind: str
    """``truth``, ``right``, ``wrong``, ``kept`` (a pseudo-box) or ``detection``, whose truth is not known."""
    score: float
    """Score of the detection, or of the one that found this object (0: none did)."""
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
        """The size of the boxes' texts, in the picture's pixels."""
        return self.width * _TEXT


def page_picture(
    caption: str,
    image: Image.Image,
    boxes: Sequence[PageBox] = (),
    layer: Image.Image | None = None,
    *,
    largest: int = _LARGEST,
) -> Picture:
    """An image at a size for the page: reduced where it is large; a browser enlarges small ones.

    Args:
        caption: Below it.
        image: To show.
        boxes: In the image's own pixels, the most important first.
        layer: Laid over it; of the same size.
        largest: Most pixels of its longer side.
    """
    side = min(max(image.size), largest)
    shown, factor = fitted(image, side), side / max(image.size)
    scaled = [
        box._replace(x=box.x * factor, y=box.y * factor, width=box.width * factor, height=box.height * factor)
        for box in boxes
    ]
    placed = _with_places(scaled, shown.width)
    return Picture(caption, _jpeg(shown), *shown.size, placed, None if layer is None else _png(layer))


def unlabeled_row(example: UnlabeledExample, names: Sequence[str]) -> list[Picture]:
    """Both views of an unlabeled image, the teacher's scores, and what is made of them."""
    weak = Image.fromarray(example.weak)
    row = [
        page_picture("weak view: the teacher's", weak),
        page_picture("strong view: the student's", Image.fromarray(example.strong)),
        page_picture("teacher's scores", weak, layer=heat_layer(example.scores)),
    ]
    if example.region is not None:
        row.append(page_picture("dense pseudo-label", weak, layer=heat_layer(example.region)))
    if example.pseudo_boxes is not None:
        kept = [box._replace(kind="kept") for box in unjudged_boxes(example.pseudo_boxes, names)]
        row.append(page_picture("pseudo-boxes", weak, kept))
    return [*row, page_picture("teacher's detections", weak, unjudged_boxes(example.detections, names))]


def validation_row(record: ImageRecord, matched: Mapping[str, MatchedArrays]) -> list[Picture]:
    """A validation image with its objects, as the last run finds them, and then with each run's detections.

    Args:
        record: The image.
        matched: By the run's label.

    Raises:
        InputError: If the image can't be read.
    """
    image = Image.fromarray(load_image(record).permute(1, 2, 0).contiguous().numpy())
    *_, last = matched.values()
    pictures = [
        page_picture("detections" if len(matched) == 1 else label, image, detection_boxes(one, record.id))
        for label, one in matched.items()
    ]
    return [page_picture("ground truth", image, truth_boxes(last, record.id)), *pictures]


def unjudged_boxes(detections: Detections, names: Sequence[str]) -> list[PageBox]:
    """Detections on an image whose truth is not known, the best ones."""
    boxes, scores, labels = (field.tolist()[:_MOST_BOXES] for field in detections)
    return [
        PageBox(left, top, right - left, bottom - top, f"{names[label]} {score:.2f}", "detection", score)
        for (left, top, right, bottom), score, label in zip(boxes, scores, labels, strict=True)
    ]


def truth_boxes(matched: MatchedArrays, image_id: Any) -> list[PageBox]:
    """The objects of an image, each with the score at which it is found."""
    objects = matched.arrays.truth
    chosen = np.flatnonzero(_of_image(matched, objects.images, image_id) & ~objects.crowd)
    return [
        _box(objects.boxes[place], matched.arrays.names[objects.classes[place]], "truth", matched.found_at[place])
        for place in chosen.tolist()
    ]


def detection_boxes(matched: MatchedArrays, image_id: Any) -> list[PageBox]:
    """The best detections of an image, right or wrong; those in crowd regions are neither and left out."""
    predictions = matched.arrays.predictions
    chosen = np.flatnonzero(_of_image(matched, predictions.images, image_id) & (matched.hits != IGNORED))[:_MOST_BOXES]
    return [
        _box(
            predictions.boxes[place],
            f"{matched.arrays.names[predictions.classes[place]]} {predictions.scores[place]:.2f}",
            "wrong" if matched.hits[place] == UNMATCHED else "right",
            predictions.scores[place],
        )
        for place in chosen.tolist()
    ]


def _of_image(matched: MatchedArrays, images: Ints, image_id: Any) -> Bools:
    place = next(place for place, image in enumerate(matched.arrays.images) if image["id"] == image_id)
    chosen: Bools = images == place
    return chosen


def _box(corners: Floats, text: str, kind: str, score: float) -> PageBox:
    left, top, right, bottom = corners.tolist()
    return PageBox(left, top, right - left, bottom - top, text, kind, float(score))


def _with_places(boxes: Sequence[PageBox], width: int) -> list[PageBox]:
    """Puts each text above its box, or further down where another one stands; the first boxes choose first.

    Args:
        boxes: In a picture, the most important first.
        width: Of the picture, beyond which no text goes that fits in it.
    """
    placed: list[PageBox] = []
    size = width * _TEXT
    for box in boxes:
        left = max(min(box.x + size / 5, width - _LETTER * size * len(box.text)), size / 5)
        base = box.y - size / 5
        base = base if base > size else box.y + 1.1 * size
        for _ in range(_MOST_LINES):
            if not any(_collide(left, base, box.text, other, size) for other in placed):
                break
            base += size
        placed.append(box._replace(place=(left, base)))
    return placed


def _collide(left: float, base: float, text: str, other: PageBox, size: float) -> bool:
    (other_left, other_base), width = other.place, _LETTER * size
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
