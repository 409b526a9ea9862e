"""Losses and GIoU against formulas worked independently in NumPy, in float64."""

import numpy as np
import pytest
import torch
import torchvision

from denseteacher.ops.boxes import giou, iou
from denseteacher.ops.losses import bernoulli_divergence, quality_focal_loss, sigmoid_focal_loss
from support import giou_rows, sigmoid64


def entropy64(logits, targets):
    """BCE in float64 through log-sum-exp, exact for any logit."""
    return np.logaddexp(0, logits) - logits * targets


def focal64(logits, targets, alpha, gamma):
    p = sigmoid64(logits)
    positive = alpha * (1 - p) ** gamma * np.logaddexp(0, -logits)
    negative = (1 - alpha) * p**gamma * np.logaddexp(0, logits)
    return np.where(targets == 1, positive, negative)


def qfl64(logits, targets, gamma):
    return np.abs(targets - sigmoid64(logits)) ** gamma * entropy64(logits, targets)


def edge_logits(rng, shape):
    logits = rng.normal(scale=6, size=shape)
    logits.reshape(-1)[:6] = [80, -80, 0, 30, -30, 1e-4]
    return logits.astype(np.float32)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_quality_focal_loss_equals_the_formula(gamma):
    rng = np.random.default_rng(0)
    logits, targets = edge_logits(rng, (50, 20)), rng.random((50, 20)).astype(np.float32)
    targets[:3] = 0
    targets[3:6] = 1
    ours = quality_focal_loss(torch.from_numpy(logits), torch.from_numpy(targets), gamma=gamma)
    assert ours.shape == (50, 20)
    np.testing.assert_allclose(ours.numpy(), qfl64(logits.astype(np.float64), targets, gamma), rtol=2e-5, atol=1e-6)


def test_quality_focal_loss_gradient_equals_the_numerical_one():
    rng = np.random.default_rng(1)
    logits = torch.from_numpy(rng.uniform(-30, 30, (40,)).astype(np.float32)).requires_grad_()
    targets = rng.random(40).astype(np.float32)
    quality_focal_loss(logits, torch.from_numpy(targets)).sum().backward()
    x, step = logits.detach().numpy().astype(np.float64), 1e-5
    numerical = (qfl64(x + step, targets, 2.0) - qfl64(x - step, targets, 2.0)) / (2 * step)
    np.testing.assert_allclose(logits.grad.numpy(), numerical, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.5, 0.0), (0.75, 1.5)])
def test_focal_loss_equals_the_formula_and_torchvision(alpha, gamma):
    rng = np.random.default_rng(2)
    logits, targets = edge_logits(rng, (60, 10)), (rng.random((60, 10)) < 0.2).astype(np.float32)
    ours = sigmoid_focal_loss(torch.from_numpy(logits), torch.from_numpy(targets), alpha=alpha, gamma=gamma)
    expected = focal64(logits.astype(np.float64), targets, alpha, gamma)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-4, atol=1e-6)
    theirs = torchvision.ops.sigmoid_focal_loss(
        torch.from_numpy(logits), torch.from_numpy(targets), alpha=alpha, gamma=gamma
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", [quality_focal_loss, sigmoid_focal_loss])
def test_huge_logits_give_finite_losses_and_gradients(loss):
    logits = torch.tensor([80.0, -80.0, 80.0, -80.0, 0.0], requires_grad=True)
    value = loss(logits, torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0]))
    value.sum().backward()
    assert value.isfinite().all()
    assert logits.grad.isfinite().all()
    # a confident mistake costs its logit; 0.25 and 0.75 are focal loss's class weights
    weight = 1.0 if loss is quality_focal_loss else 0.25
    assert value[1].item() == pytest.approx(80 * weight, rel=1e-5)


@pytest.mark.parametrize("loss", [quality_focal_loss, sigmoid_focal_loss])
def test_losses_are_fp32_under_bf16_autocast(loss):
    logits = torch.randn(100, generator=torch.Generator().manual_seed(0))
    targets = (logits > 0).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = loss(logits, targets)
        from_half = loss(logits.bfloat16(), targets.bfloat16())
    assert inside.dtype == from_half.dtype == torch.float32
    assert torch.equal(inside, loss(logits, targets))
    assert torch.equal(from_half, loss(logits.bfloat16().float(), targets))


@pytest.mark.parametrize("loss", [quality_focal_loss, sigmoid_focal_loss])
def test_no_elements_no_loss(loss):
    assert loss(torch.zeros(0, 5), torch.zeros(0, 5)).shape == (0, 5)


def random_boxes(rng, count):
    corner = rng.uniform(0, 80, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(0.5, 60, (count, 2))], axis=1).astype(np.float32)


def test_giou_equals_the_formula_and_torchvision():
    rng = np.random.default_rng(3)
    first, second = random_boxes(rng, 500), random_boxes(rng, 500)
    first[:3] = [[0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 5, 5]]
    second[:3] = [[0, 0, 10, 10], [20, 20, 30, 30], [0, 0, 10, 10]]
    ours = giou(torch.from_numpy(first), torch.from_numpy(second))
    np.testing.assert_allclose(ours.numpy(), giou_rows(first, second), rtol=1e-4, atol=1e-5)
    theirs = 1 - torchvision.ops.generalized_box_iou_loss(torch.from_numpy(first), torch.from_numpy(second))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_giou_keeps_leading_dimensions_and_stays_in_range():
    rng = np.random.default_rng(4)
    boxes = torch.from_numpy(random_boxes(rng, 24)).view(2, 3, 4, 4)
    result = giou(boxes, boxes.flip(0))
    assert result.shape == (2, 3, 4)
    assert ((result >= -1) & (result <= 1)).all()
    assert torch.allclose(giou(boxes, boxes), torch.ones(2, 3, 4), atol=1e-6)


def test_boxes_without_area_are_finite():
    point = torch.zeros(1, 4, requires_grad=True)
    value = giou(point, torch.zeros(1, 4))
    value.sum().backward()
    assert value.isfinite().all()
    assert point.grad.isfinite().all()
    assert iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


def test_bernoulli_divergence_equals_the_formula_and_has_the_gradient_of_cross_entropy():
    rng = np.random.default_rng(0)
    logits, targets = edge_logits(rng, (50, 20)), rng.random((50, 20)).astype(np.float32)
    targets[:3] = 0
    targets[3:6] = 1
    student = torch.from_numpy(logits).requires_grad_()
    found = bernoulli_divergence(student, torch.from_numpy(targets))
    with np.errstate(divide="ignore", invalid="ignore"):
        t = targets.astype(np.float64)
        own = -np.nan_to_num(t * np.log(t)) - np.nan_to_num((1 - t) * np.log(1 - t))
    expected = entropy64(logits.astype(np.float64), t) - own
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    found.sum().backward()
    np.testing.assert_allclose(student.grad.numpy(), sigmoid64(logits) - t, rtol=1e-4, atol=1e-6)
    same = bernoulli_divergence(student, student.sigmoid().detach())
    assert (same.abs() < 1e-5).all()
