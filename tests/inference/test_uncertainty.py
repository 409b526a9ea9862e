"""Doubts about images: against NumPy on random outputs, and on a network that a mirror does not change."""

import numpy as np
import pytest
import torch

from conftest import TINY
from denseteacher.detectors import DetectorCard
from denseteacher.inference.predictor import Predictor
from denseteacher.inference.uncertainty import ImageAssessor, disagreement, region_entropy
from denseteacher.ops.anchors import valid_locations
from denseteacher.ops.boxes import centers
from denseteacher.recipes.schema import load_recipe
from denseteacher.structures import DenseOutput


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def random_output(rng, *, images=3, locations=40, classes=4):
    logits = torch.tensor(rng.normal(-2, 3, (images, locations, classes)), dtype=torch.float32)
    valid = torch.tensor(rng.random((images, locations)) < 0.8)
    zeros = torch.zeros(images, locations, 4)
    return DenseOutput(logits, zeros, None, torch.zeros(locations, 4), valid)


def region(scores, valid, ratio):
    """Places of the richest locations of one image."""
    count = max(1, int(ratio * valid.sum()))
    richness = np.where(valid, scores.max(1), -1)
    return np.argsort(-richness, kind="stable")[:count]


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_entropy_agrees_with_numpy(seed, ratio):
    output = random_output(np.random.default_rng(seed))
    expected = []
    for logits, valid in zip(output.logits.double().numpy(), output.valid.numpy(), strict=True):
        p = sigmoid(logits)
        bits = -(p * np.log2(p) + (1 - p) * np.log2(1 - p)).sum(1)
        expected.append(bits[region(p, valid, ratio)].mean())
    np.testing.assert_allclose(region_entropy(output, ratio), expected, rtol=1e-4)


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_disagreement_agrees_with_numpy(seed, ratio):
    rng = np.random.default_rng(seed)
    output, other = random_output(rng), random_output(rng)
    expected = []
    fields = (output.logits, other.logits, output.valid, other.valid)
    for one, two, valid, also in zip(*(field.numpy() for field in fields), strict=True):
        p, q = sigmoid(one.astype(float)), sigmoid(two.astype(float))
        expected.append(np.abs(p - q).max(1)[region(np.maximum(p, q), valid & also, ratio)].mean())
    found = disagreement(output, other.logits, ratio, valid=other.valid)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_edges():
    output = random_output(np.random.default_rng(0))
    assert disagreement(output, output.logits, 0.1).tolist() == [0, 0, 0]
    sure = output._replace(logits=torch.where(output.logits > 0, 200.0, -200.0))
    assert region_entropy(sure, 0.5).tolist() == [0, 0, 0]
    undecided = output._replace(logits=torch.zeros_like(output.logits))
    np.testing.assert_allclose(region_entropy(undecided, 0.5), [4, 4, 4], rtol=1e-6)  # one bit a class
    nowhere = output._replace(valid=torch.zeros_like(output.valid))
    assert region_entropy(nowhere, 0.1).tolist() == disagreement(nowhere, -output.logits, 0.1).tolist() == [0, 0, 0]


@pytest.fixture
def predictor():
    recipe = load_recipe("custom", TINY)
    card = DetectorCard(
        detector=recipe.detector,
        categories=((1, "red"), (2, "green"), (3, "blue")),
        short_side=64,
        max_side=96,
        trained={},
    )
    torch.manual_seed(0)
    return Predictor(card.detector.build(3).eval(), card, device=torch.device("cpu"))


def look_at_points(detector, images, *, column):
    """A network whose scores are the mean of some columns of pixels around each location."""
    anchors = detector.anchors(tuple(images.pixels.shape[-2:]), images.pixels.device)
    x, y = centers(anchors).round().long().unbind(1)
    seen = [images.pixels[:, :, y, (x + shift).clamp(min=0)].float() for shift in column]
    logits = torch.stack(seen).mean(0).transpose(1, 2) / 16 - 8
    deltas = torch.ones(len(logits), len(anchors), 4)
    return DenseOutput(logits, deltas, None, anchors, valid_locations(anchors, images.sizes))


@pytest.mark.parametrize("column", [(-1, 0), (0,)])
def test_a_mirror_changes_nothing_where_the_network_does_not_care(predictor, monkeypatch, column):
    # the pixels left and right of a location are those of its partner, and the one on the right alone is not
    detector = predictor.detector
    monkeypatch.setattr(detector, "forward", lambda images: look_at_points(detector, images, column=column))
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (64, width, 3), dtype=np.uint8) for width in (96, 64)]
    found = ImageAssessor(predictor, None, ratio=0.5)(arrays)
    assert all(one.student is None for one in found)
    if column == (-1, 0):
        assert [one.mirror for one in found] == pytest.approx([0, 0], abs=1e-6)
    else:
        assert all(one.mirror > 0.1 for one in found)


def test_a_mirror_image_may_show_something_else(predictor):
    array = np.zeros((64, 64, 3), np.uint8)
    (found,) = ImageAssessor(predictor, None, ratio=0.5, mirror=False)([array])
    assert found.mirror is found.student is None
    assert found.entropy > 0


def test_a_student_that_is_the_teacher_does_not_disagree(predictor):
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 256, (60, 80, 3), dtype=np.uint8) for _ in range(3)]
    found = ImageAssessor(predictor, predictor, ratio=0.1)(arrays)
    assert [one.student for one in found] == [0, 0, 0]
    for array, one in zip(arrays, found, strict=True):
        alone = predictor.predict([array])[0]
        assert torch.equal(one.detections.labels, alone.labels)
        torch.testing.assert_close(one.detections.boxes, alone.boxes, atol=1e-3, rtol=1e-4)
