"""Labels in doubt as one HTML page: each with the piece of its image around it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from denseteacher.data.images import load_image
from denseteacher.data.records import ImageRecord
from denseteacher.errors import InputError
from denseteacher.evaluation.arrays import EvalArrays, Floats
from denseteacher.evaluation.label_errors import FaultKind, LabelFault
from denseteacher.files import write_text
from denseteacher.report.gallery import PageBox, Picture, page_picture
from denseteacher.report.page import render_page
from denseteacher.visualization.boxes import fitted

_MARGIN = 0.6
"""Sides of what is shown around the boxes, as a share of theirs."""
_LEAST = 64  # px that are shown at least
_SIDE = 320  # px of a picture
_MEANINGS: Mapping[FaultKind, str] = {
    "missed": "a confident detection that no label covers",
    "phantom": "a label where the detector sees nothing",
    "other class": "a label where the detector sees an object of another class",
    "loose box": "a label whose box does not fit the object that the detector sees",
}


class AuditPage(NamedTuple):
    """What a page of labels in doubt shows."""

    summary: str
    notes: Sequence[str]
    """What a reader must know before believing it."""
    faults: Sequence[LabelFault]
    """Cases by falling score."""
    sentences: Sequence[str]
    """What each of them is, in words."""
    kinds: Mapping[FaultKind, int]
    arrays: EvalArrays
    records: Sequence[ImageRecord]
    """The images, in the order of the arrays."""


def write_audit_page(path: Path, page: AuditPage, *, top: int) -> None:
    """Writes the page.

    Args:
        path: The file.
        page: What it shows.
        top: Most faults with a picture.

    Raises:
        RunError: If the disk refuses.
    """
    shown = _pictures(page, top)
    facts = [(f"{len(page.arrays.images):,}", "images"), (f"{int((~page.arrays.truth.crowd).sum()):,}", "labels")]
    facts += [(f"{count:,}", kind) for kind, count in page.kinds.items()]
    heading = "All of them" if len(shown) == len(page.faults) else f"The first {len(shown):,} of {len(page.faults):,}"
    html = render_page(
        "audit.html.j2",
        title="Labels in doubt",
        summary=page.summary,
        notes=page.notes,
        facts=facts,
        kinds=[(kind, count, _MEANINGS[kind]) for kind, count in page.kinds.items()],
        heading=heading,
        shown=shown,
    )
    write_text(path, html)


def _pictures(page: AuditPage, top: int) -> list[Picture]:
    """The first faults, whose images are read once each; those that can't be read any more are left out."""
    chosen = list(enumerate(page.faults[:top]))
    pictures: dict[int, Picture] = {}
    for image in dict.fromkeys(fault.image for _, fault in chosen):
        try:
            pixels = Image.fromarray(load_image(page.records[image]).permute(1, 2, 0).contiguous().numpy())
        except InputError:
            continue
        for place, fault in chosen:
            if fault.image == image:
                pictures[place] = _picture(pixels, page, fault, f"{place + 1}. {page.sentences[place]}")
    return [pictures[place] for place in sorted(pictures)]


def _picture(image: Image.Image, page: AuditPage, fault: LabelFault, caption: str) -> Picture:
    """The piece of the image around a fault, with the boxes in it."""
    truth, predictions = page.arrays.truth, page.arrays.predictions
    corners = [truth.boxes[fault.label]] if fault.label is not None else []
    corners += [predictions.boxes[fault.detection]] if fault.detection is not None else []
    left, top, right, bottom = _around(np.stack(corners), image.size)
    piece = image.crop((left, top, right, bottom))
    shown = fitted(piece, _SIDE)
    factor = shown.width / piece.width

    def box(xyxy: Floats, text: str, kind: str) -> PageBox:
        x1, y1, x2, y2 = ((xyxy - [left, top, left, top]) * factor).tolist()
        return PageBox(x1, y1, x2 - x1, y2 - y1, text, kind, 1.0)

    boxes = []
    if fault.label is not None:
        boxes.append(box(truth.boxes[fault.label], page.arrays.names[truth.classes[fault.label]], "wrong"))
    if fault.detection is not None:
        name, score = page.arrays.names[predictions.classes[fault.detection]], predictions.scores[fault.detection]
        boxes.append(box(predictions.boxes[fault.detection], f"{name} {score:.2f}", "right"))
    beside = (truth.images == fault.image) & (truth.boxes[:, :2] < [right, bottom]).all(axis=1)
    beside &= (truth.boxes[:, 2:] > [left, top]).all(axis=1) & ~truth.crowd
    others = [place for place in np.flatnonzero(beside) if place != fault.label]
    boxes += [box(truth.boxes[place], page.arrays.names[truth.classes[place]], "truth") for place in others]
    return page_picture(caption, shown, boxes)


def _around(boxes: Floats, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The boxes with a margin, inside of the image."""
    low, high = boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)
    half = np.maximum((high - low) * (1 + _MARGIN), _LEAST) / 2
    center, limits = (low + high) / 2, np.array(size)
    first = np.floor(np.clip(center - half, 0, limits - 1)).astype(int)
    last = np.ceil(np.clip(center + half, first + 1, limits)).astype(int)
    return int(first[0]), int(first[1]), int(last[0]), int(last[1])
