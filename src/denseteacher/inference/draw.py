"""Boxes on pictures."""

import colorsys
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from denseteacher.structures import Detections


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
    font = ImageFont.load_default(size=max(9, min(picture.size) / 40))
    for index, (box, label) in enumerate(zip(boxes, labels, strict=True)):
        color = class_color(label)
        pen.rectangle(tuple(box), outline=color, width=width)
        text = class_names[label] if scores is None else f"{class_names[label]} {scores[index]:.2f}"
        left, top, right, bottom = pen.textbbox((box[0], box[1]), text, font=font)
        above = max(0.0, box[1] - (bottom - top) - 2)
        pen.rectangle((left - 1, above, right + 1, above + (bottom - top) + 2), fill=color)
        pen.text((left, above + 1), text, fill="white", font=font, anchor="lt")
    return picture


def draw_detections(
    image: Image.Image, detections: Detections, class_names: Sequence[str], *, score_floor: float = 0.5
) -> Image.Image:
    """A copy of the image with its detections above a score."""
    kept = detections.scores > score_floor
    return draw_boxes(
        image,
        detections.boxes[kept].tolist(),
        detections.labels[kept].tolist(),
        class_names,
        detections.scores[kept].tolist(),
    )
