"""Curves and confusion matrix, by hand; the curve's mean is AP50."""

import numpy as np
import pytest

from denseteacher.evaluation import diagnostics
from denseteacher.evaluation.arrays import read_arrays
from denseteacher.evaluation.coco_map import coco_map
from denseteacher.evaluation.diagnostics import RECALLS, match_arrays, mean_precision
from support.random_coco import random_scene

ONE, TWO, NOWHERE = [0, 0, 20, 20], [50, 0, 20, 20], [200, 0, 20, 20]


def truth(*objects):
    return {
        "images": [{"id": 1}, {"id": 2}],
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "annotations": [
            {"image_id": 1, "category_id": category, "bbox": box, "iscrowd": crowd} for category, box, crowd in objects
        ],
    }


def found(category, box, score=0.5, image=1):
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def precision_recall(ground_truth, results):
    return diagnostics.precision_recall(match_arrays(ground_truth, results))


def confusion_matrix(ground_truth, results, **options):
    return diagnostics.confusion_matrix(read_arrays(ground_truth, results), **options)


def test_a_curve():
    results = [found(3, ONE, 0.9), found(3, NOWHERE, 0.8), found(3, TWO, 0.7)]
    curves = precision_recall(truth((3, ONE, 0), (3, TWO, 0)), results)
    assert list(curves) == ["cat"]  # there is no dog to find
    recall, precision, scores = curves["cat"]
    assert recall is RECALLS
    np.testing.assert_allclose(precision, np.where(recall <= 0.5, 1, 2 / 3))
    np.testing.assert_allclose(scores, np.where(recall <= 0.5, 0.9, 0.7))
    np.testing.assert_allclose(mean_precision(curves), precision)


def test_a_recall_that_is_not_reached_and_a_crowd():
    scene = truth((3, ONE, 0), (3, TWO, 0), (3, [190, 0, 100, 100], 1), (7, TWO, 1))
    curve = precision_recall(scene, [found(3, NOWHERE, 0.9), found(3, ONE, 0.7)])["cat"]
    np.testing.assert_allclose(curve.precision, RECALLS <= 0.5)
    np.testing.assert_allclose(curve.scores, 0.7 * (RECALLS <= 0.5))
    assert not mean_precision(precision_recall(truth(), [found(3, ONE)])).any()


@pytest.mark.parametrize("seed", range(20))
def test_the_mean_of_a_curve_is_its_ap50(seed):
    scene, results = random_scene(seed)
    curves = precision_recall(scene, results)
    expected = {name: value for name, value in coco_map(scene, results).per_class_50.items() if value == value}
    assert {name: 100 * curve.precision.mean() for name, curve in curves.items()} == pytest.approx(expected)
    assert 100 * mean_precision(curves).mean() == pytest.approx(np.mean(list(expected.values())))


def test_of_objects_equally_near_the_last_is_taken_as_in_coco():
    left, right = [5, 0, 20, 20], [15, 0, 20, 20]
    results = [found(3, [10, 0, 20, 20], 0.9), found(3, [18, 0, 20, 20], 0.8)]  # the second is on the right one
    scene = truth((3, left, 0), (3, right, 0))
    curve = precision_recall(scene, results)["cat"]
    assert 100 * curve.precision.mean() == pytest.approx(coco_map(scene, results).per_class_50["cat"])
    np.testing.assert_allclose(curve.precision, RECALLS <= 0.5)


def test_a_confusion_matrix():
    scene = truth((3, ONE, 0), (7, TWO, 0), (7, [0, 100, 20, 20], 0), (3, [100, 100, 90, 90], 1))
    results = [
        found(3, ONE, 0.9),  # a cat that is one
        found(3, ONE, 0.8),  # and again: no object is left
        found(3, TWO, 0.7),  # a dog taken for a cat
        found(7, TWO, 0.6),  # too late
        found(7, NOWHERE, 0.3),
        found(7, NOWHERE, 0.29),  # below the threshold
        found(3, [110, 110, 20, 20], 0.9),  # in the crowd
        found(3, ONE, 0.9, image=2),
    ]
    matrix = confusion_matrix(scene, results)
    assert matrix.tolist() == [[1, 0, 0], [1, 0, 1], [2, 2, 0]]  # cat, dog, background
    assert confusion_matrix(scene, results, score=0.85).tolist() == [[1, 0, 0], [0, 0, 2], [1, 0, 0]]
    assert confusion_matrix(scene, []).tolist() == [[0, 0, 1], [0, 0, 2], [0, 0, 0]]
    assert confusion_matrix(truth(), [found(7, ONE)]).tolist() == [[0, 0, 0], [0, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize("seed", range(10))
def test_every_object_and_detection_is_counted_once(seed):
    scene, results = random_scene(seed)
    real = [one for one in scene["annotations"] if not one.get("iscrowd")]
    matrix = confusion_matrix(scene, results, score=0.3)
    for row, category in enumerate(scene["categories"]):
        assert matrix[row].sum() == sum(one["category_id"] == category["id"] for one in real)
    kept = sum(one["score"] >= 0.3 for one in results)
    assert matrix[:, :-1].sum() <= kept  # less those in crowds
    assert matrix[:-1, :-1].trace() > 0
