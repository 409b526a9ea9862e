"""Table 5's strategies against their definition, worked out location by location in NumPy."""

import numpy as np
import pytest
import torch

from denseteacher.methods import DenseTeacher
from support import dense_output, random_targets, semi_batch, sigmoid64
from support.closeness import assert_close_to_scale

BATCH, LOCATIONS, CLASSES = 2, 60, 4


class Detector:
    """Foreground is where a random mask says so."""

    def __init__(self, mask):
        self.mask = mask

    def foreground(self, targets, anchors, output=None):
        return self.mask

    def class_logits(self, output):
        return output.logits

    def decode_boxes(self, output):
        return output.anchors + output.deltas


@pytest.fixture
def scene():
    teacher_output = dense_output(1, batch=BATCH, locations=LOCATIONS, classes=CLASSES)
    student = dense_output(2, batch=BATCH, locations=LOCATIONS, classes=CLASSES)
    mask = torch.rand((BATCH, LOCATIONS), generator=torch.Generator().manual_seed(3)) < 0.4
    batch = semi_batch(unlabeled=BATCH)
    hidden = random_targets(5, batch=BATCH, boxes=2, classes=CLASSES)
    return (
        Detector(mask),
        teacher_output,
        student,
        batch._replace(unlabeled=batch.unlabeled._replace(hidden_targets=hidden)),
    )


def _losses(scene, region):
    detector, teacher_output, student, batch = scene
    method = DenseTeacher(ratio=0.3, region=region, cls_weight=1, box=True)
    return method.student_task(detector, teacher_output, *batch, None).loss(student)


@pytest.mark.parametrize("region", ["suppress", "ignore"])
def test_class_loss_at_hard_negatives(scene, region):
    detector, teacher_output, student, _ = scene
    scores = sigmoid64(teacher_output.logits.numpy()).reshape(-1, CLASSES)
    logits = student.logits.numpy().astype(np.float64).reshape(-1, CLASSES)
    richness = scores.max(1)
    selected = np.zeros(len(richness), bool)
    selected[np.argsort(-richness)[: int(0.3 * len(richness))]] = True
    hard = selected & ~detector.mask.numpy().reshape(-1)
    assert 0 < hard.sum() < selected.sum()
    total = 0.0
    for index in range(len(scores)):
        if hard[index] and region == "ignore":
            continue
        target = scores[index] if selected[index] and not hard[index] else np.zeros(CLASSES)
        entropy = np.logaddexp(0, logits[index]) - logits[index] * target
        total += ((target - sigmoid64(logits[index])) ** 2 * entropy).sum()
    expected = total / richness[selected].sum()
    assert_close_to_scale(_losses(scene, region)["cls"], expected)


def test_boxes_are_learned_in_the_true_foreground_alone(scene):
    detector, teacher_output, student, batch = scene
    losses = _losses(scene, "ignore")
    outside = ~detector.mask
    changed = student._replace(deltas=torch.where(outside[..., None], student.deltas + 50, student.deltas))
    again = _losses((detector, teacher_output, changed, batch), "ignore")
    assert_close_to_scale(again["box"], losses["box"])
    assert not torch.isclose(
        _losses((detector, teacher_output, changed, batch), "top")["box"], _losses(scene, "top")["box"]
    )


def test_with_everything_foreground_the_strategies_are_one(scene):
    detector, *others = scene
    full = (Detector(torch.ones_like(detector.mask)), *others)
    losses = [_losses(full, region) for region in ("top", "suppress", "ignore")]
    for name in losses[0]:
        assert_close_to_scale(losses[1][name], losses[0][name])
        assert_close_to_scale(losses[2][name], losses[0][name])


def test_without_hidden_labels_the_analysis_is_refused(scene):
    detector, teacher_output, student, batch = scene
    blind = batch._replace(unlabeled=batch.unlabeled._replace(hidden_targets=None))
    with pytest.raises(ValueError, match="needs the hidden labels"):
        _losses((detector, teacher_output, student, blind), "suppress")


@pytest.mark.parametrize("region", ["suppress", "ignore"])
def test_where_all_is_hard_nothing_is_not_a_number(scene, region):
    detector, teacher_output, student, batch = scene
    method = DenseTeacher(ratio=0.3, region=region)
    task = method.student_task(Detector(torch.zeros_like(detector.mask)), teacher_output, *batch, None)
    assert task.metrics["pseudo/locations"] == 0
    assert all(value.isfinite() for value in (*task.metrics.values(), *task.loss(student).values()))
