"""Partly labeled images: what the teacher is sure of and no label covers is left out, on all detectors and methods."""

from typing import get_args

import numpy as np
import pytest
import torch

from conftest import TINY
from denseteacher.data.open import open_data
from denseteacher.detectors import FCOS, RetinaNet
from denseteacher.methods import CSD, DenseTeacher, HumbleTeacher, InstantTeaching, MethodConfig, Supervised
from denseteacher.ops.assignment import BACKGROUND
from denseteacher.ops.boxes import pairwise_iou
from denseteacher.pseudo_labels.missing_labels import unlabeled_objects
from denseteacher.recipes.resolve import with_lengths
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.baseline import baseline_recipe
from denseteacher.runs.benchmark import Size, as_loaded, made_up_step, make_student_teacher
from denseteacher.runs.build import build_steps
from denseteacher.training.runtime import Runtime
from support import image_batch, random_targets, semi_batch
from support.pretended_cuda import pretended_cuda

SMALL = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1}
KINDS = {"fcos": FCOS, "retinanet": RetinaNet}
AFTER = 30


@pytest.fixture(params=KINDS)
def pair(request):
    torch.manual_seed(0)
    student = KINDS[request.param](num_classes=3, **SMALL)
    torch.manual_seed(1)
    return student, KINDS[request.param](num_classes=3, **SMALL).eval()


def all_methods():
    kinds = get_args(get_args(MethodConfig)[0])
    return [kind(burn_in=10, **({"ratio": 0.1} if "ratio" in kind.model_fields else {})) for kind in kinds]


def iou_of(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    common = max(width, 0) * max(height, 0)
    union = (one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - common
    return common / union if union > 0 else 0.0


def test_pairwise_iou_is_that_of_single_pairs():
    boxes, others = (random_targets(seed, batch=3, boxes=9, classes=2).boxes for seed in (0, 1))
    found = pairwise_iou(boxes, others[:, :5])
    for image, first, second in np.ndindex(*found.shape):
        expected = iou_of(boxes[image, first].double().tolist(), others[image, second].double().tolist())
        assert float(found[image, first, second]) == pytest.approx(expected, abs=1e-6)


def test_the_places_are_those_of_a_slow_version(pair):
    _, teacher = pair
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        output = teacher(image_batch(0, batch=3, height=64, width=64, sizes=[[64, 64], [40, 64], [64, 64]]))
    output = output._replace(logits=torch.randn(output.logits.shape, generator=rng))
    targets = random_targets(5, batch=3, boxes=4, classes=3, extent=64)
    boxes = teacher.decode_boxes(output)
    places = torch.randperm(boxes.shape[1], generator=rng)[:3]
    targets.boxes[0, :3], targets.mask[0, :3] = boxes[0, places].detach(), True  # labels that the teacher has found
    thresholds = [0.5, 0.6, 0.7]
    found = unlabeled_objects(teacher, output, targets, torch.tensor(thresholds))
    seen = {True: 0, False: 0}
    for image, location in np.ndindex(*found.shape):
        sure = max(1 / (1 + np.exp(-output.logits[image, location].double().numpy()))) > thresholds[image]
        own = boxes[image, location].double().tolist()
        labels = targets.boxes[image][targets.mask[image]].double().tolist()
        covered = any(iou_of(own, label) >= 0.5 for label in labels)
        expected = bool(sure and not covered and output.valid[image, location])
        assert bool(found[image, location]) == expected
        seen[expected] += 1
    assert min(seen.values()) > 20
    assert not found[0, places].any()


def partly(score=0.01, seed=0):
    """A batch whose labels are not complete; teachers without training score about 0.01."""
    batch = semi_batch(seed)
    return batch._replace(labeled=batch.labeled._replace(sure_score=torch.full((2,), score)))


@pytest.mark.parametrize("method", all_methods(), ids=lambda method: method.name)
def test_every_method_leaves_out_what_the_teacher_is_sure_of(pair, method):
    student, teacher = pair
    student.eval()
    batch = partly()
    plain = method.losses(student, teacher, semi_batch(), AFTER)
    output = method.losses(student, teacher, batch, AFTER)
    labeled = batch.labeled
    with torch.no_grad():
        missing = unlabeled_objects(teacher, teacher(labeled.weak), labeled.targets, labeled.sure_score)
        looked = student(labeled.weak)
    background = student.assign(labeled.targets, looked.anchors, student.levels(looked.anchors)).labels == BACKGROUND
    assert int((missing & background).sum()) > 10
    assert float(output.metrics["labeled/left_out"]) == pytest.approx(float(missing.sum()) / 2)
    assert output.losses["sup/cls"] < plain.losses["sup/cls"]
    assert "labeled/left_out" not in plain.metrics
    for name in plain.losses:  # and changes nothing else; one pass for more images may round in another way
        if name != "sup/cls":
            torch.testing.assert_close(output.losses[name], plain.losses[name], rtol=1e-4, atol=1e-6)
    sum(output.losses.values()).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("method", all_methods(), ids=lambda method: method.name)
def test_a_teacher_that_is_never_sure_changes_no_supervised_loss(pair, method):
    student, teacher = pair
    student.eval()
    output, plain = (method.losses(student, teacher, batch, AFTER).losses for batch in (partly(0.999), semi_batch()))
    assert all(torch.equal(output[name], plain[name]) for name in plain if name.startswith("sup/"))


@pytest.mark.parametrize("method", all_methods(), ids=lambda method: method.name)
def test_until_the_burn_in_ends_labels_are_taken_for_complete(pair, method):
    student, teacher = pair
    student.eval()
    expected = Supervised().losses(student, teacher, semi_batch(), 3)
    found = method.losses(student, teacher, partly(), 3)
    assert found.metrics.keys() == expected.metrics.keys()
    assert all(torch.equal(found.losses[name], expected.losses[name]) for name in expected.losses)


class Counting:
    """A detector that counts its passes."""

    def __init__(self, detector):
        self.detector, self.passes = detector, []

    def __getattr__(self, name):
        return getattr(self.detector, name)

    def __call__(self, images):
        self.passes.append(len(images.sizes))
        return self.detector(images)


@pytest.mark.parametrize(
    ("method", "images"),
    [
        (DenseTeacher(burn_in=10, ratio=0.1), [2 + 2]),
        (HumbleTeacher(burn_in=10, ratio=0.1), [2 * 2 + 2]),
        (InstantTeaching(burn_in=10), [2 + 2]),
        (InstantTeaching(burn_in=10, co_rectify=False), [2]),  # the student labels, the teacher only looks for these
        (CSD(burn_in=10), [2]),
        (Supervised(burn_in=10), [2]),
        (Supervised(), []),
    ],
    ids=str,
)
def test_the_teacher_has_one_pass(pair, method, images):
    student, teacher = pair[0], Counting(pair[1])
    method.losses(student, teacher, partly(), AFTER)
    assert teacher.passes == images


SIZE = Size(2, 2, 64, 96, 3)


@pytest.mark.parametrize("detector", KINDS)
@pytest.mark.parametrize("method", ["dense_teacher", "supervised", "csd"])
def test_the_device_is_not_waited_for(method, detector):
    keys = [*TINY, f"method.name={method}", f"detector.name={detector}", "runtime.device=cuda"]
    recipe = load_recipe("custom", keys)
    with pretended_cuda() as gpu:
        student_teacher = make_student_teacher(recipe, Runtime(recipe.runtime), SIZE, 4)
        student_teacher.method = student_teacher.method.model_copy(update={"burn_in": 0})
        loaded = made_up_step(SIZE, 4)._replace(sure_score=torch.full((2,), 0.4))
        regions = torch.zeros_like(loaded.targets.mask)
        loaded = loaded._replace(targets=loaded.targets._replace(ignored=regions))
        loaded = as_loaded(loaded, student_teacher.runtime.device)
        student_teacher.train_step(loaded)
        gpu.waits.clear()
        student_teacher.train_step(loaded)
        assert set(gpu.waits) == set()
        assert "labeled/left_out" in student_teacher.values


def test_the_recipe_says_that_labels_are_missing(coco):
    keys = [*TINY, f"data.labeled={coco}", "method.burn_in=4"]
    steps = {}
    for complete in (True, False):
        recipe = load_recipe("custom", [*keys, f"data.labels_complete={complete}", "data.sure_score=0.3"])
        steps[complete] = build_steps(recipe, open_data(recipe.data))[0]
    assert steps[True].sure_score is None
    torch.testing.assert_close(steps[False].sure_score, torch.tensor([0.3, 0.3]))


def test_supervised_asks_the_teacher_when_another_methods_burn_in_would_end():
    recipe = load_recipe("custom", ["method.name=supervised", "schedule.max_steps=1200", "data.labels_complete=false"])
    resolved = with_lengths(recipe, labeled=20, unlabeled=0)
    assert resolved.method.burn_in == 2 * resolved.ema.start == 200
    assert resolved.method.burn_in_steps is None
    by_hand = load_recipe("custom", ["method.name=supervised", "method.burn_in=7", "schedule.max_steps=1200"])
    assert with_lengths(by_hand, labeled=20, unlabeled=0).method.burn_in == 7
    other = load_recipe("custom", ["method.burn_in=77", "method.ratio=0.1", "data.labels_complete=false"])
    assert baseline_recipe(other).method == Supervised(burn_in=77)
