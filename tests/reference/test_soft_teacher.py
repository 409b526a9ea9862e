"""Soft Teacher: the spread of boxes and both losses against independent NumPy versions."""

import numpy as np
import pytest
import torch

from denseteacher.detectors import FCOS, RetinaNet
from denseteacher.methods import SoftTeacher
from denseteacher.ops.boxes import encode_deltas, encode_ltrb
from denseteacher.pseudo_labels.boxes import PseudoBoxes, pseudo_boxes
from denseteacher.pseudo_labels.reliability import relative_spread
from denseteacher.structures import DenseOutput
from support import giou_rows, semi_batch, sigmoid64
from support.closeness import assert_close_to_scale


def _iou(one, other):
    lower, upper = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    overlap = np.prod(np.clip(upper - lower, 0, None))
    return overlap / max(np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - overlap, 1e-12)


def _spread(kept, label, boxes, scores, least_iou):
    """Of one box of one image, one witness after the other."""
    places, weights = [], []
    for box, row in zip(boxes, scores, strict=True):
        if _iou(kept, box) > least_iou:
            places.append(box)
            weights.append(row[label] ** 2)
    places, weights = np.array(places), np.array(weights)
    if not len(weights) or weights.sum() ** 2 <= 1.5 * (weights**2).sum():
        return np.inf
    mean = np.average(places, axis=0, weights=weights)
    deviation = np.sqrt(np.average((places - mean) ** 2, axis=0, weights=weights))
    width, height = np.maximum(kept[2:] - kept[:2], 1)
    return (deviation / [width, height, width, height]).mean()


def _random(seed, batch=3, objects=4, views=15, classes=3):
    """Groups of jittered boxes, so that they overlap, and a few lonely ones."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 60, (batch, objects, 1, 2))
    sides = rng.uniform(10, 30, (batch, objects, 1, 2))
    boxes = np.concatenate([corner, corner + sides], axis=3) + rng.normal(0, 1.5, (batch, objects, views, 4))
    alone = rng.uniform(0, 70, (batch, 5, 2))
    alone = np.concatenate([alone, alone + 6], axis=2)
    boxes = np.concatenate([boxes.reshape(batch, -1, 4), alone], axis=1).astype(np.float32)
    scores = rng.uniform(0, 1, (batch, boxes.shape[1], classes)).astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(scores), torch.tensor([[64, 80], [90, 50], [100, 100]])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("least_iou", [0.5, 0.7])
def test_spread_agrees_with_numpy(seed, least_iou):
    boxes, scores, sizes = _random(seed)
    found = pseudo_boxes(boxes, scores, sizes, threshold=0.6, nms_threshold=0.5)
    spread = relative_spread(found, boxes, scores, sizes, least_iou=least_iou)
    assert spread.shape == found.mask.shape
    assert spread[~found.mask].isinf().all()
    kinds = set()
    for image, (height, width) in enumerate(sizes.tolist()):
        clipped = np.clip(boxes[image].double().numpy(), 0, [width, height, width, height])
        for place in found.mask[image].nonzero()[:, 0].tolist():
            expected = _spread(
                found.boxes[image, place].double().numpy(),
                int(found.labels[image, place]),
                clipped,
                scores[image].double().numpy(),
                least_iou,
            )
            kinds.add(bool(np.isfinite(expected)))
            assert_close_to_scale(spread[image, place], expected, share=1e-3)
    assert kinds == {True, False}


def _found(box, label=0, score=0.8):
    return PseudoBoxes(
        torch.tensor([[box]]), torch.tensor([[label]]), torch.ones(1, 1, dtype=torch.bool), torch.tensor([[score]])
    )


def test_witnesses_that_agree_have_no_spread_and_a_lonely_box_an_infinite_one():
    boxes = torch.tensor([[[10.0, 10.0, 30.0, 30.0]] * 3])
    size = torch.tensor([[64, 64]])
    scores = torch.full((1, 3, 2), 0.5)
    assert relative_spread(_found([10.0, 10.0, 30.0, 30.0]), boxes, scores, size).tolist() == [[0.0]]
    alone = relative_spread(_found([10.0, 10.0, 30.0, 30.0]), boxes[:, :1], scores[:, :1], size)
    assert alone.isinf().all()
    scores[:, 1:, 0] = 0.01  # the others see something else there
    assert relative_spread(_found([10.0, 10.0, 30.0, 30.0]), boxes, scores, size).isinf().all()


def test_spread_is_in_sides_of_the_box():
    size = torch.tensor([[640, 640]])
    scores = torch.full((1, 2, 1), 0.5)
    for scale in (1.0, 8.0):
        boxes = torch.tensor([[[10.0, 10.0, 30.0, 50.0], [12.0, 10.0, 32.0, 50.0]]]) * scale
        found = _found((boxes[0, 0]).tolist())
        # x1 and x2 deviate by 1 of 20 pixels, y1 and y2 by none
        assert relative_spread(found, boxes, scores, size).item() == pytest.approx(0.025, rel=1e-4)


def test_far_from_the_origin_the_spread_is_as_exact():
    boxes, scores, _ = _random(0)
    size = torch.tensor([[5000, 5000]] * 3)
    found = [pseudo_boxes(boxes + shift, scores, size, threshold=0.6, nms_threshold=0.5) for shift in (100.0, 4000.0)]
    near, far = (
        relative_spread(one, boxes + shift, scores, size) for one, shift in zip(found, (100.0, 4000.0), strict=True)
    )
    assert_close_to_scale(far, near, share=1e-2)


def test_no_boxes_at_all():
    boxes, scores, sizes = _random(0)
    found = pseudo_boxes(boxes, scores, sizes, threshold=0.999999, nms_threshold=0.5)
    assert relative_spread(found, boxes, scores, sizes).isinf().all()


def test_few_candidates_are_nearly_all():
    """Only the best predictions are looked at: what is left out weighs little."""
    boxes, scores, sizes = _random(3)
    scores = scores**6
    found = pseudo_boxes(boxes, scores, sizes, threshold=0.3, nms_threshold=0.5)
    exact = relative_spread(found, boxes, scores, sizes)
    fewer = relative_spread(found, boxes, scores, sizes, candidates=45)
    both = exact.isfinite() & fewer.isfinite()
    assert both.sum() > 5
    torch.testing.assert_close(fewer[both], exact[both], rtol=0.2, atol=0.01)  # of what is left out, not of rounding


SMALL = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1}


@pytest.fixture(params=["fcos", "retinanet"])
def detector(request):
    torch.manual_seed(0)
    if request.param == "fcos":
        return FCOS(num_classes=3, size_factor=4.0, **SMALL)
    return RetinaNet(num_classes=3, anchor_scale=2.0, box_loss="giou", **SMALL)


def _guess(detector, seed, *, noise=0.02, side=64):
    """A teacher that sees three objects an image, from all locations near them, some less surely than others."""
    rng = np.random.default_rng(seed)
    anchors = detector.anchors((side, side), torch.device("cpu"))
    middle = ((anchors[:, :2] + anchors[:, 2:]) / 2).numpy()
    logits, boxes = [], []
    for _ in range(2):
        corner = rng.uniform(0, side - 30, (3, 2))
        objects = np.concatenate([corner, corner + rng.uniform(12, 28, (3, 2))], axis=1)
        centers = (objects[:, :2] + objects[:, 2:]) / 2
        distance = np.linalg.norm(middle[:, None] - centers, axis=2)
        nearest = distance.argmin(1)
        score = 4.5 - 0.35 * distance.min(1) - np.array([0.0, 2.5, 0.5])[nearest]
        row = rng.normal(-5, 0.5, (len(anchors), 3))
        row[np.arange(len(anchors)), nearest] = score + rng.normal(0, 0.1, len(anchors))
        logits.append(row)
        spread = np.array([0.3, 1.0, 3.0])[nearest][:, None] * noise
        sides = np.tile(objects[:, 2:] - objects[:, :2], 2)[nearest]
        boxes.append(objects[nearest] + rng.normal(0, 1, (len(anchors), 4)) * spread * sides)
    boxes = torch.from_numpy(np.stack(boxes).astype(np.float32))
    encode = encode_ltrb if isinstance(detector, FCOS) else encode_deltas
    quality = torch.full((2, len(anchors)), 2.0) if isinstance(detector, FCOS) else None
    valid = torch.ones(2, len(anchors), dtype=torch.bool)
    logits = torch.from_numpy(np.stack(logits).astype(np.float32))
    return DenseOutput(logits, encode(boxes, anchors), quality, anchors, valid)


def _student(teacher_output, seed):
    rng = torch.Generator().manual_seed(seed)
    return teacher_output._replace(
        logits=torch.randn(teacher_output.logits.shape, generator=rng) - 2,
        deltas=torch.rand(teacher_output.deltas.shape, generator=rng) * 2,
        quality=None if teacher_output.quality is None else torch.randn(teacher_output.quality.shape, generator=rng),
    )


def _focal(logit, target):
    p = sigmoid64(logit)
    return -0.25 * (1 - p) ** 2 * np.log(p) if target else -0.75 * p**2 * np.log(1 - p)


@pytest.mark.parametrize("seed", range(3))
def test_losses_agree_with_numpy(detector, seed):
    teacher_output, batch = _guess(detector, seed), semi_batch(seed)
    student = _student(teacher_output, seed)
    found = SoftTeacher().pseudo_boxes(detector, teacher_output, batch.unlabeled.weak, 0.4)
    scores, sizes = detector.decode(teacher_output).scores, batch.unlabeled.weak.sizes
    spread = relative_spread(found, detector.decode(teacher_output).boxes, scores, sizes)
    score_limit, spread_limit = (float(values[found.mask].quantile(0.45)) for values in (found.scores, spread))
    sure, reliable = found.scores > score_limit, spread < spread_limit
    assert 0 < sure.sum() < found.mask.sum()
    assert 0 < reliable.sum() < found.mask.sum()
    assert not torch.equal(sure, reliable)

    method = SoftTeacher(
        threshold=score_limit, candidate_threshold=0.4, box_spread=spread_limit, cls_weight=1, box_weight=1
    )
    student_task = method.student_task(detector, teacher_output, *batch, None)
    losses = student_task.loss(student)
    assert student_task.metrics["pseudo/boxes"] == sure.sum() / 2
    assert student_task.metrics["pseudo/reliable_boxes"] == reliable.sum() / 2

    grid = teacher_output.anchors, detector.levels(teacher_output.anchors)
    labels, *_ = detector.assign(found.targets._replace(mask=sure), *grid)
    background = 1 - sigmoid64(teacher_output.logits).max(-1)
    total, count = 0.0, int((labels >= 0).sum())
    for image, location in np.ndindex(*labels.shape):
        label = int(labels[image, location])
        if label == -2:  # RetinaNet ignores it
            continue
        weight = 1.0 if label >= 0 else background[image, location]
        for c in range(3):
            total += weight * _focal(float(student.logits[image, location, c]), c == label)
    assert count > 0
    assert_close_to_scale(losses["cls"], total / count)

    labels, boxes, *_ = detector.assign(found.targets._replace(mask=reliable), *grid)
    foreground = labels >= 0
    assert foreground.any()
    overlap = giou_rows(detector.decode(student).boxes[foreground].numpy(), boxes[foreground].numpy())
    assert_close_to_scale(losses["box"], (1 - overlap).mean())
    assert ("quality" in losses) == isinstance(detector, FCOS)


def test_unsure_background_counts_less(detector):
    teacher_output, batch = _guess(detector, 0), semi_batch()
    student = _student(teacher_output, 0)
    student.logits.requires_grad_()
    scores = SoftTeacher().pseudo_boxes(detector, teacher_output, batch.unlabeled.weak, 0.4).scores
    method = SoftTeacher(threshold=float(scores[:, 0].min()) - 1e-4, candidate_threshold=0.4, cls_weight=1)
    method.student_task(detector, teacher_output, *batch, None).loss(student)["cls"].backward()
    weighted = student.logits.grad.clone()
    student.logits.grad = None
    targets = method.pseudo_boxes(detector, teacher_output, batch.unlabeled.weak, method.threshold).targets
    detector.supervised_losses(student, targets)["cls"].backward()
    foreground = detector.foreground(targets, teacher_output.anchors)
    share = (1 - teacher_output.logits.sigmoid().amax(-1)).masked_fill(foreground, 1)
    assert_close_to_scale(weighted, student.logits.grad * share[..., None])
    assert foreground.any(1).all()
    assert share[~foreground].min() < 0.1
    assert share.max() > 0.9


def test_an_image_without_a_sure_box_teaches_no_class(detector):
    teacher_output, batch = _guess(detector, 0), semi_batch()
    teacher_output = teacher_output._replace(logits=teacher_output.logits - torch.tensor([0.0, 20.0])[:, None, None])
    student = _student(teacher_output, 0)
    student.logits.requires_grad_()
    SoftTeacher().student_task(detector, teacher_output, *batch, None).loss(student)["cls"].backward()
    assert student.logits.grad[0].any()
    assert not student.logits.grad[1].any()


@pytest.mark.parametrize("shift", [-80.0, 80.0])
def test_a_teacher_that_sees_nothing_or_everything_gives_finite_losses(detector, shift):
    teacher_output = _guess(detector, 0)
    teacher_output = teacher_output._replace(logits=torch.full_like(teacher_output.logits, shift))
    student = _student(teacher_output, 0)
    student.logits.requires_grad_()
    losses = SoftTeacher().student_task(detector, teacher_output, *semi_batch(), None).loss(student)
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()
    assert student.logits.grad.isfinite().all()


def test_without_boxes_there_is_a_class_loss_alone(detector):
    teacher_output = _guess(detector, 0)
    losses = (
        SoftTeacher(box=False)
        .student_task(detector, teacher_output, *semi_batch(), None)
        .loss(_student(teacher_output, 0))
    )
    assert set(losses) == {"cls"}
    assert not SoftTeacher().moves_labels
