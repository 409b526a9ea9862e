"""The tests' own yardstick: rounding passes, mistakes don't."""

import numpy as np
import pytest
import torch

from support.closeness import assert_close_to_scale, assert_same_detections

BOXES = np.random.default_rng(0).uniform(0, 96, (20, 4))
SCORES = np.linspace(0.9, 0.3, 20)
LABELS = np.arange(20) % 3
ONE = np.arange(80).reshape(20, 4) == 13


def test_a_small_number_beside_large_ones_is_no_more_exact_than_they_are():
    assert_close_to_scale(torch.tensor([1.21012, 90.0]), torch.tensor([1.21, 90.0]))  # relative 1e-4, in px nothing
    assert_close_to_scale({"one": [1.0, np.inf]}, {"one": torch.tensor([1.00001, np.inf])})
    assert_close_to_scale(np.zeros((0, 4)), torch.zeros(0, 4))


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (BOXES + 0.5, BOXES),  # half a pixel
        (1.001 * BOXES, BOXES),
        (np.where(ONE, np.nan, BOXES), BOXES),
        (np.where(ONE, np.inf, BOXES), BOXES),
        (BOXES[:, :3], BOXES),
        (BOXES, np.where(ONE, np.inf, BOXES)),
        ([1e-9], [0.0]),  # of nothing there is no share
        ({"one": 1.0}, {"one": 1.0, "other": 0.0}),
        ({"one": 1.0, "other": 1.01}, {"one": 1.0, "other": 1.0}),
    ],
)
def test_mistakes_are_seen(actual, expected):
    with pytest.raises(AssertionError):
        assert_close_to_scale(actual, expected)


def test_the_message_says_how_far_it_was_off():
    with pytest.raises(AssertionError, match=r"boxes: 2\.5 is not 2, off by 0\.5 where 0\.0096 is allowed .*1 of 2"):
        assert_close_to_scale([2.5, 96.0], [2.0, 96.0], what="boxes")


def test_detections_may_differ_at_a_threshold():
    jitter = np.random.default_rng(1).uniform(-1e-6, 1e-6, BOXES.shape)
    assert_same_detections((BOXES + jitter, SCORES, LABELS), (BOXES, SCORES, LABELS))
    assert_same_detections((BOXES[:-1], SCORES[:-1], LABELS[:-1]), (BOXES, SCORES, LABELS))
    assert_same_detections((np.zeros((0, 4)), [], []), (np.zeros((0, 4)), [], []))


@pytest.mark.parametrize(
    "found",
    [
        (BOXES + 0.5, SCORES, LABELS),
        (BOXES, SCORES + 1e-3, LABELS),
        (BOXES, SCORES, (LABELS + 1) % 3),
        (BOXES[::-1], SCORES[::-1], LABELS[::-1]),
        (BOXES[:16], SCORES[:16], LABELS[:16]),
        (np.zeros((0, 4)), [], []),
    ],
)
def test_other_detections_are_seen(found):
    with pytest.raises(AssertionError):
        assert_same_detections(found, (BOXES, SCORES, LABELS))


def test_of_a_few_detections_none_may_lack():
    with pytest.raises(AssertionError, match="no partner"):
        assert_same_detections((BOXES[:2], SCORES[:2], LABELS[:2]), (BOXES[:3], SCORES[:3], LABELS[:3]))
