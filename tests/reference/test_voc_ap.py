"""VOC AP against the development kit's procedure in plain loops."""

import math
from fractions import Fraction

import numpy as np
import pytest

from denseteacher.evaluation.voc_map import voc_map
from support.random_coco import by_score, overlap, random_scene


def class_metrics(objects, detections):
    """11-point and area AP of one class, in percent."""
    left_out = [bool(one.get("difficult") or one.get("iscrowd")) for one in objects]
    total = len(objects) - sum(left_out)
    if not total:
        return {"VOC07 AP50": math.nan, "VOC AP50": math.nan}
    taken, points, true, counted = set(), [], 0, 0
    for detection in by_score(detections):
        nearest, largest = None, -1.0
        for number, one in enumerate(objects):
            value = overlap(detection["bbox"], one["bbox"]) if one["image_id"] == detection["image_id"] else -1.0
            if value > largest:
                nearest, largest = number, value
        if largest >= 0.5 and left_out[nearest]:
            continue
        counted += 1
        if largest >= 0.5 and nearest not in taken:
            taken.add(nearest)
            true += 1
        points.append((Fraction(true, total), true / counted))

    def best(level):
        return max((precision for recall, precision in points if recall >= level), default=0.0)

    steps = sorted({recall for recall, _ in points})
    area = sum(float(recall - before) * best(recall) for before, recall in zip([0, *steps], steps, strict=False))
    return {"VOC07 AP50": 100 * sum(best(Fraction(k, 10)) for k in range(11)) / 11, "VOC AP50": 100 * area}


def reference(truth, results):
    per_class = {}
    for category in truth["categories"]:
        objects, detections = (
            [one for one in entries if one["category_id"] == category["id"]]
            for entries in (truth["annotations"], results)
        )
        per_class[category["name"]] = class_metrics(objects, detections)
    known = [row for row in per_class.values() if not math.isnan(row["VOC AP50"])]
    return {key: np.mean([row[key] for row in known]) for key in ("VOC07 AP50", "VOC AP50")}, per_class


def test_voc_ap_equals_the_kits():
    spread = []
    for seed in range(200):
        truth, results = random_scene(seed)
        values, per_class = reference(truth, results)
        found = voc_map(truth, results)
        assert found.values == pytest.approx(values, abs=1e-6), seed
        assert list(found.per_class) == list(per_class)
        for name, row in per_class.items():
            assert found.per_class[name] == pytest.approx(row, abs=1e-6, nan_ok=True), (seed, name)
        spread.append(values["VOC07 AP50"] - values["VOC AP50"])
    assert np.std(spread) > 1  # the two definitions differ
