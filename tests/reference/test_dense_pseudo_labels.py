"""Region selection, normalizer and the unlabeled losses against an independent NumPy version."""

import numpy as np
import pytest
import torch

from denseteacher.detectors import FCOS
from denseteacher.methods import DenseTeacher
from denseteacher.ops.anchors import valid_locations
from denseteacher.ops.boxes import decode_ltrb
from denseteacher.pseudo_labels.dense import dense_pseudo_labels
from denseteacher.structures import ImageBatch
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

    def class_logits(self, output):
        return output.logits

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


def own_grids(sizes, group, strides=(8, 16, 32)):
    """Locations of each group's own canvas: a multiple of 32 that holds the group's images, counted level by level."""
    counts = []
    for start in range(0, len(sizes), group):
        height, width = (-(-max(side) // 32) * 32 for side in zip(*sizes[start : start + group], strict=True))
        counts.append(group * sum(-(-height // stride) * -(-width // stride) for stride in strides))
    return counts


@pytest.mark.parametrize("ratio", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("group", [1, 2])
def test_a_group_selects_as_if_it_were_alone_on_its_canvas(group, ratio):
    sizes = torch.tensor([[64, 90], [50, 70], [100, 33], [128, 96]])
    detector = FCOS(num_classes=3, backbone="test_byobnet", levels=(3, 5), channels=16)
    images = ImageBatch(torch.zeros(4, 3, 128, 128, dtype=torch.uint8), sizes)
    with torch.no_grad():
        output = detector(images)
    output = output._replace(logits=dense_output(1, batch=4, locations=len(output.anchors), classes=3).logits)
    together = dense_pseudo_labels(output, ratio=ratio, group_size=group, sizes=sizes)
    counts = together.selected.view(4 // group, -1).sum(1).tolist()
    assert counts == [max(1, int(ratio * own)) for own in own_grids(sizes.tolist(), group)]
    for start in range(0, 4, group):
        rows = slice(start, start + group)
        canvas = [-(-side // 32) * 32 for side in sizes[rows].amax(0).tolist()]
        inside = valid_locations(output.anchors, torch.tensor([canvas]))[0]
        alone = output._replace(
            logits=output.logits[rows, inside], valid=output.valid[rows, inside], anchors=output.anchors[inside]
        )
        expected = dense_pseudo_labels(alone, ratio=ratio)
        assert torch.equal(together.selected[rows, inside], expected.selected)
        assert not together.selected[rows, ~inside].any()
        assert_close_to_scale(together.targets[rows, inside], expected.targets)
        assert_close_to_scale(together.normalizer[start // group], expected.normalizer[0])


def test_nothing_is_learned_beyond_the_canvas_of_a_group():
    sizes = torch.tensor([[64, 90], [128, 96]])
    detector = FCOS(num_classes=3, backbone="test_byobnet", levels=(3, 5), channels=16)
    batch = semi_batch(side=128)
    unlabeled = batch.unlabeled._replace(weak=batch.unlabeled.weak._replace(sizes=sizes))
    with torch.no_grad():
        teacher_output = detector(unlabeled.weak)
    student = teacher_output._replace(logits=(teacher_output.logits + 0.3).requires_grad_())
    for own_canvas in (False, True):
        method = DenseTeacher(ratio=0.1, group_size=1, group_canvas=own_canvas, box=False, quality=False)
        student.logits.grad = None
        method.student_task(detector, teacher_output, batch.labeled, unlabeled, None).loss(student)["cls"].backward()
        beyond = ~valid_locations(teacher_output.anchors, torch.tensor([[64, 96]]))[0]
        assert bool(student.logits.grad[0, beyond].any()) != own_canvas
        assert student.logits.grad[0, ~beyond].all()
