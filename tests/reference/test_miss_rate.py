"""CrowdHuman's protocol against plain loops written from its description."""

import math
from itertools import pairwise

import numpy as np
import pytest

from denseteacher.evaluation.miss_rate import log_average_miss_rate
from support.random_coco import by_score, overlap, random_scene

REFERENCES = [0.0100, 0.0178, 0.0316, 0.0562, 0.1000, 0.1778, 0.3162, 0.5623, 1.0000]


def cut(box, image):
    left, top = max(0.0, min(box[0], image["width"])), max(0.0, min(box[1], image["height"]))
    right = max(0.0, min(box[0] + box[2], image["width"]))
    bottom = max(0.0, min(box[1] + box[3], image["height"]))
    return [left, top, right - left, bottom - top]


def reference(truth, results):
    images = {one["id"]: one for one in truth["images"]}
    people = [one for one in truth["annotations"] if not one.get("iscrowd")]
    taken, hits, dropped = set(), [], 0
    for detection in by_score(results):
        image = images[detection["image_id"]]
        box = cut(detection["bbox"], image)
        best, choice = 0.5, None
        for number, one in enumerate(people):
            if one["image_id"] == image["id"] and number not in taken:
                value = overlap(box, cut(one["bbox"], image))
                if value > best:
                    best, choice = value, number
        if choice is not None:
            taken.add(choice)
            hits.append(True)
            continue
        regions = [one for one in truth["annotations"] if one.get("iscrowd") and one["image_id"] == image["id"]]
        if any(overlap(box, cut(one["bbox"], image), of_first=True) > 0.5 for one in regions):
            dropped += 1
        else:
            hits.append(False)
    curve, true = [], 0
    for number, hit in enumerate(hits, 1):
        true += hit
        curve.append(((number - true) / len(images), 1 - true / len(people), true / number))
    logs = []
    for level in REFERENCES:
        point = next((one for one in curve if one[0] >= level), curve[-1])
        logs.append(math.log(max(point[1], 1e-10)))
    area = sum((first[1] - second[1]) * (first[2] + second[2]) / 2 for first, second in pairwise(curve))
    return 100 * math.exp(sum(logs) / 9), 100 * area, 100 * (1 - curve[-1][1]), curve, dropped


def test_the_miss_rate_equals_the_protocols():
    spread, dropped = [], 0
    for seed in range(200):
        truth, results = random_scene(seed, classes=1, images=2 + seed % 30)
        if all(one.get("iscrowd") for one in truth["annotations"]):
            assert math.isnan(log_average_miss_rate(truth, results).mMR)
            continue
        miss_rate, ap, recall, curve, count = reference(truth, results)
        found = log_average_miss_rate(truth, results)
        assert (found.mMR, found.AP, found.recall) == pytest.approx((miss_rate, ap, recall), abs=1e-6), seed
        np.testing.assert_allclose(found.fppi, [one[0] for one in curve], atol=1e-12)
        np.testing.assert_allclose(found.miss_rates, [one[1] for one in curve], atol=1e-12)
        spread.append(miss_rate)
        dropped += count
    assert len(spread) > 190
    assert np.std(spread) > 3
    assert dropped > 200
