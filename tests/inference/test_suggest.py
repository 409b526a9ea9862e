"""The choice of images to label: against counting by hand, on random and on edge cases."""

from pathlib import Path

import numpy as np
import pytest
import torch

from denseteacher.data.records import ImageRecord
from denseteacher.inference.suggest import (
    FARTHEST,
    Pick,
    RareObject,
    choose,
    class_rarity,
    found_objects,
    rarest_object,
    reasons_of,
    shares_below,
)
from denseteacher.structures import Detections


def directions(rng, count, size=6):
    rows = rng.normal(size=(count, size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def detections(scores, labels):
    return Detections(torch.zeros(len(scores), 4), torch.tensor(scores), torch.tensor(labels, dtype=torch.long))


@pytest.mark.parametrize("known", [0, 1, 7])
@pytest.mark.parametrize("seed", range(4))
def test_the_choice_is_that_of_looking_at_all_pairs(seed, known):
    rng = np.random.default_rng(seed)
    scores, features, centers = rng.random(25), directions(rng, 25), list(directions(rng, known))
    expected = []
    for _ in range(10):
        best = None
        for place in set(range(25)) - {place for place, _ in expected}:
            distances = [np.linalg.norm(features[place] - center) for center in centers]
            distance = min(distances, default=2.0)
            if best is None or scores[place] * distance > scores[best[0]] * best[1]:
                best = (place, distance)
        expected.append(best)
        centers.append(features[best[0]])
    found = choose(scores, features, np.array(centers[:known]).reshape(known, 6), 10)
    assert [one.place for one in found] == [place for place, _ in expected]
    np.testing.assert_allclose([one.distance for one in found], [distance for _, distance in expected], atol=1e-7)


@pytest.mark.parametrize("seed", range(3))
def test_with_equal_scores_no_image_is_far_from_all_chosen(seed):
    # greedy k centers are at most twice as far from the images as the best ones; each is as far from the others as that
    rng = np.random.default_rng(seed)
    features = directions(rng, 40)
    found = choose(np.ones(40), features, np.zeros((0, 6)), 8)
    chosen = features[[one.place for one in found]]
    distances = np.linalg.norm(features[:, None] - chosen, axis=2).min(1)
    assert distances.max() <= found[-1].distance + 1e-9
    assert [one.distance for one in found] == sorted((one.distance for one in found), reverse=True)


@pytest.mark.parametrize("seed", range(4))
def test_of_near_duplicates_one_is_chosen(seed):
    rng = np.random.default_rng(seed)
    # six videos of ten frames; those of the first have the highest scores
    videos = directions(rng, 6, 12)
    frames = (videos[:, None] + rng.normal(0, 1e-4, (6, 10, 12))).reshape(60, 12)
    frames /= np.linalg.norm(frames, axis=1, keepdims=True)
    scores = np.repeat([1.0, 0.8, 0.7, 0.6, 0.6, 0.5], 10) + rng.uniform(0, 0.01, 60)
    places = [one.place for one in choose(scores, frames, np.zeros((0, 12)), 6)]
    assert sorted(place // 10 for place in places) == list(range(6))
    # and none of a video of which an image is labeled
    places = [one.place for one in choose(scores, frames, videos[:1], 5)]
    assert sorted(place // 10 for place in places) == list(range(1, 6))


def test_all_are_chosen_where_there_are_not_more():
    features = np.tile([[1.0, 0.0]], (3, 1))
    found = choose(np.array([0.2, 0.0, 0.4]), features, np.zeros((0, 2)), 9)
    assert sorted(one.place for one in found) == [0, 1, 2]
    assert found[0] == (2, FARTHEST)
    assert choose(np.zeros(0), np.zeros((0, 2)), np.zeros((0, 2)), 3) == []


@pytest.mark.parametrize("seed", range(3))
def test_shares_are_those_of_counting(seed):
    values = np.random.default_rng(seed).integers(0, 9, 30).astype(float)
    expected = [sum(other < value for other in values) / 29 for value in values]
    np.testing.assert_allclose(shares_below(values), expected)
    assert shares_below(np.array([3.0])).tolist() == [0]


def test_a_class_is_rare_where_labels_are_short_of_it():
    labeled, found = np.array([90.0, 9.0, 0.0]), np.array([50.0, 25.0, 22.0])
    wanted = (np.array([51, 26, 23]) / 100 + 1 / 3) / 2
    have = np.array([91, 10, 1]) / 102
    expected = np.maximum(0, np.log(wanted / have))
    np.testing.assert_allclose(class_rarity(labeled, found), expected)
    assert expected[0] == 0 < expected[1] < expected[2]
    even = np.full(4, 10.0)
    np.testing.assert_allclose(class_rarity(even, even), 0, atol=1e-12)
    assert np.isfinite(class_rarity(np.zeros(3), np.zeros(3))).all()


def test_objects_are_counted_by_their_scores_and_the_rarest_is_found():
    images = [detections([0.9, 0.5], [0, 2]), detections([], []), detections([0.25], [2])]
    np.testing.assert_allclose(found_objects(images, 4), [0.9, 0, 0.75, 0])
    np.testing.assert_allclose(found_objects([], 2), [0, 0])
    rarity = np.array([0.1, 0.0, 2.0, 0.0])
    assert rarest_object(images[0], rarity) == (pytest.approx(1.0), 2, pytest.approx(0.5))
    assert rarest_object(images[1], rarity) is None


def test_reasons_are_in_words_and_the_strongest_first():
    values = {"student": 0.123, "mirror": 0.04, "entropy": 1.5, "rarity": 0.9}
    shares = {"student": 0.5, "mirror": 0.2, "entropy": 0.75, "rarity": 0.99}
    reasons = reasons_of(values, shares, RareObject(0.9, 1, 0.6), ["cat", "dog"])
    assert [one.part for one in reasons] == ["rarity", "entropy", "student", "mirror"]
    assert reasons[0].text.startswith("'dog' may be in it (score 0.60)")
    assert reasons[2].text == "teacher and student differ by 0.12: more than in 50% of the pool"
    # nothing is found, or nothing that is rare
    for rare in (None, RareObject(0.0, 0, 0.6)):
        kept = reasons_of(values | {"rarity": 0.0}, shares, rare, ["cat", "dog"])
        assert [one.part for one in kept] == ["entropy", "student", "mirror"]


def test_the_distance_is_told_in_words():
    record = ImageRecord(1, Path("a.png"), 8, 8)
    assert "nothing that it could be like" in Pick(record, 0.5, FARTHEST, [], detections([], [])).novelty
    assert Pick(record, 0.5, 0.414, [], detections([], [])).novelty.startswith("0.41 from the nearest image")
