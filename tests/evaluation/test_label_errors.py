"""Faults of labels against their rules, box by box, and planted faults among good labels."""

import numpy as np
import pytest

from denseteacher.evaluation.arrays import read_arrays
from denseteacher.evaluation.label_errors import count_kinds, label_faults


def overlap(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union if union > 0 else 0.0


def share_inside(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    return width * height / ((a[2] - a[0]) * (a[3] - a[1]))


def by_hand(arrays):
    """The rules of ``label_faults``, one pair of boxes after the other."""
    truth, found = arrays.truth, arrays.predictions
    labels = [i for i in range(len(truth.boxes)) if not truth.crowd[i]]
    regions = [i for i in range(len(truth.boxes)) if truth.crowd[i]]
    counted = [
        j
        for j in range(len(found.boxes))
        if not any(
            truth.images[i] == found.images[j] and share_inside(found.boxes[j], truth.boxes[i]) >= 0.5 for i in regions
        )
    ]
    pairs = {
        (i, j): overlap(found.boxes[j], truth.boxes[i])
        for i in labels
        for j in counted
        if truth.images[i] == found.images[j]
    }
    same = {pair: truth.classes[pair[0]] == found.classes[pair[1]] for pair in pairs}
    fit = {j: max([iou for (i, k), iou in pairs.items() if k == j and same[i, k]], default=0.0) for j in counted}
    seen = {
        i: max([found.scores[j] for (k, j), iou in pairs.items() if k == i and iou >= 0.3], default=0.0) for i in labels
    }

    def trust(j, at_least):
        alike = [
            k for k in counted if k != j and found.classes[k] == found.classes[j] and found.scores[k] >= found.scores[j]
        ]
        return (1 + sum(fit[k] >= at_least for k in alike)) / (1 + len(alike))

    faults = {}
    for j in counted:
        if not any(iou >= 0.3 for (_, k), iou in pairs.items() if k == j):
            faults["missed", None, j] = found.scores[j] * trust(j, 0.5)
    for i in labels:
        class_mates = [k for k in labels if truth.classes[k] == truth.classes[i]]
        no_better = sum(seen[k] <= seen[i] for k in class_mates if k != i) / len(class_mates)
        possible = {("phantom", i, None): (1 - seen[i]) * 0.02 / (0.02 + no_better)}
        mine = {j: iou for (k, j), iou in pairs.items() if k == i}
        own = max([found.scores[j] for j, iou in mine.items() if same[i, j] and iou >= 0.5], default=0.0)
        tight = max([found.scores[j] for j, iou in mine.items() if same[i, j] and iou >= 0.7], default=0.0)
        others = [(found.scores[j], -j) for j, iou in mine.items() if not same[i, j] and iou >= 0.5 and fit[j] < 0.5]
        if others:
            score, j = max(others)
            possible["other class", i, -j] = (score - own) * trust(-j, 0.5)
        loose = [
            (found.scores[j] * (0.7 - iou) / 0.4, -j) for j, iou in mine.items() if same[i, j] and 0.3 <= iou < 0.7
        ]
        if loose:
            looseness, j = max(loose)
            possible["loose box", i, -j] = (looseness - tight) * trust(-j, 0.7)
        best = max(possible, key=lambda one: possible[one])
        faults[best] = possible[best]
    return {key: score for key, score in faults.items() if score > 0}


def random_data(rng, *, images=6, classes=3, most=5):
    content = {
        "images": [{"id": 3 * number, "width": 100, "height": 100} for number in range(images)],
        "categories": [{"id": 2 * number + 1, "name": f"class {number}"} for number in range(classes)],
        "annotations": [],
    }
    results = []
    for image in content["images"]:
        for _ in range(rng.integers(0, most)):
            box = [*rng.uniform(0, 60, 2), *rng.uniform(8, 40, 2)]
            one = {"id": len(content["annotations"]), "image_id": image["id"], "bbox": box}
            one |= {"category_id": int(rng.choice([1, 3, 5])), "iscrowd": int(rng.random() < 0.1)}
            content["annotations"].append(one)
            for _ in range(rng.integers(0, 4)):
                near = (np.array(box) + rng.normal(0, rng.choice([0.3, 2, 5]), 4)).clip(1).tolist()
                category = one["category_id"] if rng.random() < 0.7 else int(rng.choice([1, 3, 5]))
                results.append({"image_id": image["id"], "category_id": category, "bbox": near})
        for _ in range(rng.integers(0, 3)):
            box = [*rng.uniform(0, 60, 2), *rng.uniform(8, 40, 2)]
            results.append({"image_id": image["id"], "category_id": int(rng.choice([1, 3, 5])), "bbox": box})
    for result in results:
        result["score"] = float(rng.uniform(0.02, 1))
    return content, results


@pytest.mark.parametrize("seed", range(15))
def test_faults_are_those_of_the_rules(seed):
    arrays = read_arrays(*random_data(np.random.default_rng(seed)))
    found = label_faults(arrays)
    wanted = by_hand(arrays)
    assert {(one.kind, one.label, one.detection) for one in found} == wanted.keys()
    for one in found:
        assert one.score == pytest.approx(wanted[one.kind, one.label, one.detection])
        place = arrays.truth.images[one.label] if one.label is not None else arrays.predictions.images[one.detection]
        assert one.image == place
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score <= 1 for score in scores)
    floor = float(np.median(scores))
    assert label_faults(arrays, at_least=floor) == [one for one in found if one.score >= floor]
    assert sum(count_kinds(found).values()) == len(found)


def test_every_kind_occurs_in_the_random_data():
    kinds = set()
    for seed in range(15):
        kinds |= {one.kind for one in label_faults(read_arrays(*random_data(np.random.default_rng(seed))))}
    assert kinds == {"missed", "phantom", "other class", "loose box"}


def test_planted_faults_are_first():
    """Forty good labels, of which a good detector sees nearly all, and one fault of each kind."""
    rng = np.random.default_rng(0)
    content = {
        "images": [{"id": number, "width": 100, "height": 100} for number in range(44)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [],
    }
    results = []
    for number in range(44):
        box = [20.0, 20.0, 40.0, 30.0]
        category = 1 + number % 2
        content["annotations"].append({"id": number, "image_id": number, "category_id": category, "bbox": box})
        near = (np.array(box) + rng.normal(0, 0.5, 4)).tolist()
        result = {"image_id": number, "category_id": category, "bbox": near, "score": float(rng.uniform(0.6, 0.95))}
        results.append(result)
    labels = content["annotations"]
    labels[40]["bbox"] = [70.0, 70.0, 20.0, 20.0]  # nothing is there, and what is there has no label
    labels[41]["category_id"] = 3 - labels[41]["category_id"]
    labels[42]["bbox"] = [20.0, 20.0, 40.0, 70.0]
    results[5]["score"] = 0.55  # the least sure, and nothing is wrong
    found = label_faults(read_arrays(content, results))
    planted = {("phantom", 40), ("missed", 40), ("other class", 41), ("loose box", 42)}
    assert {(one.kind, one.image) for one in found[:4]} == planted
    assert (found[4].kind, found[4].image) == ("phantom", 5)


def test_nothing_is_wrong_where_there_is_nothing():
    content = {"images": [{"id": 1}], "categories": [{"id": 1, "name": "cat"}], "annotations": []}
    assert label_faults(read_arrays(content, [])) == []
    box = {"image_id": 1, "category_id": 1, "bbox": [0.0, 0.0, 9.0, 9.0]}
    (missed,) = label_faults(read_arrays(content, [box | {"score": 0.75}]))
    assert missed == ("missed", 0.75, 0, None, 0)
    (phantom,) = label_faults(read_arrays(content | {"annotations": [box]}, []))
    assert phantom == ("phantom", 1.0, 0, 0, None)
    crowd = content | {"annotations": [box | {"iscrowd": 1}]}
    assert label_faults(read_arrays(crowd, [box | {"score": 0.75}])) == []
