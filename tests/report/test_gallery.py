"""Which object is found and which detection wrong, against plain loops."""

import numpy as np
import pytest

from denseteacher.evaluation.diagnostics import match_arrays, worst_images
from denseteacher.report.gallery import detection_boxes, truth_boxes


def _iou(a, b):
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def _scene(rng):
    truth = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]}
    results = []
    for image in range(5):
        truth["images"].append({"id": 100 + image, "width": 100, "height": 100})
        for _ in range(rng.integers(0, 4)):
            box = [*rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2)]
            one = {"image_id": 100 + image, "category_id": int(rng.choice([3, 7])), "bbox": box, "iscrowd": 0}
            truth["annotations"].append(one | {"id": len(truth["annotations"]) + 1})
            for _ in range(rng.integers(0, 3)):
                near = [float(side) for side in np.asarray(box) + rng.normal(0, 3, 4)]
                results.append(
                    {
                        "image_id": 100 + image,
                        "category_id": int(rng.choice([3, 7])),
                        "bbox": near,
                        "score": rng.random(),
                    }
                )
    return truth, results


def _expected(truth, results):
    """For each object the score that finds it, and for each result whether it is right."""
    found_at, right = {}, {}
    for index in sorted(range(len(results)), key=lambda index: -results[index]["score"]):
        one = results[index]
        free = [
            (_iou(one["bbox"], other["bbox"]), other["id"])
            for other in truth["annotations"]
            if (other["image_id"], other["category_id"]) == (one["image_id"], one["category_id"])
            and other["id"] not in found_at
        ]
        best = max(free, default=(0.0, None))
        right[index] = best[0] >= 0.5
        if right[index]:
            found_at[best[1]] = one["score"]
    return found_at, right


@pytest.mark.parametrize("seed", range(20))
def test_objects_and_detections_are_matched_as_by_hand(seed):
    truth, results = _scene(np.random.default_rng(seed))
    found_at, right = _expected(truth, results)
    matched = match_arrays(truth, results)
    mistakes = {}
    for image in (one["id"] for one in truth["images"]):
        objects = [one for one in truth["annotations"] if one["image_id"] == image]
        shown = truth_boxes(matched, image)
        assert [box.score for box in shown] == pytest.approx([found_at.get(one["id"], 0.0) for one in objects])
        assert [box.text for box in shown] == [{3: "cat", 7: "dog"}[one["category_id"]] for one in objects]
        own = sorted((one["score"], right[index]) for index, one in enumerate(results) if one["image_id"] == image)
        assert [(box.score, box.kind == "right") for box in detection_boxes(matched, image)] == own[::-1]
        missed = sum(found_at.get(one["id"], 0.0) <= 0.5 for one in objects)
        mistakes[image] = missed + sum(score > 0.5 and not good for score, good in own)
    worst = worst_images(matched, above=0.5, most=3)
    assert [mistakes[image] for image in worst] == sorted(
        (count for count in mistakes.values() if count), reverse=True
    )[:3]


def test_crowd_regions_are_no_mistakes():
    truth = {
        "images": [{"id": 1, "width": 50, "height": 50}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 40, 40], "iscrowd": 1}],
    }
    matched = match_arrays(truth, [{"image_id": 1, "category_id": 1, "bbox": [5, 5, 10, 10], "score": 0.9}])
    assert truth_boxes(matched, 1) == detection_boxes(matched, 1) == worst_images(matched, above=0.5, most=3) == []
