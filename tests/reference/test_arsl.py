"""ARSL: the selection, the mining and the three losses against a slow transcription of the published rules."""

import numpy as np
import pytest
import torch

from denseteacher.detectors import FCOS, RetinaNet
from denseteacher.methods import ARSL
from denseteacher.ops.boxes import encode_deltas, encode_ltrb
from denseteacher.ops.losses import joint_focal_loss
from denseteacher.pseudo_labels.task_separation import joint_scores, task_separation
from denseteacher.structures import DenseOutput
from support import giou_rows, semi_batch, sigmoid64
from support.closeness import assert_close_to_scale

SMALL = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1}
OBJECTS = torch.tensor([[4.0, 6, 60, 62], [10, 2, 40, 30], [30, 30, 62, 60], [0, 0, 63, 20]])


@pytest.fixture(params=[FCOS, RetinaNet])
def detector(request):
    torch.manual_seed(0)
    return request.param(num_classes=3, **SMALL).eval()


def _random_output(detector, seed, *, batch=3, bias=-1.0, spread=3.0, classes=3):
    """Predictions that agree on a few objects, so that locations are promoted."""
    rng = torch.Generator().manual_seed(seed)
    anchors = detector.anchors((64, 64), torch.device("cpu")).clone()  # a detector keeps its own
    count = len(anchors)
    objects = OBJECTS[torch.randint(len(OBJECTS), (batch, count), generator=rng)]
    boxes = objects + torch.randn(batch, count, 4, generator=rng) * 2
    encode = encode_ltrb if isinstance(detector, FCOS) else encode_deltas
    return DenseOutput(
        torch.randn(batch, count, classes, generator=rng) * spread + bias,
        encode(boxes, anchors),
        torch.randn(batch, count, generator=rng) + 1 if isinstance(detector, FCOS) else None,
        anchors,
        torch.rand(batch, count, generator=rng) < 0.8,
    )


def _iou(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
    return w * h / union if union > 0 else 0.0


def _may_teach(score, boxes, anchors, levels, i, j, least_iou):
    """Whether the hard location i lies on the object that the positive location j sees."""
    x, y = (anchors[i, 0] + anchors[i, 2]) / 2, (anchors[i, 1] + anchors[i, 3]) / 2
    inside = boxes[j, 0] < x < boxes[j, 2] and boxes[j, 1] < y < boxes[j, 3]
    same = score[i].argmax() == score[j].argmax() and abs(levels[i] - levels[j]) <= 1
    return inside and same and _iou(boxes[i], boxes[j]) >= least_iou


def _of_an_image(score, boxes, anchors, levels, valid, method):
    """The published rules for one image, one location at a time; all in float64."""
    best = [score[i].max() for i in range(len(score))]
    candidates = [i for i in range(len(score)) if valid[i] and best[i] >= method.score_floor]
    threshold = method.score_floor
    if candidates:
        values = [best[i] for i in candidates]
        deviation = np.std(values, ddof=1) if len(values) > 1 else 0.0
        threshold = min(np.mean(values) + deviation, method.most_threshold)
    positive = [i for i in candidates if best[i] >= threshold]
    hard = [i for i in candidates if best[i] < threshold]
    if not positive:
        order = sorted((i for i in range(len(score)) if valid[i]), key=lambda i: -best[i])
        positive = order[: method.fallback]
    targets = np.zeros_like(score)
    for i in positive:
        targets[i, score[i].argmax()] = best[i]
    for i in hard:
        targets[i] = score[i]
    learned = {i: boxes[i] for i in positive}
    promoted = {}
    comparing = sorted(positive, key=lambda i: -best[i])[: method.most_mined]
    for i in sorted(hard, key=lambda i: -best[i])[: method.most_mined]:
        agreeing = [j for j in comparing if _may_teach(score, boxes, anchors, levels, i, j, method.least_iou)]
        if agreeing:
            total = sum(best[j] for j in agreeing)
            promoted[i] = sum(best[j] * boxes[j] for j in agreeing) / total
    return targets, positive, hard, learned | promoted, promoted, threshold


def _expected(output, boxes, levels, method):
    scores = sigmoid64(output.logits)
    if output.quality is not None:
        scores = scores * sigmoid64(output.quality)[..., None]
    boxes, anchors = boxes.double().numpy(), output.anchors.double().numpy()
    rows = zip(scores, boxes, output.valid.numpy(), strict=True)
    return [_of_an_image(score, box, anchors, levels.numpy(), valid, method) for score, box, valid in rows]


def _compare(output, boxes, levels, method):
    """Compares all targets of a batch, and returns the expected ones."""
    options = method.model_dump(include={"score_floor", "most_threshold", "fallback", "least_iou", "most_mined"})
    found = task_separation(output, boxes, levels, **options)
    expected = _expected(output, boxes, levels, method)
    for index, (targets, positive, hard, learned, promoted, threshold) in enumerate(expected):
        assert set(found.positive[index].nonzero()[:, 0].tolist()) == set(positive)
        assert set(found.hard[index].nonzero()[:, 0].tolist()) == set(hard)
        assert set(found.promoted[index].nonzero()[:, 0].tolist()) == set(promoted)
        assert set(found.localized[index].nonzero()[:, 0].tolist()) == set(learned)
        assert_close_to_scale(found.targets[index], targets)
        np.testing.assert_allclose(found.threshold[index], threshold, rtol=1e-5)
        for location, box in learned.items():
            np.testing.assert_allclose(found.boxes[index, location], box, rtol=1e-4, atol=1e-3)
    assert not (found.localized & ~output.valid).any()
    return expected


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"score_floor": 0.3, "most_threshold": 0.9, "least_iou": 0.4},
        {"most_mined": 7, "least_iou": 0.3},
    ],
    ids=str,
)
def test_targets_agree_with_the_published_rules(detector, seed, options):
    output = _random_output(detector, seed)
    method = ARSL(**options)
    expected = _compare(output, detector.decode_boxes(output), detector.levels(output.anchors), method)
    assert any(promoted for *_, promoted, _ in expected)
    assert any(len(hard) > len(promoted) for _, _, hard, _, promoted, _ in expected)


def _quiet(detector, batch=1, classes=3):
    """A teacher that sees nothing, and no two locations alike."""
    output = _random_output(detector, 5, batch=batch, bias=-7, spread=0.3, classes=classes)
    return output._replace(valid=torch.ones_like(output.valid))


def _say(output, locations, logit, boxes=None, quality=9.0, label=0):
    """The output with something seen at some locations of all images; boxes stand in for decoded ones."""
    output.logits[:, locations, label] = torch.as_tensor(logit, dtype=torch.float32)
    if output.quality is not None:
        output.quality[:, locations] = quality
    if boxes is None:
        boxes = torch.zeros(*output.deltas.shape[:2], 4)
    return output, boxes


def test_without_a_candidate_the_richest_are_positive(detector):
    output = _quiet(detector, batch=2)
    output.valid[1, 5:] = False  # fewer than ten
    boxes = OBJECTS[:1].expand(2, len(output.anchors), 4)
    ((_, positive, hard, *_), (_, few, *_)) = _compare(output, boxes, detector.levels(output.anchors), ARSL())
    assert (len(positive), hard) == (10, [])
    assert set(few) == set(range(5))


def test_an_image_without_a_valid_location_teaches_nothing(detector):
    output = _random_output(detector, 1)
    output.valid[1] = False
    boxes, levels = detector.decode_boxes(output), detector.levels(output.anchors)
    (_, (targets, *kinds, _), _) = _compare(output, boxes, levels, ARSL())
    assert not targets.any()
    assert not any(kinds)


def test_all_candidates_above_the_limit_are_positive(detector):
    output, boxes = _say(_quiet(detector), [1, 4, 9, 12], [1.0, 2.0, 3.0, 4.0])
    ((_, positive, hard, *_, threshold),) = _compare(output, boxes, detector.levels(output.anchors), ARSL())
    assert (positive, hard, threshold) == ([1, 4, 9, 12], [], 0.4)


def test_equal_candidates_are_positive(detector):
    logit = 0.0 if isinstance(detector, FCOS) else -np.log(3.0)
    output, boxes = _say(_quiet(detector), [0, 1, 2, 3], logit, quality=0.0)
    found = task_separation(output, boxes, detector.levels(output.anchors))
    assert found.positive[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3]
    assert not found.hard.any()
    np.testing.assert_allclose(found.threshold, 0.25, rtol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_candidates(detector, count):
    """One is positive; two never reach mean + deviation, and the richest step in for them and stay hard too."""
    output, boxes = _say(_quiet(detector), [3, 8, 20][:count], [-1.9, -1.2, -1.1][:count])
    boxes = boxes + torch.tensor([-9.0, -9, 80, 80])
    ((targets, positive, hard, learned, promoted, _),) = _compare(
        output, boxes, detector.levels(output.anchors), ARSL()
    )
    assert (len(positive), len(hard)) == {1: (1, 0), 2: (10, 2), 3: (10, 3)}[count]
    both = set(positive) & set(hard)
    assert both == set(hard)
    assert all((targets[i] > 0).all() for i in both)  # whole vectors
    assert both <= set(promoted)
    assert len(learned) == len(positive)


def _mining_case(detector):
    """Two positive locations, and four hard ones; levels and boxes are set by the test."""
    output, boxes = _say(_quiet(detector), [10, 11], [2.0, 3.0])
    _say(output, [0, 1, 2, 9], -2.0)
    boxes[:, 10], boxes[:, 11] = torch.tensor([0.0, 0, 60, 60]), torch.tensor([0.0, 0, 64, 60])
    boxes[:, [0, 1, 2, 9]] = torch.tensor([0.0, 0, 62, 60])
    output.anchors[:] = torch.tensor([30.0, 30, 38, 38])
    return output, boxes, torch.zeros(len(output.anchors), dtype=torch.int64)


def test_a_promoted_location_learns_the_weighted_mean_of_its_boxes(detector):
    output, boxes, levels = _mining_case(detector)
    ((*_, promoted, _),) = _compare(output, boxes, levels, ARSL())
    assert set(promoted) == {0, 1, 2, 9}
    one, other = (joint_scores(output)[0, i].max().item() for i in (10, 11))
    np.testing.assert_allclose(promoted[0][2], (60 * one + 64 * other) / (one + other), rtol=1e-5)


def test_another_level_class_place_or_box_is_not_promoted(detector):
    output, boxes, levels = _mining_case(detector)
    levels[10:12] = 1
    levels[0] = 3  # two levels off; the others one
    output.logits[:, 1] = output.logits[:, 1].roll(1, -1)  # another class
    boxes[:, 2] = torch.tensor([0.0, 0, 60, 35])  # IoU below 0.6
    output.anchors[9] = torch.tensor([56.0, 30, 64, 38])  # its center lies on one box's side, and in the other box
    ((*_, promoted, _),) = _compare(output, boxes, levels, ARSL())
    assert set(promoted) == {9}
    np.testing.assert_allclose(promoted[9], [0, 0, 64, 60])


def test_one_class():
    detector = FCOS(num_classes=1, **SMALL).eval()
    output = _random_output(detector, 3, classes=1)
    _compare(output, detector.decode_boxes(output), detector.levels(output.anchors), ARSL())


def _focal(score, target):
    """The class loss of one number, of a score that is neither 0 nor 1."""
    entropy = -(target * np.log(score) + (1 - target) * np.log(1 - score))
    return (1.0 if target > 0 else 0.75) * abs(score - target) ** 2 * entropy


@pytest.mark.parametrize("options", [{}, {"cls_weight": 0.3, "box_weight": 0.7, "quality_weight": 5}], ids=str)
def test_losses_agree_with_numpy(detector, options):
    method = ARSL(**options)
    teacher, student = (_random_output(detector, seed) for seed in (1, 2))
    batch = semi_batch(unlabeled=3)
    task = method.student_task(detector, teacher, batch.labeled, batch.unlabeled, None)
    losses = task.loss(student)
    boxes = detector.decode_boxes(teacher)
    expected = _expected(teacher, boxes, detector.levels(teacher.anchors), method)
    score = sigmoid64(student.logits)
    joint = score if student.quality is None else score * sigmoid64(student.quality)[..., None]
    students = detector.decode_boxes(student).double().numpy()
    entropy = positives = box = weights = quality = count = 0.0
    for index, (targets, positive, _, learned, _, _) in enumerate(expected):
        for place in np.ndindex(targets.shape):
            entropy += _focal(joint[index][place], targets[place])
        positives += sum(targets[i].max() for i in positive)
        for i, target in learned.items():
            weight = targets[i].max()
            box += weight * (1 - giou_rows(students[index, i][None], target[None])[0])
            weights += weight
            count += 1
            if student.quality is not None:
                p, q = (sigmoid64(output.quality[index, i]) for output in (student, teacher))
                quality -= q * np.log(p) + (1 - q) * np.log(1 - p)
    assert_close_to_scale(losses["cls"], method.cls_weight * entropy / positives)
    assert_close_to_scale(losses["box"], method.box_weight * box / weights)
    assert ("quality" in losses) == isinstance(detector, FCOS)
    if "quality" in losses:
        assert_close_to_scale(losses["quality"], method.quality_weight * quality / count)
    watched = {name.removeprefix("pseudo/"): value.item() for name, value in task.metrics.items()}
    for name, place in (("positives", 1), ("hard", 2), ("promoted", 4)):
        np.testing.assert_allclose(watched[name], np.mean([len(image[place]) for image in expected]), rtol=1e-6)
    np.testing.assert_allclose(watched["threshold"], np.mean([image[5] for image in expected]), rtol=1e-5)


@pytest.mark.parametrize("case", ["nothing valid", "nothing seen", "collapsed"])
def test_a_poor_teacher_gives_finite_losses_and_gradients(detector, case):
    teacher, student = _quiet(detector), _random_output(detector, 2, batch=1)
    if case == "nothing valid":
        teacher.valid[:] = False
    if case == "collapsed":
        teacher.logits[:] = -200
    student = student._replace(logits=student.logits.requires_grad_(), deltas=student.deltas.requires_grad_())
    batch = semi_batch(unlabeled=1)
    losses = ARSL().student_task(detector, teacher, batch.labeled, batch.unlabeled, None).loss(student)
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert student.logits.grad.isfinite().all()
    assert student.deltas.grad.isfinite().all()
    assert losses["box"] == 0 if case == "nothing valid" else losses["cls"] > 0


def test_gradient_reaches_class_and_quality_and_not_the_teacher():
    torch.manual_seed(0)
    detector = FCOS(num_classes=3, **SMALL).eval()
    teacher, student = (_random_output(detector, seed) for seed in (1, 2))
    for output in (teacher, student):
        for values in (output.logits, output.deltas, output.quality):
            values.requires_grad_()
    batch = semi_batch(unlabeled=3)
    with torch.no_grad():
        task = ARSL().student_task(detector, teacher, batch.labeled, batch.unlabeled, None)
    losses = task.loss(student)
    of_class = torch.autograd.grad(losses["cls"], [student.logits, student.quality], retain_graph=True)
    assert all(gradient.abs().sum() > 0 for gradient in of_class)
    sum(losses.values()).backward()
    assert student.deltas.grad.abs().sum() > 0
    assert teacher.logits.grad is teacher.deltas.grad is teacher.quality.grad is None


def test_the_joint_focal_loss_agrees_with_its_formula():
    rng = torch.Generator().manual_seed(0)
    logits, quality = torch.randn(40, 5, generator=rng) * 3, torch.randn(40, generator=rng) * 3
    targets = torch.rand(40, 5, generator=rng) * (torch.rand(40, 5, generator=rng) < 0.5)
    for branch, factor in ((quality, sigmoid64(quality)[:, None]), (None, 1.0)):
        score, target = sigmoid64(logits) * factor, targets.double().numpy()
        entropy = -(target * np.log(score) + (1 - target) * np.log(1 - score))
        weight = np.where(target > 0, 1, 0.6)
        found = joint_focal_loss(logits, branch, targets, gamma=1.5, background_weight=0.6)
        assert_close_to_scale(found, weight * abs(score - target) ** 1.5 * entropy)


@pytest.mark.parametrize("logit", [-100.0, -20.0, 0.0, 20.0, 100.0])
@pytest.mark.parametrize("quality", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("target", [0.0, 0.5, 1.0])
def test_extreme_logits_have_finite_losses_and_gradients(logit, quality, target):
    inputs = [torch.tensor([[logit]], requires_grad=True), torch.tensor([quality], requires_grad=True)]
    loss = joint_focal_loss(*inputs, torch.tensor([[target]]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert all(value.grad.isfinite().all() for value in inputs)


def test_a_floor_above_the_limit_is_refused():
    with pytest.raises(ValueError, match=r"score_floor \(0.5\) is above most_threshold \(0.4\)"):
        ARSL(score_floor=0.5)


def test_what_is_shown_is_the_highest_target(detector):
    output = _random_output(detector, 1)
    shown = ARSL().show(detector, output, semi_batch().unlabeled.weak)
    targets = [
        image[0].max(-1)
        for image in _expected(output, detector.decode_boxes(output), detector.levels(output.anchors), ARSL())
    ]
    assert_close_to_scale(shown.region, np.stack(targets))
