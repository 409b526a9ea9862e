"""COCO metrics, worked by hand (random scenes: reference/test_coco_ap.py)."""

import copy
import logging
import math
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from denseteacher.errors import InputError
from denseteacher.evaluation.coco_map import Backend, coco_map
from support.random_coco import random_scene

BACKENDS: tuple[Backend, ...] = ("faster", "pycocotools")
both_backends = pytest.mark.parametrize("backend", BACKENDS)
KEYS = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
Box = Sequence[float]


def _truth(*boxes: Box, **fields: Any) -> dict[str, Any]:
    """Objects of class 1 on image 1, without the optional fields."""
    return {
        "images": [{"id": 1}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": list(box), **fields}
            for number, box in enumerate(boxes, 1)
        ],
    }


def _found(box: Box, score: float = 0.5, image: Any = 1, category: Any = 1) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score}


def _same(first: dict[str, float], second: dict[str, float], tolerance: float = 1e-9) -> bool:
    return list(first) == list(second) and all(
        (math.isnan(first[key]) and math.isnan(second[key])) or abs(first[key] - second[key]) <= tolerance
        for key in first
    )


# --- worked by hand ----------------------------------------------------------------------------------------


@both_backends
def test_one_object_found_exactly(backend: Backend) -> None:
    result = coco_map(_truth([10, 10, 20, 20]), [_found([10, 10, 20, 20])], backend=backend)
    nan = math.nan
    expected = dict(zip(KEYS, [100, 100, 100, 100, nan, nan, 100, 100, 100, 100, nan, nan], strict=True))
    assert _same(result.values, expected)
    assert list(result.values) == KEYS
    assert _same(result.per_class, {"cat": 100.0})
    assert result.backend == backend
    assert {type(value) for value in result.values.values()} == {float}  # NumPy's own can't be checkpointed


@both_backends
def test_one_of_two_objects_found(backend: Backend) -> None:
    truth = _truth([10, 10, 20, 20], [50, 50, 20, 20])
    values = coco_map(truth, [_found([10, 10, 20, 20])], backend=backend).values
    assert values["AP"] == pytest.approx(100 * 51 / 101)  # precision 1 at the recalls 0, 0.01, ..., 0.5
    assert values["AR100"] == pytest.approx(50)


@both_backends
def test_a_better_scored_mistake_halves_the_precision(backend: Backend) -> None:
    results = [_found([60, 60, 20, 20], 0.9), _found([10, 10, 20, 20], 0.8)]
    values = coco_map(_truth([10, 10, 20, 20]), results, backend=backend).values
    assert values["AP"] == pytest.approx(50)
    assert values["AR1"] == pytest.approx(0)  # the one detection that counts is the mistake
    assert values["AR10"] == pytest.approx(100)


@both_backends
def test_a_second_box_on_the_same_object_is_a_mistake(backend: Backend) -> None:
    truth = _truth([0, 0, 20, 20], [50, 0, 20, 20])
    results = [_found([0, 0, 20, 20], 0.9), _found([0, 0, 20, 19], 0.8), _found([50, 0, 20, 20], 0.7)]
    values = coco_map(truth, results, backend=backend).values
    assert values["AP50"] == pytest.approx(100 * (51 + 50 * 2 / 3) / 101)


@both_backends
def test_a_loose_box_counts_at_the_low_thresholds_only(backend: Backend) -> None:
    values = coco_map(_truth([0, 0, 100, 100]), [_found([0, 0, 100, 62])], backend=backend).values  # IoU 0.62
    assert values["AP"] == pytest.approx(30)
    assert values["AP50"] == pytest.approx(100)
    assert values["AP75"] == pytest.approx(0)
    assert values["AR100"] == pytest.approx(30)
    values = coco_map(_truth([0, 0, 100, 100]), [_found([0, 0, 100, 77])], backend=backend).values
    assert (values["AP"], values["AP75"]) == pytest.approx((60, 100))


@both_backends
def test_sizes(backend: Backend) -> None:
    small, medium, large = [0, 0, 31, 31], [100, 0, 33, 33], [200, 0, 97, 97]
    truth = _truth(small, medium, large)
    values = coco_map(truth, [_found(large)], backend=backend).values
    assert [values[key] for key in ("APs", "APm", "APl")] == pytest.approx([0, 0, 100])
    assert [values[key] for key in ("ARs", "ARm", "ARl")] == pytest.approx([0, 0, 100])
    values = coco_map(truth, [_found(small), _found(medium, 0.4)], backend=backend).values
    assert [values[key] for key in ("APs", "APm", "APl")] == pytest.approx([100, 100, 0])


@both_backends
def test_the_area_of_the_file_decides_the_size(backend: Backend) -> None:
    box = [0, 0, 40, 40]
    by_box = coco_map(_truth(box), [_found(box)], backend=backend).values
    by_file = coco_map(_truth(box, area=900.0), [_found(box)], backend=backend).values
    by_null = coco_map(_truth(box, area=None, iscrowd=None), [_found(box)], backend=backend).values
    assert (by_box["APm"], by_file["APs"]) == pytest.approx((100, 100))
    assert math.isnan(by_box["APs"])
    assert math.isnan(by_file["APm"])
    assert _same(by_box, by_null)


@both_backends
def test_detections_in_a_crowd_do_not_count(backend: Backend) -> None:
    truth = _truth([10, 10, 20, 20], [100, 100, 100, 100])
    truth["annotations"][1]["iscrowd"] = 1
    results = [
        _found([110, 110, 30, 30], 0.9),
        _found([150, 150, 30, 30], 0.8),
        _found([10, 10, 20, 20], 0.7),
    ]
    assert coco_map(truth, results, backend=backend).values["AP"] == pytest.approx(100)
    assert coco_map(truth, [], backend=backend).values["AP"] == 0  # and it is not a second object to find
    truth["annotations"][1]["iscrowd"] = 0
    assert coco_map(truth, results, backend=backend).values["AP"] == pytest.approx(100 * 51 / 101 / 3)


@both_backends
def test_classes_are_averaged_and_named(backend: Backend) -> None:
    truth = _truth([0, 0, 20, 20])
    truth["categories"] += [{"id": 40, "name": "dog"}, {"id": 7, "name": "cat"}, {"id": 90}]
    truth["annotations"].append({"id": 9, "image_id": 1, "category_id": 40, "bbox": [50, 0, 20, 20]})
    truth["annotations"].append({"id": 10, "image_id": 1, "category_id": 7, "bbox": [70, 0, 20, 20]})
    results = [
        _found([0, 0, 20, 20]),
        _found([70, 0, 20, 20], category=7),
        _found([1, 1, 2, 2], category=1234),
    ]
    result = coco_map(truth, results, backend=backend)
    expected = {"cat (1)": 100.0, "cat (7)": 100.0, "dog": 0.0, "90": math.nan}
    assert _same(result.per_class, expected)
    assert _same(result.per_class_50, expected)
    assert result.values["AP"] == pytest.approx(200 / 3)


@both_backends
def test_the_number_of_detections_that_count(backend: Backend) -> None:
    boxes = [[30.0 * i, 0, 20, 20] for i in range(8)]
    results = [_found(box, 0.9 - i / 10) for i, box in enumerate(boxes)]
    values = coco_map(_truth(*boxes), results, backend=backend, max_detections=(4, 2)).values
    assert [key for key in values if key.startswith("AR")] == ["AR2", "AR4", "ARs", "ARm", "ARl"]
    assert (values["AR2"], values["AR4"], values["ARs"]) == pytest.approx((25, 50, 50))
    assert values["AP50"] == pytest.approx(100 * 51 / 101)


# --- files as people have them -----------------------------------------------------------------------------


@both_backends
@pytest.mark.parametrize("ids", [[0, 1], [5, 5], [2**40, 7]], ids=["zero", "twice the same", "huge"])
def test_annotation_ids_do_not_matter(backend: Backend, ids: list[int]) -> None:
    boxes = [[0, 0, 20, 20], [50, 0, 20, 20]]
    truth = _truth(*boxes)
    for annotation, annotation_id in zip(truth["annotations"], ids, strict=True):
        annotation["id"] = annotation_id
    assert coco_map(truth, [_found(box) for box in boxes], backend=backend).values["AP"] == pytest.approx(100)


@both_backends
def test_ids_may_be_text_and_annotations_have_none(backend: Backend) -> None:
    truth = _truth([0, 0, 20, 20])
    truth["images"] = [{"id": "b"}, {"id": "a"}]
    truth["annotations"] = [{"image_id": "b", "category_id": 1, "bbox": [0, 0, 20, 20]}]
    values = coco_map(truth, [_found([0, 0, 20, 20], image="b")], backend=backend).values
    assert values["AP"] == pytest.approx(100)
    assert coco_map(truth, [_found([0, 0, 20, 20], image="a")], backend=backend).values["AP"] == 0


@both_backends
def test_annotations_of_unknown_images_or_classes_are_left_out(backend: Backend) -> None:
    truth = _truth([0, 0, 20, 20], [0, 0, 20, 20], [0, 0, 20, 20])
    truth["annotations"][1]["image_id"] = 99
    truth["annotations"][2]["category_id"] = 99
    assert coco_map(truth, [_found([0, 0, 20, 20])], backend=backend).values["AP"] == pytest.approx(100)


@both_backends
def test_nothing_found_is_zero_and_nothing_to_find_is_nan(backend: Backend) -> None:
    nothing_found = coco_map(_truth([0, 0, 20, 20]), [], backend=backend)
    assert [nothing_found.values[key] for key in ("AP", "AP50", "APs", "AR100")] == [0, 0, 0, 0]
    assert nothing_found.per_class == {"cat": 0}
    nothing_to_find = coco_map(_truth(), [_found([0, 0, 20, 20])], backend=backend)
    assert all(math.isnan(value) for value in nothing_to_find.values.values())
    empty = coco_map({"images": [], "categories": [], "annotations": []}, [], backend=backend)
    assert all(math.isnan(value) for value in empty.values.values())


@both_backends
@pytest.mark.parametrize(
    ("result", "message"),
    [
        (_found([0, 0, 1, 1], image=3), "result 1 is of image 3, which the ground truth doesn't have"),
        (_found([0, 0, 1, 1], score=math.nan), "result 1, of image 1, has a score or box not finite"),
        (_found([0, math.inf, 1, 1]), "result 1, of image 1, has a score or box not finite"),
    ],
)
def test_bad_results_are_named(backend: Backend, result: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        coco_map(_truth([0, 0, 20, 20]), [_found([0, 0, 20, 20]), result], backend=backend)


# --- the libraries are kept quiet, apart and away from the caller's data ------------------------------------


@both_backends
def test_nothing_is_printed_logged_or_changed(
    backend: Backend, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    truth, results = random_scene(3)
    truth_before, results_before = copy.deepcopy(truth), copy.deepcopy(results)
    with caplog.at_level(logging.INFO):
        coco_map(truth, results, backend=backend)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert truth == truth_before
    assert results == results_before


def test_the_faster_one_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = _truth([0, 0, 20, 20])
    assert coco_map(truth, []).backend == "faster"
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    assert coco_map(truth, []).backend == "pycocotools"
    with pytest.raises(InputError, match="needs faster-coco-eval"):
        coco_map(truth, [], backend="faster")
