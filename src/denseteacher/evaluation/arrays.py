"""Ground truth and detections as arrays, for the metrics that NumPy computes."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from denseteacher.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class EvalTruth(NamedTuple):
    """All objects of a ground truth, in its order."""

    images: Ints
    """(n,) positions in ``EvalArrays.images``."""
    classes: Ints
    """(n,) positions in ``EvalArrays.names``."""
    boxes: Floats
    """(n, 4) xyxy pixels."""
    crowd: Bools
    """(n,) regions in which detections don't count: ``iscrowd``."""
    difficult: Bools
    """(n,) what VOC neither asks for nor counts as a mistake."""


class EvalPredictions(NamedTuple):
    """All detections, by falling score; of equal scores by image, then in the order given."""

    images: Ints
    """(n,) positions in ``EvalArrays.images``."""
    classes: Ints
    """(n,) positions in ``EvalArrays.names``."""
    boxes: Floats
    """(n, 4) xyxy pixels."""
    scores: Floats
    """(n,) scores."""

    def where(self, kept: Bools | Ints) -> "EvalPredictions":
        """The detections at these positions."""
        return EvalPredictions._make(column[kept] for column in self)


class EvalArrays(NamedTuple):
    """Ground truth and predictions that are compared."""

    images: list[dict[str, Any]]
    """Images by rising id, as the ground truth has them."""
    names: list[str]
    """Class names, by rising id."""
    truth: EvalTruth
    predictions: EvalPredictions

    @property
    def class_groups(self) -> tuple[Ints, Ints]:
        """A number for the image and class of each prediction, and likewise of each object."""
        predictions, truth = (one.images * len(self.names) + one.classes for one in (self.predictions, self.truth))
        return predictions, truth


def read_arrays(ground_truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> EvalArrays:
    """Collects a COCO ground truth and COCO results; neither is changed.

    Annotations of images or categories that are not listed, and results of such categories, are left out.

    Args:
        ground_truth: Content of a COCO file.
        results: COCO result entries.

    Raises:
        InputError: If a result is of an unknown image or not finite.
    """
    images = sorted(ground_truth["images"], key=lambda image: image["id"])
    names = class_names(ground_truth)
    places = {image["id"]: place for place, image in enumerate(images)}
    classes = {category: place for place, category in enumerate(names)}
    check_results(results, places)
    known = [one for one in ground_truth["annotations"] if one["image_id"] in places and one["category_id"] in classes]
    kept = [result for result in results if result["category_id"] in classes]
    truth = EvalTruth(
        *_located(known, places, classes),
        crowd=np.array([bool(one.get("iscrowd")) for one in known], dtype=np.bool_),
        difficult=np.array([bool(one.get("difficult")) for one in known], dtype=np.bool_),
    )
    predictions = EvalPredictions(
        *_located(kept, places, classes),
        scores=np.array([result["score"] for result in kept], dtype=np.float64),
    )
    order = np.lexsort((predictions.images, -predictions.scores))  # stable
    return EvalArrays(images, list(names.values()), truth, predictions.where(order))


def class_names(ground_truth: Mapping[str, Any]) -> dict[Any, str]:
    """Names of a COCO file's categories by rising id; the id beside one that occurs twice, and where there is none."""
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    names = {category["id"]: str(category.get("name", category["id"])) for category in categories}
    count = Counter(names.values())
    return {id_: f"{name} ({id_})" if count[name] > 1 else name for id_, name in names.items()}


def class_means(rows: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Mean of each metric over the classes that have one; nan where none has."""
    columns: dict[str, list[float]] = {}
    for row in rows.values():
        for key, value in row.items():
            columns.setdefault(key, []).extend([] if math.isnan(value) else [value])
    return {key: sum(known) / len(known) if known else math.nan for key, known in columns.items()}


def check_results(results: Sequence[Mapping[str, Any]], images: Mapping[Any, int]) -> None:
    """Looks at every result once.

    Raises:
        InputError: If one is of an unknown image, or has a score or box that is not finite.
    """
    for position, result in enumerate(results):
        if result["image_id"] not in images:
            raise InputError(
                f"result {position} is of image {result['image_id']!r}, which the ground truth doesn't have"
            )
        if not all(map(math.isfinite, (result["score"], *result["bbox"]))):
            raise InputError(f"result {position}, of image {result['image_id']!r}, has a score or box not finite")


def _located(
    entries: Sequence[Mapping[str, Any]], places: Mapping[Any, int], classes: Mapping[Any, int]
) -> tuple[Ints, Ints, Floats]:
    """Images, classes and boxes (xyxy) of annotations or results."""
    boxes = np.array([one["bbox"] for one in entries], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return (
        np.array([places[one["image_id"]] for one in entries], dtype=np.int64),
        np.array([classes[one["category_id"]] for one in entries], dtype=np.int64),
        boxes,
    )
