"""Whole training steps on a GPU that is not there (``support.pretended_cuda``): right devices, and no waiting."""

from typing import get_args

import pytest
import torch

from conftest import TINY
from denseteacher.data.augment.affine import AffineView
from denseteacher.data.augment.config import AugmentConfig
from denseteacher.data.augment.strong import StrongView
from denseteacher.evaluation.evaluator import detect_batch
from denseteacher.methods import DenseTeacher, MethodConfig
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.benchmark import Size, as_loaded, made_up_step, made_up_targets, make_student_teacher
from denseteacher.training.runtime import Runtime
from support.pretended_cuda import backward, pretended_cuda

SIZE = Size(2, 2, 64, 96, 3)
CLASSES = 4
EVERY_CHANGE = StrongView(jitter_probability=1, grayscale_probability=1, blur_probability=1)

NMS = {
    "boxes.pseudo_boxes: nonzero",
    "boxes.padded_nms: nms",
    "boxes.padded_nms: blocking copy",
    "boxes.padded_nms: mask as an index",
    "boxes.padded_nms: value",
}
"""How many boxes are above the threshold and left by NMS, only the device knows; torchvision's NMS itself waits."""
WAITS = {
    "supervised": set(),
    "dense_teacher": set(),
    "dense_teacher_plus": set(),
    "humble_teacher": set(),
    "csd": set(),
    "arsl": set(),
    "unbiased_teacher": NMS,
    "consistent_teacher": NMS,
    "dynamic_threshold": NMS,
    "soft_teacher": NMS,
    "stac": NMS,
    "acrst": NMS,
    "instant_teaching": NMS | {"boxes.fuse: nonzero"},
    "mixpl": NMS,
    "ismt": NMS | {"boxes.fuse: nonzero"},
}
"""Every method, and where the host waits for the device in a step of it."""


def waits_of_a_step(method, detector, *overrides, prepare=lambda student_teacher: None, hidden=False, canvases=None):
    """Both after two steps, and where the second one waited: what is kept for a canvas is made by the first."""
    recipe = load_recipe(
        "custom",
        [*TINY, f"method.name={method}", f"detector.name={detector}", "runtime.device=cuda", *overrides],
    )
    with pretended_cuda() as gpu:
        student_teacher = make_student_teacher(recipe, Runtime(recipe.runtime), SIZE, CLASSES)
        affine = AffineView() if student_teacher.method.moves_labels else None
        student_teacher.augment = AugmentConfig(strong=EVERY_CHANGE, affine=affine)
        prepare(student_teacher)
        loaded = made_up_step(SIZE, CLASSES)
        loaded = loaded._replace(labeled=loaded.labeled._replace(canvases=canvases))
        loaded = loaded._replace(
            unlabeled=loaded.unlabeled._replace(weak=loaded.unlabeled.weak._replace(canvases=canvases))
        )
        if hidden:
            targets = made_up_targets(2, SIZE, CLASSES, torch.Generator().manual_seed(1))
            loaded = loaded._replace(unlabeled=loaded.unlabeled._replace(hidden_targets=targets))
        loaded = as_loaded(loaded, student_teacher.runtime.device)
        student_teacher.train_step(loaded)
        gpu.waits.clear()
        gpu.updated = 0
        student_teacher.train_step(loaded)
    assert gpu.updated == len(student_teacher.parameters)
    return student_teacher, set(gpu.waits)


AS_UNBIASED_TEACHER = {"dynamic_threshold", "stac", "acrst", "instant_teaching", "mixpl", "ismt"}
"""Methods that ask nothing of a detector but what Unbiased Teacher asks: one of the detectors shows it."""
PAIRS = [
    (method, detector)
    for method in WAITS
    for detector in ("fcos", "retinanet", "gfl")
    if detector == "fcos" or method not in AS_UNBIASED_TEACHER
]


@pytest.mark.parametrize(("method", "detector"), PAIRS)
def test_a_step_is_on_one_device_and_waits_only_where_it_must(method, detector):
    overrides = ["method.mix_probability=1"] if method == "instant_teaching" else []
    student_teacher, waits = waits_of_a_step(method, detector, "runtime.precision=bf16", *overrides)
    assert waits == WAITS[method]
    kept = [*student_teacher.student_module.state_dict().values(), *student_teacher.ema.module.state_dict().values()]
    kept += [
        *student_teacher.method_state.values(),
        student_teacher.nonfinite,
        student_teacher.values["loss"],
        student_teacher.values["gradient_norm"],
    ]
    kept += [value for state in student_teacher.optimizer.state.values() for value in state.values()]
    assert {str(value.device) for value in kept} == {"cuda:0"}


def test_every_method_is_among_them():
    assert {method.model_fields["name"].default for method in get_args(get_args(MethodConfig)[0])} == set(WAITS)


def test_other_settings_wait_for_nothing():
    settings = ["optim.name=adamw", "optim.clip_norm=1.0", "optim.clip_value=1.0", "runtime.precision=fp32"]

    def ignoring(student_teacher):
        student_teacher.method = student_teacher.method.model_copy(
            update={"region": "ignore", "count_padding": False, "group_size": 1}
        )

    assert not waits_of_a_step("dense_teacher", "fcos", *settings, prepare=ignoring, hidden=True)[1]


@pytest.mark.parametrize("detector", ["fcos", "retinanet", "gfl"])
def test_dense_mixing_waits_for_nothing(detector):
    assert not waits_of_a_step("dense_teacher", detector, "method.mix=both", canvases=((64, 96), (64, 64)))[1]


@pytest.mark.parametrize("detector", ["fcos", "retinanet", "gfl"])
def test_parts_and_canvases_of_their_own_wait_for_nothing(detector):
    def grouped(student_teacher):
        student_teacher.method = student_teacher.method.model_copy(update={"group_canvas": True, "group_size": 1})

    settings = ["schedule.accumulate=2"]
    assert not waits_of_a_step("dense_teacher", detector, *settings, prepare=grouped, canvases=((64, 96), (64, 64)))[1]


class OnTheHost(DenseTeacher):
    """Forgets to say where its factor is needed."""

    def student_task(self, detector, teacher_output, labeled, unlabeled, state):
        factors = torch.ones(teacher_output.logits.shape[-1])
        return super().student_task(
            detector, teacher_output._replace(logits=teacher_output.logits * factors), labeled, unlabeled, state
        )


class Reading(DenseTeacher):
    """Looks at a number."""

    def student_task(self, detector, teacher_output, labeled, unlabeled, state):
        assert float(teacher_output.logits.amax()) < 1e6
        return super().student_task(detector, teacher_output, labeled, unlabeled, state)


class Sending(DenseTeacher):
    """Makes its numbers on the host and has the device wait for them."""

    def student_task(self, detector, teacher_output, labeled, unlabeled, state):
        offsets = torch.zeros(teacher_output.logits.shape[-1]).to(teacher_output.logits.device)
        return super().student_task(
            detector, teacher_output._replace(logits=teacher_output.logits + offsets), labeled, unlabeled, state
        )


def taught_by(kind):
    def prepare(student_teacher):
        student_teacher.method = kind(**student_teacher.method.model_dump())

    return prepare


def test_a_tensor_on_the_wrong_device_is_found():
    with pytest.raises(RuntimeError, match="device"):
        waits_of_a_step("dense_teacher", "fcos", prepare=taught_by(OnTheHost))


@pytest.mark.parametrize(("kind", "reason"), [(Reading, "value"), (Sending, "blocking copy")])
def test_a_method_that_waits_is_found(kind, reason):
    _, waits = waits_of_a_step("dense_teacher", "fcos", prepare=taught_by(kind))
    assert waits == {f"test_pretended_cuda.student_task: {reason}"}


def test_the_backward_pass_is_torchs_own():
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(2, 8), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 1)
    )
    gradients = []
    for differentiate in (torch.autograd.backward, backward):
        output = network(torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)))
        first, second = output.chunk(2, dim=1)
        differentiate((first.sigmoid() * second + network[3].bias[0] * output.amax((2, 3), keepdim=True)[:, :2]).sum())
        gradients.append([parameter.grad for parameter in network.parameters()])
        network.zero_grad(set_to_none=True)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("detector", ["fcos", "retinanet", "gfl"])
def test_detections_come_back_to_the_host(detector):
    recipe = load_recipe("custom", [*TINY, f"detector.name={detector}", "runtime.device=cuda"])
    with pretended_cuda():
        student_teacher = make_student_teacher(recipe, Runtime(recipe.runtime), SIZE, CLASSES)
        images = made_up_step(SIZE, CLASSES).labeled
        found = detect_batch(student_teacher.teacher, images, [(128, 192)] * 2, student_teacher.runtime.device)
    assert len(found) == 2
    assert {field.device.type for detections in found for field in detections} == {"cpu"}


def test_what_was_pretended_is_forgotten():
    waits_of_a_step("humble_teacher", "retinanet")
    recipe = load_recipe("custom", [*TINY, "method.name=humble_teacher", "detector.name=retinanet"])
    student_teacher = make_student_teacher(recipe, Runtime(recipe.runtime), SIZE, CLASSES)
    student_teacher.train_step(made_up_step(SIZE, CLASSES))
    assert student_teacher.values["loss"].isfinite()
    assert torch.cuda.is_available() is (torch.cuda.device_count() > 0)
