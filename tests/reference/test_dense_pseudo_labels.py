"""Region selection, normalizer and the unlabeled losses against an independent NumPy version."""

import numpy as np
import pytest
import torch

from denseteacher.methods import DenseTeacher
from denseteacher.ops.boxes import decode_ltrb
from denseteacher.pseudo_labels.dense import dense_pseudo_labels
from support import dense_output, giou_rows, semi_batch, sigmoid64
from support.closeness import assert_close_to_scale


def reference(logits, valid, ratio, group, count_padding):
    """Targets, selection and normalizers, one group and one location at a time."""
    scores = sigmoid64(logits.astype(np.float64))
    batch, locations, _ = logits.shape
    selected = np.zeros((batch, locations), dtype=bool)
    normalizers = []
    for start in range(0, batch, group):
        places = [
            (image, location)
            for image in range(start, start + group)
            for location in range(locations)
            if count_padding or valid[image, location]
        ]
        places.sort(key=lambda place: -scores[place].max())
        chosen = places[: max(1, int(ratio * len(places)))]
        for place in chosen:
            selected[place] = True
        normalizers.append(sum(scores[place].max() for place in chosen))
    return scores * selected[..., None], selected, np.array(normalizers)


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("count_padding", [True, False])
@pytest.mark.parametrize("ratio", [0.01, 0.13, 1.0])
def test_selection_equals_the_reference(group, count_padding, ratio):
    for seed in range(5):
        output = dense_output(seed, batch=4, locations=150, classes=7)
        labels = dense_pseudo_labels(output, ratio=ratio, group_size=group, count_padding=count_padding)
        targets, selected, normalizer = reference(
            output.logits.numpy(), output.valid.numpy(), ratio, group, count_padding
        )
        assert np.array_equal(labels.selected.numpy(), selected)
        assert_close_to_scale(labels.targets, targets, share=1e-5)
        assert_close_to_scale(labels.normalizer, normalizer)


def test_ties_select_exactly_the_share():
    output = dense_output(0, batch=2, locations=100, classes=3)
    output = output._replace(logits=torch.zeros_like(output.logits))
    labels = dense_pseudo_labels(output, ratio=0.1)
    assert labels.selected.sum() == 20
    assert labels.normalizer.tolist() == pytest.approx([10.0])


def test_at_least_one_location_is_selected():
    output = dense_output(0, batch=2, locations=10, classes=3)
    assert dense_pseudo_labels(output, ratio=1e-6, group_size=1).selected.sum(1).tolist() == [1, 1]


@pytest.mark.parametrize("logit", [-80.0, 80.0])
def test_teacher_that_says_nothing_or_everything_gives_finite_losses(logit):
    teacher_output = dense_output(0, batch=2, locations=50, classes=3)
    teacher_output = teacher_output._replace(logits=torch.full_like(teacher_output.logits, logit))
    student = dense_output(1, batch=2, locations=50, classes=3)
    student.logits.requires_grad_()
    method = DenseTeacher(ratio=0.1)
    losses = method.student_task(
        Decoder(), teacher_output, *semi_batch(unlabeled=len(teacher_output.logits)), None
    ).loss(student)
    total = sum(losses.values())
    total.backward()
    assert total.isfinite()
    assert student.logits.grad.isfinite().all()


def test_padding_is_never_selected_unless_it_counts():
    output = dense_output(3, batch=2, locations=60, classes=4)
    output = output._replace(
        valid=torch.arange(60).expand(2, 60) < 20, logits=output.logits + (torch.arange(60) >= 20)[:, None] * 10
    )
    assert not (dense_pseudo_labels(output, ratio=0.5, count_padding=False).selected & ~output.valid).any()
    assert (dense_pseudo_labels(output, ratio=0.5, count_padding=True).selected & ~output.valid).any()


def test_all_images_of_padding_are_survived():
    output = dense_output(3, batch=2, locations=60, classes=4)
    output = output._replace(valid=torch.zeros(2, 60, dtype=torch.bool))
    labels = dense_pseudo_labels(output, ratio=0.5, count_padding=False)
    assert labels.selected.sum() == 0
    assert (labels.normalizer > 0).all()


def test_wrong_arguments_are_named():
    output = dense_output(0, batch=3, locations=10, classes=2)
    with pytest.raises(ValueError, match="groups of 2"):
        dense_pseudo_labels(output, ratio=0.1, group_size=2)
    with pytest.raises(ValueError, match="share"):
        dense_pseudo_labels(output, ratio=1.5)


class Decoder:
    """Only what the unlabeled losses ask of a detector."""

    def decode_boxes(self, output):
        return decode_ltrb(output.deltas, output.anchors)


@pytest.mark.parametrize("weights", ["equal", "score"])
@pytest.mark.parametrize("group", [1, 2, None])
def test_unlabeled_losses_equal_the_paper(group, weights):
    """Or weigh the region's locations by the teacher's scores, as ``region_weights`` says."""
    teacher_output = dense_output(5, batch=4, locations=80, classes=6)
    student = dense_output(6, batch=4, locations=80, classes=6)
    method = DenseTeacher(ratio=0.15, group_size=group, cls_weight=1, region_weights=weights)
    losses = method.student_task(
        Decoder(), teacher_output, *semi_batch(unlabeled=len(teacher_output.logits)), None
    ).loss(student)

    size = group or 4
    targets, selected, normalizer = reference(
        teacher_output.logits.numpy(), teacher_output.valid.numpy(), 0.15, size, True
    )
    logits = student.logits.numpy().astype(np.float64)
    entropy = np.logaddexp(0, logits) - logits * targets
    focal = (np.abs(targets - sigmoid64(logits)) ** 2 * entropy).sum((1, 2)).reshape(-1, size).sum(1)
    assert_close_to_scale(losses["cls"], (focal / normalizer).mean())

    boxes = [Decoder().decode_boxes(output).numpy() for output in (student, teacher_output)]
    overlaps = giou_rows(boxes[0].reshape(-1, 4), boxes[1].reshape(-1, 4)).reshape(4, 80)
    target = sigmoid64(teacher_output.quality.numpy().astype(np.float64))
    quality = student.quality.numpy().astype(np.float64)
    quality_entropy = np.logaddexp(0, quality) - quality * target
    box, quality_mean = [], []
    for start in range(0, 4, size):
        group_of = slice(start, start + size)
        chosen = selected[group_of]
        counts = targets[group_of].max(-1)[chosen] if weights == "score" else None
        box.append(np.average((1 - overlaps[group_of])[chosen], weights=counts))
        quality_mean.append(np.average(quality_entropy[group_of][chosen], weights=counts))
    assert_close_to_scale(losses["box"], np.mean(box))
    assert_close_to_scale(losses["quality"], np.mean(quality_mean))


def test_the_ramp_begins_at_the_burn_in_and_ends_at_twice():
    method = DenseTeacher(burn_in=1000)
    weights = [method.weight_at(step) for step in (0, 999, 1000, 1250, 1500, 2000, 9000)]
    assert weights == [0, 0, 0, 0.25, 0.5, 1, 1]
    assert [DenseTeacher(burn_in=10, ramp=0).weight_at(step) for step in (9, 10)] == [0, 1]
    assert [DenseTeacher(burn_in=10, ramp=5).weight_at(step) for step in (10, 14, 15)] == [0, 0.8, 1]
    assert [DenseTeacher(burn_in=10, ramp=5, unlabeled_weight=3).weight_at(step) for step in (10, 15)] == [0, 3]
