"""Where class and quality are trained as one (``cls_loss: joint``), their product is what a teacher believes."""

import numpy as np
import pytest
import torch

from denseteacher.detectors import FCOS, GFL, RetinaNet
from denseteacher.methods import ARSL, CSD, DenseTeacher, DenseTeacherPlus, HumbleTeacher, SoftTeacher, UnbiasedTeacher
from denseteacher.pseudo_labels.flip_ensemble import mirror_back
from denseteacher.pseudo_labels.missing_labels import unlabeled_objects
from denseteacher.structures import DenseOutput
from support import random_targets, semi_batch, sigmoid64
from support.closeness import assert_close_to_scale

SIDE, CLASSES = 64, 3
TINY = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1, "quality": "iou"}
METHODS = [
    DenseTeacher(ratio=0.1),
    DenseTeacher(ratio=0.1, region_weights="score", mix="both"),
    DenseTeacherPlus(ratio=0.1, crop_side=16),
    UnbiasedTeacher(threshold=0.2, box=True),
    SoftTeacher(threshold=0.2, candidate_threshold=0.2, box_spread=0.5),
    HumbleTeacher(ratio=0.1, mirror=False),
    HumbleTeacher(ratio=0.1),
    ARSL(),
]


def by_name(value):
    return type(value).__name__ if not isinstance(value, type) else value.__name__


@pytest.fixture(params=[FCOS, RetinaNet, GFL], ids=by_name)
def detector(request):
    torch.manual_seed(0)
    return request.param(num_classes=CLASSES, cls_loss="joint", **TINY).eval()


def random_output(detector, seed, batch=2):
    """Predictions on images of which the last one has padding."""
    rng = torch.Generator().manual_seed(seed)
    anchors = detector.anchors((SIDE, SIDE), torch.device("cpu"))
    with torch.no_grad():
        deltas = detector(semi_batch(seed, unlabeled=batch, side=SIDE).unlabeled.weak).deltas
    shape = (batch, len(anchors))
    valid = torch.ones(shape, dtype=torch.bool)
    valid[-1, ::5] = False
    logits, quality = torch.randn((*shape, CLASSES), generator=rng) * 2, torch.randn(shape, generator=rng) * 2
    return DenseOutput(logits, deltas, quality, anchors, valid)


def with_all_in_the_class(output):
    """Predictions of the same products, whose quality is 1."""
    product = torch.from_numpy(sigmoid64(output.logits) * sigmoid64(output.quality)[..., None])
    return output._replace(logits=product.logit().float(), quality=torch.full_like(output.quality, 80.0))


def task_of(method, detector, output, batch):
    state = method.initial_state(classes=CLASSES, unlabeled=30)
    return method.student_task(detector, output, batch.labeled, batch.unlabeled, state)


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_a_teacher_is_believed_by_its_products(detector, method):
    """How a product comes about says nothing, to any method, of where an object is and of what class."""
    batch = semi_batch(3, side=SIDE, classes=CLASSES)
    count = 4 if isinstance(method, HumbleTeacher) and method.mirror else 2
    teacher = random_output(detector, 1, count)
    tasks = [task_of(method, detector, one, batch) for one in (teacher, with_all_in_the_class(teacher))]
    student = random_output(detector, 2, len(tasks[0].images.sizes))
    first, second = (task.loss(student) for task in tasks)
    assert first["cls"] > 0
    for name in first.keys() - {"quality"}:
        assert_close_to_scale(first[name], second[name])


@pytest.mark.parametrize("method", METHODS, ids=by_name)
def test_a_student_is_judged_by_its_products(detector, method):
    batch = semi_batch(3, side=SIDE, classes=CLASSES)
    count = 4 if isinstance(method, HumbleTeacher) and method.mirror else 2
    task = task_of(method, detector, random_output(detector, 1, count), batch)
    student = random_output(detector, 2, len(task.images.sizes))
    first, second = (task.loss(one)["cls"] for one in (student, with_all_in_the_class(student)))
    assert first > 0
    assert_close_to_scale(first, second, share=1e-5)


@pytest.mark.parametrize("group_size", [None, 1])
def test_dense_teacher_equals_the_reference(detector, group_size):
    teacher, student = random_output(detector, 4), random_output(detector, 5)
    student.logits.requires_grad_(True)
    student.quality.requires_grad_(True)
    method = DenseTeacher(ratio=0.2, group_size=group_size, cls_weight=1)
    batch = semi_batch(3, side=SIDE, classes=CLASSES)
    losses = task_of(method, detector, teacher, batch).loss(student)

    t, s = (sigmoid64(one.logits.detach()) * sigmoid64(one.quality.detach())[..., None] for one in (teacher, student))
    wanted = []
    for rows in [[0, 1]] if group_size is None else [[0], [1]]:
        richness = t[rows].max(-1).reshape(-1)
        kept = np.argsort(-richness)[: int(0.2 * len(richness))]
        targets = np.zeros((len(richness), CLASSES))
        targets[kept] = t[rows].reshape(-1, CLASSES)[kept]
        scores = s[rows].reshape(-1, CLASSES)
        entropy = -targets * np.log(scores) - (1 - targets) * np.log1p(-scores)
        wanted.append((np.abs(targets - scores) ** 2 * entropy).sum() / richness[kept].sum())
    assert_close_to_scale(losses["cls"], np.mean(wanted))
    gradients = torch.autograd.grad(losses["cls"], [student.logits, student.quality])
    assert all(one.abs().sum() > 0 for one in gradients)


def test_an_unlabeled_object_is_where_class_and_quality_are_sure(detector):
    targets, sure_score = random_targets(0, batch=2, boxes=3, classes=CLASSES, extent=SIDE), torch.full((2,), 0.3)
    output = random_output(detector, 6)
    found = unlabeled_objects(detector, output, targets, sure_score)
    assert found.any()
    assert torch.equal(found, unlabeled_objects(detector, with_all_in_the_class(output), targets, sure_score))
    doubted = output._replace(quality=torch.full_like(output.quality, -8.0))
    assert not unlabeled_objects(detector, doubted, targets, sure_score).any()


def test_mirror_images_have_products_too(detector):
    images = semi_batch(3, side=SIDE).unlabeled.weak
    output = random_output(detector, 7)
    first, second = (mirror_back(detector, one, images).logits for one in (output, with_all_in_the_class(output)))
    assert_close_to_scale(first, second, share=1e-5)


def test_csd_compares_products(detector):
    class Looking:
        """The detector with predictions that were made up, since a forward's would be of one kind."""

        def __init__(self, change):
            self.change = change

        def __call__(self, images):
            return self.change(random_output(detector, 8, len(images.sizes)))

        def __getattr__(self, name):
            return getattr(detector, name)

    batch = semi_batch(3, side=SIDE, classes=CLASSES)
    first, second = (
        CSD(burn_in=0, ramp=0, threshold=0.2).losses(Looking(change), None, batch, 1).losses["unsup/cls"]
        for change in (lambda output: output, with_all_in_the_class)
    )
    assert first > 0
    assert_close_to_scale(first, second, share=1e-5)


def test_without_joint_training_class_scores_are_those_of_the_classes():
    detector = FCOS(num_classes=CLASSES, **TINY)
    output = random_output(detector, 9)
    assert detector.class_logits(output) is output.logits
