"""Rows of pictures: what unlabeled images teach, and detections beside the ground truth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from denseteacher.data.images import load_image
from denseteacher.data.records import ImageRecord
from denseteacher.evaluation.arrays import Bools, Floats, Ints
from denseteacher.evaluation.diagnostics import MatchedScene
from denseteacher.evaluation.matching import IGNORED, UNMATCHED
from denseteacher.report.pictures import PageBox, Picture, page_picture
from denseteacher.report.unlabeled_examples import UnlabeledExample
from denseteacher.structures import Detections
from denseteacher.visualization.heatmap import heat_layer

_MOST_BOXES = 30


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
        kept = [box._replace(kind="kept") for box in guessed_boxes(example.pseudo_boxes, names)]
        row.append(page_picture("pseudo-boxes", weak, kept))
    return [*row, page_picture("teacher's detections", weak, guessed_boxes(example.detections, names))]


def validation_row(record: ImageRecord, matched: Mapping[str, MatchedScene]) -> list[Picture]:
    """A validation image with its objects, as the last run finds them, and then with each run's detections.

    Args:
        record: The image.
        matched: By the run's label.

    Raises:
        InputError: If the image can't be read.
    """
    image = Image.fromarray(load_image(record).permute(1, 2, 0).contiguous().numpy())
    *_, last = matched.values()
    found = [
        page_picture("detections" if len(matched) == 1 else label, image, detection_boxes(one, record.id))
        for label, one in matched.items()
    ]
    return [page_picture("ground truth", image, truth_boxes(last, record.id)), *found]


def guessed_boxes(detections: Detections, names: Sequence[str]) -> list[PageBox]:
    """Detections on an image whose truth is not known, the best ones."""
    boxes, scores, labels = (field.tolist()[:_MOST_BOXES] for field in detections)
    return [
        PageBox(left, top, right - left, bottom - top, f"{names[label]} {score:.2f}", "guess", score)
        for (left, top, right, bottom), score, label in zip(boxes, scores, labels, strict=True)
    ]


def truth_boxes(matched: MatchedScene, image_id: Any) -> list[PageBox]:
    """The objects of an image, each with the score at which it is found."""
    objects = matched.scene.objects
    chosen = np.flatnonzero(_of_image(matched, objects.images, image_id) & ~objects.crowd)
    return [
        _box(objects.boxes[place], matched.scene.names[objects.classes[place]], "truth", matched.found_at[place])
        for place in chosen.tolist()
    ]


def detection_boxes(matched: MatchedScene, image_id: Any) -> list[PageBox]:
    """The best detections of an image, right or wrong; those in crowd regions are neither and left out."""
    found = matched.scene.found
    chosen = np.flatnonzero(_of_image(matched, found.images, image_id) & (matched.hits != IGNORED))[:_MOST_BOXES]
    return [
        _box(
            found.boxes[place],
            f"{matched.scene.names[found.classes[place]]} {found.scores[place]:.2f}",
            "wrong" if matched.hits[place] == UNMATCHED else "right",
            found.scores[place],
        )
        for place in chosen.tolist()
    ]


def _of_image(matched: MatchedScene, images: Ints, image_id: Any) -> Bools:
    place = next(place for place, image in enumerate(matched.scene.images) if image["id"] == image_id)
    chosen: Bools = images == place
    return chosen


def _box(corners: Floats, text: str, kind: str, score: float) -> PageBox:
    left, top, right, bottom = corners.tolist()
    return PageBox(left, top, right - left, bottom - top, text, kind, float(score))
