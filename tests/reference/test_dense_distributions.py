"""Dense Teacher on a detector whose boxes are distributions: repeating them, and counting a box by how sure it is."""

import numpy as np
import pytest
import torch

from denseteacher.detectors import FCOS, GFL
from denseteacher.errors import InputError
from denseteacher.methods import DenseTeacher, DenseTeacherPlus
from denseteacher.ops.losses import giou_loss
from denseteacher.recipes.schema import load_recipe
from support import random_targets, semi_batch
from support.closeness import assert_close_to_scale


def outputs_of(kind, seed, batch=4):
    """A detector, the unlabeled images, and what a teacher and a student say of them."""
    torch.manual_seed(seed)
    detector = kind(num_classes=3, backbone="test_byobnet", levels=(3, 5), channels=16, head_convs=1).eval()
    unlabeled = semi_batch(seed, unlabeled=batch, side=96).unlabeled
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        output = detector(unlabeled.weak)
    made = []
    for _ in range(2):
        deltas = torch.randn(output.deltas.shape, generator=rng) * 2
        logits = torch.randn(output.logits.shape, generator=rng) * 2 - 3
        made.append(output._replace(logits=logits, deltas=deltas.relu() if kind is FCOS else deltas))
    return detector, unlabeled, *made


def chances(deltas):
    """(..., 4, bins) fp64 distributions."""
    logits = deltas.double().numpy().reshape(*deltas.shape[:-1], 4, -1)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


@pytest.mark.parametrize("group_size", [None, 2])
def test_the_student_repeats_the_teachers_distributions_in_the_region(group_size):
    detector, unlabeled, teacher, student = outputs_of(GFL, 0)
    method = DenseTeacher(ratio=0.2, distribution_weight=0.5, group_size=group_size)
    losses = method.student_task(detector, teacher, None, unlabeled, None).loss(student)
    wanted, own = chances(teacher.deltas), chances(student.deltas)
    divergence = (wanted * np.log(wanted / own)).sum(-1).mean(-1)
    selected = method.pseudo_labels(detector, teacher).selected.numpy()
    size = group_size or 4
    groups = [slice(first, first + size) for first in range(0, 4, size)]
    means = [divergence[group][selected[group]].mean() for group in groups]
    assert_close_to_scale(losses["distribution"], 0.5 * np.mean(means))
    same = method.student_task(detector, teacher, None, unlabeled, None).loss(teacher)
    assert abs(float(same["distribution"])) < 1e-6


def test_boxes_count_by_how_sure_the_teacher_is_of_them():
    detector, unlabeled, teacher, student = outputs_of(GFL, 1)
    by_score, by_certainty = (DenseTeacher(ratio=0.2, region_weights=form) for form in ("score", "certainty"))
    found = by_certainty.student_task(detector, teacher, None, unlabeled, None).loss(student)["box"]
    shares = chances(teacher.deltas)
    certainty = 1 + (shares * np.log(shares)).sum(-1).mean(-1) / np.log(shares.shape[-1])
    targets = by_score.dense_targets(detector, teacher, unlabeled)
    weights = targets.labels.targets.amax(-1).double().numpy() * certainty
    errors = giou_loss(detector.decode_boxes(student), targets.boxes).double().numpy()
    assert_close_to_scale(found, (errors * weights).sum() / weights.sum())


def test_without_distributions_certainty_is_the_score_and_nothing_is_repeated():
    detector, unlabeled, teacher, student = outputs_of(FCOS, 2)
    plain = DenseTeacher(ratio=0.2, region_weights="score")
    more = plain.model_copy(update={"region_weights": "certainty", "distribution_weight": 1.0})
    found, wanted = (one.student_task(detector, teacher, None, unlabeled, None).loss(student) for one in (more, plain))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())


@pytest.mark.parametrize("mix", ["mixup", "mosaic"])
def test_mixed_and_pasted_images_have_distributions_too(mix):
    detector, unlabeled, teacher, _ = outputs_of(GFL, 3)
    method = DenseTeacherPlus(ratio=0.2, distribution_weight=1.0, region_weights="certainty", mix=mix, crop_side=16)
    labeled = semi_batch(3, labeled=3, side=96).labeled._replace(
        targets=random_targets(3, batch=3, boxes=2, classes=3, extent=96)
    )
    first = method.student_task(detector, teacher, labeled, unlabeled, None)
    task = method.student_task(detector, teacher, labeled, unlabeled, first.state)
    output = detector(task.images)
    losses = task.loss(output)
    assert all(value.isfinite() for value in losses.values())
    assert losses["distribution"] > 0
    gradients = torch.autograd.grad(losses["distribution"], list(detector.head.box.parameters()))
    assert all(each.abs().sum() > 0 for each in gradients)


def test_a_recipe_says_that_a_detector_has_no_distributions_to_repeat():
    wanted = r"method\.distribution_weight .* coding 'ltrb' .* detector\.name to gfl or detector\.coding\.name to dist"
    with pytest.raises(InputError, match=wanted):
        load_recipe("digits", ["method.distribution_weight=1"])
    for detector in ("detector.name=gfl", "detector.coding.name=distribution"):
        assert load_recipe("digits", ["method.distribution_weight=1", detector]).method.needs_distributions
