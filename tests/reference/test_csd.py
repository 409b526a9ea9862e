"""CSD: consistency of an image with its mirror image, against an independent NumPy version."""

import numpy as np
import pytest
import torch

from denseteacher.detectors import FCOS, RetinaNet
from denseteacher.methods import CSD, Supervised
from denseteacher.methods.csd import box_difference, symmetric_divergence
from denseteacher.pseudo_labels.flip_ensemble import mirror_back, mirror_images
from denseteacher.structures import cat
from support import semi_batch, sigmoid64
from support.closeness import assert_close_to_scale

SMALL = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1}


@pytest.fixture(params=[FCOS, RetinaNet])
def student(request):
    torch.manual_seed(0)
    student = request.param(num_classes=3, **SMALL)
    with torch.no_grad():
        student.head.cls.bias += 4
        student.head.cls.weight *= 40 if request.param is FCOS else 400  # predictions that differ from place to place
        student.head.box.weight *= 20
    return student.eval()


def _divergence(p, q):
    """Half of both KL divergences of one pair of Bernoulli distributions."""
    p, q = float(p), float(q)
    there = q * np.log(q / p) + (1 - q) * np.log((1 - q) / (1 - p))
    back = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return (there + back) / 2


def _difference(one, other):
    """Mean of four squared differences of one pair of boxes, over SSD's variances."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = one, other
    width, height = max(x2 - x1, 1), max(y2 - y1, 1)
    wide, high = max(u2 - u1, 1), max(v2 - v1, 1)
    dx = ((x1 + x2) / 2 - (u1 + u2) / 2) / ((width + wide) / 2)
    dy = ((y1 + y2) / 2 - (v1 + v2) / 2) / ((height + high) / 2)
    return (100 * (dx**2 + dy**2) + 25 * (np.log(width / wide) ** 2 + np.log(height / high) ** 2)) / 4


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.6])
def test_losses_agree_with_numpy(student, threshold):
    method = CSD(burn_in=10, threshold=threshold)
    batch = semi_batch(2)
    output = method.losses(student, None, batch, 20)
    with torch.no_grad():
        images = cat(batch.labeled.weak, batch.unlabeled.weak)
        plain, mirror = student(images), student(mirror_images(images))
        back = mirror_back(student, mirror, images)
        boxes = student.decode(plain).boxes.double().numpy()
    p, q = sigmoid64(plain.logits), sigmoid64(back.logits)
    kept = [place for place in zip(*back.valid.numpy().nonzero(), strict=True) if p[place].max() > threshold]
    assert 0 < len(kept) < p[..., 0].size
    expected = np.mean([sum(_divergence(*pair) for pair in zip(p[place], q[place], strict=True)) for place in kept])
    assert_close_to_scale(output.losses["unsup/cls"], expected, share=1e-3)  # logits of another batch, times 400
    others = back.boxes.double().numpy()
    expected = np.mean([_difference(boxes[place], others[place]) for place in kept])
    assert_close_to_scale(output.losses["unsup/box"], expected, share=1e-3)
    assert output.metrics["consistency/locations"].item() == pytest.approx(len(kept) / 4)


def test_the_supervised_part_is_that_of_supervised(student):
    batch = semi_batch(2)
    expected = Supervised().losses(student, None, batch, 20).losses
    found = CSD(burn_in=10).losses(student, None, batch, 20).losses
    for name, value in expected.items():
        assert_close_to_scale(found[name], value)


def test_each_side_is_drawn_to_the_other_as_it_is():
    rng = torch.Generator().manual_seed(0)
    one, other = (torch.randn(7, 4, generator=rng).requires_grad_() for _ in range(2))
    symmetric_divergence(one, other).sum().backward()
    assert_close_to_scale(one.grad, (one.sigmoid() - other.sigmoid()).detach() / 2)
    assert_close_to_scale(other.grad, -one.grad)


@pytest.mark.parametrize("size", [0.0, 1.0, 30.0, 90.0])
def test_divergence_is_symmetric_finite_and_0_for_equals(size):
    rng = torch.Generator().manual_seed(0)
    one, other = (torch.randn(50, 4, generator=rng) * size for _ in range(2))
    one.requires_grad_()
    found = symmetric_divergence(one, other)
    found.sum().backward()
    assert found.isfinite().all()
    assert (found >= -1e-5 * max(size, 1.0)).all()
    assert one.grad.isfinite().all()
    assert_close_to_scale(found, symmetric_divergence(other, one))
    assert_close_to_scale(symmetric_divergence(one, one), torch.zeros(50), share=1e-5, scale=max(size, 1.0))


def test_box_difference_does_not_depend_on_scale_or_place():
    rng = torch.Generator().manual_seed(0)
    corner = torch.rand(2, 20, 2, generator=rng) * 10
    one, other = torch.cat((corner, corner + 10 + torch.rand(2, 20, 2, generator=rng) * 20), dim=-1)
    found = box_difference(one, other, (0.1, 0.2))
    assert (found > 0).all()
    assert_close_to_scale(box_difference(one * 7 + 100, other * 7 + 100, (0.1, 0.2)), found)
    assert not box_difference(one, one, (0.1, 0.2)).any()
    moved = torch.tensor([2.0, 0.0, 2.0, 0.0])
    assert_close_to_scale(box_difference(one, one + moved, (0.1, 9)), 100 * box_difference(one, one + moved, (1, 9)))


def test_boxes_without_area_are_finite():
    flat = torch.tensor([[5.0, 5.0, 5.0, 5.0]], requires_grad=True)
    found = box_difference(flat, torch.tensor([[0.0, 0.0, 50.0, 50.0]]), (0.1, 0.2))
    found.sum().backward()
    assert found.isfinite().all()
    assert flat.grad.isfinite().all()


def test_nothing_above_the_threshold_is_no_loss_and_no_gradient(student):
    output = CSD(burn_in=10, threshold=0.9999).losses(student, None, semi_batch(), 20)
    assert output.metrics["consistency/locations"] == 0
    total = output.losses["unsup/cls"] + output.losses["unsup/box"]
    total.backward()
    assert total == 0
    assert not student.head.cls.weight.grad.any()


def test_without_boxes_there_is_a_class_loss_alone(student):
    losses = CSD(burn_in=10, box=False).losses(student, None, semi_batch(), 20).losses
    assert {name for name in losses if name.startswith("unsup/")} == {"unsup/cls"}
