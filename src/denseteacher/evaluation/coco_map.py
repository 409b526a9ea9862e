"""COCO's box metrics, by faster-coco-eval where it is installed and by pycocotools otherwise."""

import importlib.util
import io
import math
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from denseteacher.errors import InputError
from denseteacher.evaluation.arrays import check_results, class_names

Backend = Literal["faster", "pycocotools"]

_ALL, _AREAS = 0, {"s": 1, "m": 2, "l": 3}
"""Positions of the area ranges in the result arrays of both libraries."""
_IOU_50, _IOU_75 = 0, 5
"""Positions among the IoU thresholds 0.50, 0.55, ..., 0.95."""


class CocoMap(NamedTuple):
    """COCO box metrics in percent; nan where there is no object that a value could be about."""

    values: dict[str, float]
    """AP, AP50, AP75, APs, APm, APl, AR1, AR10, AR100 (as many as ``max_detections``), ARs, ARm, ARl."""
    per_class: dict[str, float]
    """AP by class name, in the order of the category ids."""
    per_class_50: dict[str, float]
    """AP50 likewise."""
    backend: Backend
    """The library that computed them."""


class _Content(NamedTuple):
    """Ground truth and results renumbered from 1, as new objects: both libraries write into what they get."""

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    annotations: list[dict[str, Any]]
    results: list[dict[str, Any]]


def coco_map(
    ground_truth: dict[str, Any],
    results: Sequence[dict[str, Any]],
    *,
    backend: Literal["auto"] | Backend = "auto",
    max_detections: Sequence[int] = (1, 10, 100),
) -> CocoMap:
    """Compares detections with a COCO ground truth.

    Crowd regions are neither found nor missed: detections that lie in them don't count. Results of a category
    that the ground truth lacks are left out, as COCO's own code does.

    Args:
        ground_truth: Content of a COCO file; ``images``, ``categories`` and ``annotations`` are read. An
            annotation without ``area`` has that of its box, one without ``iscrowd`` is none. Not changed.
        results: COCO result entries: ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels)
            and ``score``. Not changed.
        backend: ``auto`` takes faster-coco-eval where it is installed.
        max_detections: Detections of an image and class that count: one recall (``AR10``) for each; precision
            and the recalls by size are at the largest.

    Raises:
        InputError: If the backend is not installed, or a result is of an unknown image or not finite.
    """
    chosen = _choose(backend)
    limits = sorted(max_detections)
    content = _renumbered(ground_truth, results)
    precision, recall = (_faster if chosen == "faster" else _pycocotools)(content, limits)
    values = {
        "AP": _percent(precision[..., _ALL, -1]),
        "AP50": _percent(precision[_IOU_50, ..., _ALL, -1]),
        "AP75": _percent(precision[_IOU_75, ..., _ALL, -1]),
        **{f"AP{letter}": _percent(precision[..., area, -1]) for letter, area in _AREAS.items()},
        **{f"AR{limit}": _percent(recall[..., _ALL, at]) for at, limit in enumerate(limits)},
        **{f"AR{letter}": _percent(recall[..., area, -1]) for letter, area in _AREAS.items()},
    }
    places = list(enumerate(class_names(ground_truth).values()))
    per_class = {name: _percent(precision[:, :, place, _ALL, -1]) for place, name in places}
    per_class_50 = {name: _percent(precision[_IOU_50, :, place, _ALL, -1]) for place, name in places}
    return CocoMap(values, per_class, per_class_50, chosen)


def _choose(backend: Literal["auto"] | Backend) -> Backend:
    installed = importlib.util.find_spec("faster_coco_eval") is not None
    if backend == "faster" and not installed:
        raise InputError("backend 'faster' needs faster-coco-eval: install it, or choose 'pycocotools'")
    if backend == "auto":
        return "faster" if installed else "pycocotools"
    return backend


def _percent(values: NDArray[np.float64]) -> float:
    """Mean of the entries that exist; both libraries mark the others with -1."""
    existing = values[values > -1]
    return float(existing.mean() * 100) if existing.size else math.nan


def _renumbered(ground_truth: dict[str, Any], results: Sequence[dict[str, Any]]) -> _Content:
    """Copies what is compared, and numbers everything from 1.

    An annotation with id 0 never counts as found in pycocotools, ids that occur twice hide each other, and
    faster-coco-eval takes no text as an id. The order of ids decides between equal scores, so it stays.
    """
    image_ids = sorted(image["id"] for image in ground_truth["images"])
    categories = sorted(ground_truth["categories"], key=lambda category: category["id"])
    image_numbers = {image_id: number for number, image_id in enumerate(image_ids, 1)}
    category_numbers = {category["id"]: number for number, category in enumerate(categories, 1)}
    check_results(results, image_numbers)
    known = (
        annotation
        for annotation in ground_truth["annotations"]
        if annotation["image_id"] in image_numbers and annotation["category_id"] in category_numbers
    )
    kept = (result for result in results if result["category_id"] in category_numbers)

    def entry(number: int, source: dict[str, Any]) -> dict[str, Any]:
        box = [float(side) for side in source["bbox"]]
        return {
            "id": number,
            "image_id": image_numbers[source["image_id"]],
            "category_id": category_numbers[source["category_id"]],
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }

    annotations = []
    for number, source in enumerate(known, 1):
        annotation = entry(number, source)
        if source.get("area") is not None:
            annotation["area"] = float(source["area"])
        annotation["iscrowd"] = int(source.get("iscrowd") or 0)
        annotations.append(annotation)
    return _Content(
        images=[{"id": number} for number in image_numbers.values()],
        categories=[{**category, "id": category_numbers[category["id"]]} for category in categories],
        annotations=annotations,
        results=[{**entry(number, result), "score": float(result["score"])} for number, result in enumerate(kept, 1)],
    )


def _pycocotools(content: _Content, limits: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Precision (T, R, K, A, M) and recall (T, K, A, M).

    T IoU thresholds, R recall thresholds, K classes, A area ranges, M limits on detections.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with redirect_stdout(io.StringIO()):  # it has no switch for its prints
        evaluation = COCOeval(
            _indexed(COCO(), content, content.annotations), _indexed(COCO(), content, content.results), "bbox"
        )
        return _evaluated(evaluation, limits)


def _faster(content: _Content, limits: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Same as ``_pycocotools``."""
    from faster_coco_eval import COCO, COCOeval_faster

    evaluation = COCOeval_faster(
        _indexed(COCO(), content, content.annotations),
        _indexed(COCO(), content, content.results),
        "bbox",
        print_function=lambda *_: None,
    )
    return _evaluated(evaluation, limits)


def _indexed(api: Any, content: _Content, entries: list[dict[str, Any]]) -> Any:
    """An empty COCO object filled with annotations or results."""
    api.dataset = {"images": content.images, "categories": content.categories, "annotations": entries}
    api.createIndex()
    return api


def _evaluated(evaluation: Any, limits: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    evaluation.params.maxDets = limits
    evaluation.evaluate()
    evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])
