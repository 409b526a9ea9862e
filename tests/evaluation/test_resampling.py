"""The bootstrap's weighted AP against COCO's own code on data sets whose images are really there several times."""

import numpy as np
import pytest

from denseteacher.evaluation.coco_map import coco_map
from denseteacher.evaluation.resampling import resampled_ap, weighted_ap
from support.random_coco import random_scene


def repeated(scene, results, counts):
    """A data set with each image, its objects and its detections so many times; images by rising id."""
    truth = {**scene, "images": [], "annotations": []}
    found = []
    for image, count in zip(sorted(scene["images"], key=lambda one: one["id"]), counts, strict=True):
        for copy in range(count):
            new = image["id"] * 1000 + copy
            truth["images"].append({**image, "id": new})
            own = (one for one in scene["annotations"] if one["image_id"] == image["id"])
            truth["annotations"] += [{**one, "image_id": new, "id": 0} for one in own]
            found += [{**one, "image_id": new} for one in results if one["image_id"] == image["id"]]
    truth["annotations"] = [{**one, "id": number} for number, one in enumerate(truth["annotations"], 1)]
    return truth, found


@pytest.mark.parametrize("seed", range(12))
def test_weights_are_repetitions(seed):
    scene, results = random_scene(seed, images=8)
    results = [{**one, "score": one["score"] + 1e-6 * number} for number, one in enumerate(results)]  # no ties
    draws = np.random.default_rng(seed).multinomial(8, np.full(8, 1 / 8), size=4)
    draws[0] = 1
    expected = [coco_map(*repeated(scene, results, counts)).values["AP"] for counts in draws]
    np.testing.assert_allclose(weighted_ap(scene, results, draws), expected, rtol=1e-5)


def test_the_given_images_have_their_own_ap():
    scene, results = random_scene(3, images=20)
    ones = np.ones((1, 20), dtype=np.int64)
    assert weighted_ap(scene, results, ones)[0] == pytest.approx(coco_map(scene, results).values["AP"], rel=1e-5)


def test_parts_change_nothing(monkeypatch):
    scene, results = random_scene(5)
    whole = resampled_ap(scene, [results], resamples=50)
    monkeypatch.setattr("denseteacher.evaluation.resampling._MOST_CELLS", 100)
    np.testing.assert_array_equal(whole, resampled_ap(scene, [results], resamples=50))


def test_draws_are_paired_and_seeded():
    scene, results = random_scene(1, images=20)
    worse = [one for number, one in enumerate(results) if number % 3]
    found = resampled_ap(scene, [results, worse, results], resamples=100)
    assert found.shape == (100, 3)
    np.testing.assert_array_equal(found[:, 0], found[:, 2])
    assert (found[:, 0] - found[:, 1]).std() < found[:, 0].std()  # what is hard for both cancels
    np.testing.assert_array_equal(found, resampled_ap(scene, [results, worse, results], resamples=100))
    assert not np.array_equal(found, resampled_ap(scene, [results, worse, results], resamples=100, seed=1))


def test_without_detections_or_objects():
    scene, results = random_scene(1)
    ones = np.ones((2, len(scene["images"])), dtype=np.int64)
    assert weighted_ap(scene, [], ones).tolist() == [0, 0]
    assert np.isnan(weighted_ap(scene | {"annotations": []}, results, ones)).all()
    empty = sorted(scene["images"], key=lambda one: one["id"])
    has_objects = {one["image_id"] for one in scene["annotations"] if not one.get("iscrowd")}
    only_empty = np.array([[int(one["id"] not in has_objects) for one in empty]])
    assert np.isnan(weighted_ap(scene, results, only_empty)).all()
