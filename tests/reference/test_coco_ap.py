"""Both COCO libraries, as ``coco_map`` uses them, against COCO's protocol in plain loops."""

import math

import numpy as np
import pytest

from denseteacher.evaluation.coco_map import coco_map
from support.random_coco import by_score, overlap, random_scene

LIMITS = (1, 2, 5)
AREAS = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}


def match_image(objects, detections, area, threshold):
    """(score, found, counts) of each detection of one image and class, and how many objects there are to find."""
    low, high = area
    ignored = [one.get("iscrowd", 0) or not low <= one["area"] <= high for one in objects]
    taken = set()
    outcome = []
    for detection in detections:
        choice = None
        for group in (False, True):  # an ignored object only where no other fits
            best = threshold
            for number, one in enumerate(objects):
                crowd = bool(one.get("iscrowd", 0))
                if bool(ignored[number]) != group or (number in taken and not crowd):
                    continue
                value = overlap(detection["bbox"], one["bbox"], of_first=crowd)
                if value >= best:
                    best, choice = value, number
            if choice is not None:
                break
        if choice is not None:
            taken.add(choice)
            outcome.append((detection["score"], True, not ignored[choice]))
        else:
            size = detection["bbox"][2] * detection["bbox"][3]
            outcome.append((detection["score"], False, low <= size <= high))
    return outcome, len(objects) - sum(map(bool, ignored))


def class_metrics(truth, results, category, area, threshold):
    """AP at the largest limit and recall at each, as shares; nan without objects."""
    outcomes, total = [], 0
    for image in sorted(one["id"] for one in truth["images"]):
        mine = [one for one in truth["annotations"] if (one["image_id"], one["category_id"]) == (image, category)]
        objects = [one | {"area": one.get("area", one["bbox"][2] * one["bbox"][3])} for one in mine]
        detections = [one for one in results if (one["image_id"], one["category_id"]) == (image, category)]
        outcome, count = match_image(objects, by_score(detections)[: LIMITS[-1]], area, threshold)
        outcomes.append(outcome)
        total += count
    if not total:
        return math.nan, [math.nan] * len(LIMITS)
    recalls = [sum(found and counts for one in outcomes for _, found, counts in one[:n]) / total for n in LIMITS]
    together = [one for outcome in outcomes for one in outcome]
    hits = [found for _, found, counts in sorted(together, key=lambda one: -one[0]) if counts]
    points = [(sum(hits[: n + 1]) / total, sum(hits[: n + 1]) / (n + 1)) for n in range(len(hits))]
    ap = np.mean([max((p for r, p in points if r >= level), default=0.0) for level in np.linspace(0, 1, 101)])
    return ap, recalls


def reference(truth, results):
    thresholds = np.linspace(0.5, 0.95, 10)
    categories = [one["id"] for one in truth["categories"]]
    ap, recall = {}, {}
    for name, area in AREAS.items():
        found = [[class_metrics(truth, results, c, area, t) for c in categories] for t in thresholds]
        ap[name] = np.array([[one[0] for one in row] for row in found]) * 100
        recall[name] = np.array([[one[1] for one in row] for row in found]) * 100

    def mean(values):
        known = values[~np.isnan(values)]
        return known.mean() if known.size else math.nan

    values = {"AP": mean(ap[""]), "AP50": mean(ap[""][0]), "AP75": mean(ap[""][5])}
    values |= {f"AP{letter}": mean(ap[letter]) for letter in "sml"}
    values |= {f"AR{limit}": mean(recall[""][..., at]) for at, limit in enumerate(LIMITS)}
    values |= {f"AR{letter}": mean(recall[letter][..., -1]) for letter in "sml"}
    names = [one["name"] for one in truth["categories"]]
    per_class = {name: mean(ap[""][:, place]) for place, name in enumerate(names)}
    return values, per_class, dict(zip(names, ap[""][0], strict=True))


@pytest.mark.parametrize("part", range(4))
def test_coco_ap_equals_its_protocol(part):
    spread = []
    for seed in range(50 * part, 50 * part + 50):
        truth, results = random_scene(seed, classes=3, images=4)
        values, per_class, per_class_50 = reference(truth, results)
        for backend in ("faster", "pycocotools"):
            found = coco_map(truth, results, backend=backend, max_detections=LIMITS)
            assert found.values == pytest.approx(values, abs=1e-6, nan_ok=True), (seed, backend)
            assert found.per_class == pytest.approx(per_class, abs=1e-6, nan_ok=True), (seed, backend)
            assert found.per_class_50 == pytest.approx(per_class_50, abs=1e-6, nan_ok=True), (seed, backend)
        spread.append(values["AP"])
    assert np.nanstd(spread) > 5  # scenes in which there is something to disagree about
    assert 20 < np.nanmean(spread) < 80
