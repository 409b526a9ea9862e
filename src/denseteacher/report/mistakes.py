"""Validation images with every object and detection judged, and those with the worst mistakes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from denseteacher.evaluation.diagnostics import hits_by_class
from denseteacher.evaluation.matching import IGNORED, UNMATCHED
from denseteacher.evaluation.scene import Bools, Floats, Ints, Scene, read_scene
from denseteacher.report.pictures import PageBox

_MOST_BOXES = 30


class Judged(NamedTuple):
    """All images of a ground truth, with which detection is which object (of the same class, IoU 0.5).

    Matching goes by falling score, so a verdict holds at every threshold: a lower detection changes no higher one.
    """

    scene: Scene
    hits: Ints
    """(n,) for each detection the object it is, ``UNMATCHED`` or ``IGNORED``."""
    found_at: Floats
    """(m,) for each object the score of the detection that is it; 0 where none is."""


def judge(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Judged:
    """Matches COCO results with their ground truth.

    Raises:
        InputError: If a result is of an unknown image or not finite.
    """
    scene = read_scene(ground_truth, results)
    hits = hits_by_class(scene, 0.5)
    found_at = np.zeros(len(scene.objects.classes))
    found_at[hits[hits >= 0]] = scene.found.scores[hits >= 0]
    return Judged(scene, hits, found_at)


def worst_images(judged: Judged, *, above: float, most: int) -> list[Any]:
    """Ids of the images with the most mistakes, worst first: objects missed and wrong detections above a score."""
    scene = judged.scene
    missed = (judged.found_at <= above) & ~scene.objects.crowd
    wrong = (judged.hits == UNMATCHED) & (scene.found.scores > above)
    count = np.bincount(scene.objects.images[missed], minlength=len(scene.images)).astype(np.float64)
    # of images with as many mistakes the one with the surer ones
    np.add.at(count, scene.found.images[wrong], 1 + 0.01 * scene.found.scores[wrong])
    order = np.argsort(-count, kind="stable")[:most]
    return [scene.images[place]["id"] for place in order.tolist() if count[place]]


def truth_boxes(judged: Judged, image_id: Any) -> list[PageBox]:
    """The objects of an image, each with the score at which it is found."""
    objects = judged.scene.objects
    chosen = np.flatnonzero(_of_image(judged, objects.images, image_id) & ~objects.crowd)
    return [
        _box(objects.boxes[place], judged.scene.names[objects.classes[place]], "truth", judged.found_at[place])
        for place in chosen.tolist()
    ]


def detection_boxes(judged: Judged, image_id: Any) -> list[PageBox]:
    """The best detections of an image, right or wrong; those in crowd regions are neither and left out."""
    found = judged.scene.found
    chosen = np.flatnonzero(_of_image(judged, found.images, image_id) & (judged.hits != IGNORED))[:_MOST_BOXES]
    return [
        _box(
            found.boxes[place],
            f"{judged.scene.names[found.classes[place]]} {found.scores[place]:.2f}",
            "wrong" if judged.hits[place] == UNMATCHED else "right",
            found.scores[place],
        )
        for place in chosen.tolist()
    ]


def _of_image(judged: Judged, images: Ints, image_id: Any) -> Bools:
    place = next(place for place, image in enumerate(judged.scene.images) if image["id"] == image_id)
    chosen: Bools = images == place
    return chosen


def _box(corners: Floats, text: str, kind: str, score: float) -> PageBox:
    left, top, right, bottom = corners.tolist()
    return PageBox(left, top, right - left, bottom - top, text, kind, float(score))
