"""Dense pseudo-labels under pasted objects, against the same rules worked out location by location."""

import numpy as np
import pytest
import torch

from denseteacher.data.randomness import to_device
from denseteacher.detectors import FCOS, GFL, RetinaNet
from denseteacher.methods import DenseTeacher, DenseTeacherPlus
from denseteacher.methods.base import state_or_initial
from denseteacher.ops.assignment import BACKGROUND, IGNORED
from denseteacher.pseudo_labels.dense_paste import with_pasted
from support import random_targets, semi_batch
from support.closeness import assert_close_to_scale

CLASSES = 3
SIDE = 96


def teacher_of(kind, seed, batch=4):
    """A detector, and what it says of random images."""
    torch.manual_seed(seed)
    detector = kind(num_classes=CLASSES, backbone="test_byobnet", levels=(3, 5), channels=16, head_convs=1).eval()
    unlabeled = semi_batch(seed, unlabeled=batch, side=SIDE, classes=CLASSES).unlabeled
    with torch.no_grad():
        output = detector(unlabeled.weak)
    rng = torch.Generator().manual_seed(seed)
    return detector, unlabeled, output._replace(logits=torch.randn(output.logits.shape, generator=rng) * 2 - 3)


@pytest.mark.parametrize("kind", [FCOS, RetinaNet, GFL])
@pytest.mark.parametrize("group_size", [None, 2])
@pytest.mark.parametrize("seed", range(3))
def test_every_location_learns_the_object_over_it_or_what_the_teacher_said(kind, group_size, seed):
    detector, unlabeled, output = teacher_of(kind, seed)
    method = DenseTeacherPlus(ratio=0.2, group_size=group_size)
    before = method.dense_targets(detector, output, unlabeled)
    pasted = random_targets(seed, batch=4, boxes=3, classes=CLASSES, extent=SIDE)
    found = with_pasted(detector, output, before, pasted)
    assigned = detector.assign(pasted, output.anchors, detector.levels(output.anchors))
    x, y = ((output.anchors[:, :2] + output.anchors[:, 2:]) / 2).double().numpy().T
    groups = len(before.labels.normalizer)
    added = np.zeros(groups)
    for image in range(4):
        for place in range(len(output.anchors)):
            label = int(assigned.labels[image, place])
            covered = any(
                bool(pasted.mask[image, each]) and left < x[place] < right and top < y[place] < bottom
                for each, (left, top, right, bottom) in enumerate(pasted.boxes[image].tolist())
            )
            scores, selected = found.labels.targets[image, place], bool(found.labels.selected[image, place])
            if label > BACKGROUND:
                assert scores.tolist() == [float(one == label) for one in range(CLASSES)]
                assert selected
                assert found.boxes[image, place].tolist() == assigned.boxes[image, place].tolist()
                added[image * groups // 4] += 1
            elif covered:
                assert scores.tolist() == [0.0] * CLASSES
                assert not selected
            else:
                assert scores.tolist() == before.labels.targets[image, place].tolist()
                assert selected == bool(before.labels.selected[image, place])
                assert found.boxes[image, place].tolist() == before.boxes[image, place].tolist()
            assert bool(found.ignored[image, place]) == (label == IGNORED)
            assert bool(found.true[image, place]) == (label > BACKGROUND)
    assert added.sum() > 0
    assert_close_to_scale(found.labels.normalizer, before.labels.normalizer.double().numpy() + added)
    assert (found.quality is None) == (output.quality is None)


def test_without_an_object_nothing_changes():
    detector, unlabeled, output = teacher_of(FCOS, 0)
    before = DenseTeacherPlus(ratio=0.2).dense_targets(detector, output, unlabeled)
    pasted = random_targets(0, batch=4, boxes=3, classes=CLASSES, extent=SIDE)
    found = with_pasted(detector, output, before, pasted._replace(mask=torch.zeros_like(pasted.mask)))
    assert torch.equal(found.labels.targets, before.labels.targets)
    assert torch.equal(found.labels.selected, before.labels.selected)
    assert torch.equal(found.labels.normalizer, before.labels.normalizer)
    assert not found.ignored.any()
    assert not found.true.any()


@pytest.mark.parametrize(("classes", "room"), [(3, 32), (128, 32), (365, 11), (1203, 3), (9000, 1)])
def test_the_bank_is_bounded_where_classes_are_many(classes, room):
    state = DenseTeacherPlus(burn_in=0, crop_side=8, ratio=0.2).initial_state(classes=classes, unlabeled=4)
    assert {value.shape[:2] for value in state.values() if value.ndim > 1} == {(classes, room)}


def test_pasting_nothing_is_dense_teacher():
    batch = semi_batch(3, labeled=3, unlabeled=4, side=SIDE, classes=CLASSES)
    detector, *_ = teacher_of(FCOS, 1)
    method, plain = (kind(burn_in=0, ramp=0, ratio=0.2) for kind in (DenseTeacherPlus, DenseTeacher))
    method = method.model_copy(update={"pastes": 0})
    assert method.initial_state(classes=CLASSES, unlabeled=4) == {}
    found, wanted = (one.losses(detector, detector, batch, 1).losses for one in (method, plain))
    assert {name: value.item() for name, value in found.items()} == {
        name: value.item() for name, value in wanted.items()
    }


def test_quality_is_not_learned_where_no_teacher_said_it():
    detector, unlabeled, output = teacher_of(FCOS, 1)
    method = DenseTeacherPlus(ratio=0.2)
    before = method.dense_targets(detector, output, unlabeled)
    targets = with_pasted(detector, output, before, random_targets(1, batch=4, boxes=3, classes=CLASSES, extent=SIDE))
    student = output._replace(quality=torch.zeros_like(output.quality).requires_grad_())
    method.dense_task(detector, targets, unlabeled).loss(student)["quality"].backward()
    learned = student.quality.grad != 0
    assert not (learned & targets.true).any()
    assert torch.equal(learned, targets.labels.selected & ~targets.true)


def test_objects_are_those_of_labeled_images_and_lie_where_the_picture_says():
    batch = semi_batch(3, labeled=3, unlabeled=4, side=SIDE, classes=CLASSES)
    torch.manual_seed(0)
    detector = FCOS(num_classes=CLASSES, backbone="test_byobnet", levels=(3, 5), channels=16, head_convs=1).eval()
    method = DenseTeacherPlus(ratio=0.2, pastes=5, crop_side=16, crops=4)
    state = state_or_initial(method, None, detector, batch.unlabeled)
    with torch.no_grad():
        output = detector(batch.unlabeled.weak)
    first = method.student_task(detector, output, batch.labeled, batch.unlabeled, state)
    assert torch.equal(first.images.pixels, batch.unlabeled.strong.pixels)  # the bank was empty
    second = method.student_task(detector, output, batch.labeled, batch.unlabeled, first.state)
    random = to_device(torch.device("cpu"), batch.unlabeled.random)
    wanted = (random[:, 0] * 6).long()
    changed = (second.images.pixels != batch.unlabeled.strong.pixels).any(1)
    assert [bool(one.any()) for one in changed] == [int(one) > 0 for one in wanted]
    assert int(second.metrics["pseudo/pasted"] * 4) <= int(wanted.sum())
    assert first.state["true"].any()
    assert not (first.state["sides"].sum(-1) > 0)[~first.state["true"]].any()  # ground truth alone
