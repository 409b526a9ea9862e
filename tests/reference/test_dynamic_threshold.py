"""Li et al.'s thresholds and weights against NumPy, and what the method makes of them."""

import numpy as np
import pytest
import torch

from denseteacher.detectors import FCOS
from denseteacher.methods import DynamicThreshold
from denseteacher.pseudo_labels.class_statistics import accumulate_mass, even_mass, relative_mass
from denseteacher.structures import LossWeights, cat, chunk
from support import random_targets, semi_batch
from support.closeness import assert_close_to_scale


def test_mass_is_a_moving_average_over_images():
    rng = np.random.default_rng(0)
    mass, expected = even_mass(4), np.full(4, 0.25)
    for seed in range(20):
        targets = random_targets(seed, batch=3, boxes=5, classes=4)
        scores = torch.from_numpy(rng.uniform(size=(3, 5)).astype(np.float32)) * targets.mask
        before = mass.clone()
        after = accumulate_mass(mass, targets.labels, scores, memory=0.9)
        assert torch.equal(mass, before)
        step = np.zeros(4)
        for image in range(3):
            for label, score, real in zip(targets.labels[image], scores[image], targets.mask[image], strict=True):
                step[int(label)] += float(score) * bool(real)
        expected = 0.9 * expected + 0.1 * step / 3
        assert_close_to_scale(after, expected)
        mass = after


@pytest.mark.parametrize("mass", [[4.0, 2.0, 0.4, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1e-30, 0, 0, 0]])
def test_shares_are_finite_and_bounded(mass):
    share = relative_mass(torch.tensor(mass), least=0.05)
    largest = max(mass)
    expected = [max(one / largest if largest else 0.0, 0.05) for one in mass]
    assert_close_to_scale(share, expected)


@pytest.fixture
def pair():
    torch.manual_seed(0)
    options = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1}
    student, teacher = FCOS(num_classes=3, **options), FCOS(num_classes=3, **options)
    with torch.no_grad():
        teacher.head.cls.bias += torch.tensor([3.0, 3.2, 2.8])
        teacher.head.cls.weight *= 30
    return student.eval(), teacher.eval()


def test_rare_classes_get_lower_thresholds_and_higher_weights(pair, monkeypatch):
    student, teacher = pair
    batch, step = semi_batch(), 20
    method = DynamicThreshold(burn_in=10, threshold=0.3, threshold_power=0.2, weight_power=0.6, least_share=0.1)
    state = {"mass": torch.tensor([2.0, 0.5, 0.0])}
    share = np.array([1.0, 0.25, 0.1])

    seen = {}
    pseudo_boxes = DynamicThreshold.pseudo_boxes

    def watched(self, detector, teacher_output, given, threshold):
        seen["threshold"] = threshold
        seen["found"] = pseudo_boxes(self, detector, teacher_output, given, threshold)
        return seen["found"]

    monkeypatch.setattr(DynamicThreshold, "pseudo_boxes", watched)
    output = method.losses(student, teacher, batch, step, state)
    assert_close_to_scale(seen["threshold"], 0.3 * share**0.2)
    found = seen["found"]
    assert {0, 1, 2} <= set(found.labels[found.mask].tolist())
    for label in range(3):
        assert (found.scores[found.mask & (found.labels == label)] > 0.3 * share[label] ** 0.2 - 1e-6).all()

    views = cat(batch.labeled.weak, batch.labeled.strong, batch.unlabeled.strong)
    _, unlabeled = chunk(student(views), [4, 2])
    weights = torch.from_numpy((share**-0.6).astype(np.float32))[found.labels]
    expected = student.supervised_losses(unlabeled, found.targets, LossWeights(boxes=weights))
    assert_close_to_scale(output.losses["unsup/cls"], 4 * expected["cls"])
    assert_close_to_scale(output.losses["unsup/box"], expected["box"])
    plain = student.supervised_losses(unlabeled, found.targets)
    assert expected["box"] > plain["box"]
    step = np.array([float(found.scores[found.mask & (found.labels == label)].sum()) for label in range(3)]) / 2
    assert_close_to_scale(output.state["mass"], 0.999 * state["mass"].numpy() + 0.001 * step, share=1e-5)


def test_with_even_mass_it_is_the_plain_pseudo_box_method(pair):
    from denseteacher.methods import UnbiasedTeacher

    options = {"burn_in": 10, "threshold": 0.3, "box": True}
    expected = UnbiasedTeacher(**options).losses(*pair, semi_batch(), 20).losses
    actual = DynamicThreshold(**options).losses(*pair, semi_batch(), 20).losses
    for name, value in expected.items():
        assert_close_to_scale(actual[name], value)
