"""Precision, recall and F1 at a threshold, against counting by hand at every threshold there is."""

import numpy as np
import pytest

from denseteacher.evaluation.diagnostics import match_arrays
from denseteacher.evaluation.thresholds import SCORES, best_points, score_curves
from support.random_coco import random_scene

BOX, OTHER, NOWHERE = [0, 0, 20, 20], [50, 0, 20, 20], [200, 0, 20, 20]


def overlap(first, second):
    """IoU of two xywh boxes; over the first alone where the second is a crowd's."""
    width = min(first[0] + first[2], second[0] + second[2]) - max(first[0], second[0])
    height = min(first[1] + first[3], second[1] + second[3]) - max(first[1], second[1])
    common = max(width, 0) * max(height, 0)
    return common, first[2] * first[3], second[2] * second[3]


def counts_above(truth, results, classes, threshold):
    """Hits, mistakes and objects with the detections above a threshold, matched anew from nothing."""
    right = wrong = 0
    for category in classes:
        for image in truth["images"]:
            own = [
                one
                for one in truth["annotations"]
                if one["image_id"] == image["id"] and one["category_id"] == category["id"]
            ]
            left = [one for one in own if not one.get("iscrowd")]
            kept = [
                one
                for one in results
                if one["image_id"] == image["id"] and one["category_id"] == category["id"] and one["score"] > threshold
            ]
            for one in sorted(kept, key=lambda each: -each["score"]):
                ious = []
                for place in left:
                    common, area, second = overlap(one["bbox"], place["bbox"])
                    ious.append(common / (area + second - common) if area + second - common else 0)
                if ious and max(ious) >= 0.5:
                    best = max(place for place, value in enumerate(ious) if value == max(ious))
                    left.pop(best)
                    right += 1
                    continue
                covered = [overlap(one["bbox"], place["bbox"]) for place in own if place.get("iscrowd")]
                if not any(area and common / area >= 0.5 for common, area, _ in covered):
                    wrong += 1
    ids = {category["id"] for category in classes}
    objects = sum(one["category_id"] in ids and not one.get("iscrowd") for one in truth["annotations"])
    return right, wrong, objects


def f1_above(truth, results, classes, threshold):
    right, wrong, objects = counts_above(truth, results, classes, threshold)
    return 2 * right / (2 * right + wrong + objects - right) if right else 0.0


@pytest.mark.parametrize("seed", range(4))
def test_the_best_point_is_the_best_of_all_thresholds(seed):
    truth, results = random_scene(seed)
    curves = score_curves(match_arrays(truth, results))
    points = best_points(curves)
    groups = [(points.overall, truth["categories"])]
    for category in truth["categories"]:
        if any(one["category_id"] == category["id"] and not one.get("iscrowd") for one in truth["annotations"]):
            groups.append((points.classes[category["name"]], [category]))
    assert len(groups) == 1 + len(points.classes)
    thresholds = [0.0, *sorted({one["score"] for one in results})]
    for point, classes in groups:
        best = max(f1_above(truth, results, classes, threshold) for threshold in thresholds)
        right, wrong, objects = counts_above(truth, results, classes, point.score)
        assert point.f1 == pytest.approx(best)
        assert f1_above(truth, results, classes, point.score) == pytest.approx(best)
        assert (point.precision, point.recall) == pytest.approx((right / (right + wrong), right / objects))


@pytest.mark.parametrize("seed", range(3))
def test_the_drawn_curve_is_what_its_thresholds_give(seed):
    truth, results = random_scene(seed)
    curve = score_curves(match_arrays(truth, results)).overall.drawn()
    assert curve.scores.tolist() == [score for score in SCORES if any(one["score"] > score for one in results)]
    for place in range(0, len(curve.scores), 17):
        right, wrong, objects = counts_above(truth, results, truth["categories"], curve.scores[place])
        assert curve.precision[place] == pytest.approx(right / (right + wrong))
        assert curve.recall[place] == pytest.approx(right / objects)
    np.testing.assert_allclose(
        curve.f1, 2 / (1 / np.maximum(curve.precision, 1e-12) + 1 / np.maximum(curve.recall, 1e-12)), atol=1e-9
    )


def scene(*objects):
    return {
        "images": [{"id": 1}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": [{"image_id": 1, "category_id": 3, "bbox": box} for box in objects],
    }


def found(box, score, category=3):
    return {"image_id": 1, "category_id": category, "bbox": box, "score": score}


def test_the_threshold_lies_between_two_scores():
    points = best_points(score_curves(match_arrays(scene(BOX), [found(BOX, 0.8), found(NOWHERE, 0.4)])))
    assert points.classes["cat"] == pytest.approx((0.6, 1, 1, 1))
    assert "dog" not in points.classes  # there is none
    # the last detection, too, has room below it
    assert best_points(score_curves(match_arrays(scene(BOX), [found(BOX, 0.8)]))).overall.score == pytest.approx(0.4)


def test_of_equal_scores_all_are_kept_or_none():
    results = [found(BOX, 0.5), found(NOWHERE, 0.5), found(OTHER, 0.3)]
    curve = score_curves(match_arrays(scene(BOX, OTHER), results)).overall
    assert curve.scores.tolist() == [0.5, 0.3]
    np.testing.assert_allclose(curve.precision, [1 / 2, 2 / 3])
    np.testing.assert_allclose(curve.recall, [1 / 2, 1])


@pytest.mark.parametrize(
    ("objects", "results"), [((), []), ((BOX,), []), ((), [found(BOX, 0.9)]), ((BOX,), [found(NOWHERE, 0.9)])]
)
def test_without_an_object_that_is_found_there_is_no_best_point(objects, results):
    points = best_points(score_curves(match_arrays(scene(*objects), results)))
    assert points.overall is None
    assert not any(points.classes.values())


def test_a_detection_of_another_class_counts_for_all_classes_together():
    points = best_points(score_curves(match_arrays(scene(BOX), [found(BOX, 0.8), found(NOWHERE, 0.9, category=7)])))
    assert points.classes["cat"].precision == 1
    assert points.overall.precision == 0.5
