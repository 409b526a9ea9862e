"""Boxes on pictures, and pictures on sheets."""

import colorsys
from collections.abc import Sequence
from itertools import zip_longest

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from denseteacher.structures import Detections

SHOWN_ABOVE = 0.5
"""Score above which detections are shown, on a page at first or without its sliders."""


def class_color(label: int) -> tuple[int, int, int]:
    """A color for a class; neighbors differ much in hue, and lightness alternates for readers without it."""
    hue = (label * 0.618034) % 1.0  # the golden ratio never comes back to an earlier hue
    lightness = (0.45, 0.62)[label % 2]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_boxes(
    image: Image.Image,
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    class_names: Sequence[str],
    scores: Sequence[float] | None = None,
) -> Image.Image:
    """A copy of the image with named boxes on it.

    Args:
        image: Any PIL image.
        boxes: xyxy pixels.
        labels: Class index of each box.
        class_names: By class index.
        scores: Of each box, shown beside the name.
    """
    picture = image.convert("RGB")
    pen = ImageDraw.Draw(picture)
    width = max(1, round(min(picture.size) / 200))
    font = ImageFont.load_default(size=max(12, min(picture.size) / 40))
    for index, (box, label) in reversed(list(enumerate(zip(boxes, labels, strict=True)))):  # the first on top
        color = class_color(label)
        pen.rectangle(tuple(box), outline=color, width=width)
        name = " ".join(class_names[label].split())  # a pen refuses line breaks
        text = name if scores is None else f"{name} {scores[index]:.2f}"
        left, top, right, bottom = pen.textbbox((box[0], box[1]), text, font=font)
        above = max(0.0, box[1] - (bottom - top) - 2)
        pen.rectangle((left - 1, above, right + 1, above + (bottom - top) + 2), fill=color)
        pen.text((left, above + 1), text, fill="white", font=font, anchor="lt")
    return picture


def draw_detections(
    image: Image.Image, detections: Detections, class_names: Sequence[str], *, score_floor: float | Tensor = SHOWN_ABOVE
) -> Image.Image:
    """A copy of the image with its detections above a score: one number, or (K,) one a class."""
    floor = score_floor[detections.labels] if isinstance(score_floor, Tensor) else score_floor
    kept = detections.scores > floor
    return draw_boxes(
        image,
        detections.boxes[kept].tolist(),
        detections.labels[kept].tolist(),
        class_names,
        detections.scores[kept].tolist(),
    )


def fitted(image: Image.Image, side: int) -> Image.Image:
    """The image enlarged or reduced until its longer side has this many pixels."""
    factor = side / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BICUBIC)


def picture_sheet(rows: Sequence[Sequence[Image.Image]], heads: Sequence[str] = ()) -> Image.Image:
    """Pictures in rows and columns on one white sheet.

    Args:
        rows: Each with one picture a column; the last may be shorter.
        heads: Captions of the columns.
    """
    gap, head = 8, 24 if heads else 0
    columns = [[one for one in column if one is not None] for column in zip_longest(*rows)]
    widths = [max(one.width for one in column) + gap for column in columns]
    heights = [max(one.height for one in row) + gap for row in rows]
    sheet = Image.new("RGB", (sum(widths) - gap, head + sum(heights) - gap), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=15)
    for column, text in enumerate(heads):
        pen.text((sum(widths[:column]) + 2, 3), text, fill="black", font=font)
    for place, row in enumerate(rows):
        for column, one in enumerate(row):
            sheet.paste(one, (sum(widths[:column]), head + sum(heights[:place])))
    return sheet
