"""A step keeps the device busy: it reads nothing back, and its pure parts compile to one graph."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import TINY
from denseteacher.detectors import FCOS, RetinaNet
from denseteacher.errors import InputError
from denseteacher.methods import DenseTeacher
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.benchmark import Size, as_loaded, made_up_step, made_up_targets, make_student_teacher
from denseteacher.structures import ImageBatch
from denseteacher.training.runtime import Runtime
from harness.parts import with_objects
from support import semi_batch
from support.closeness import assert_close_to_scale

SIZE = Size(2, 2, 64, 96, 3)
CLASSES = 4
METHODS = ["supervised", "dense_teacher", "half_view", "humble_teacher", "csd"]
"""Without pseudo-boxes, whose number and NMS are known to the host only by asking."""
OPTIONS = {"half_view": ["method.name=dense_teacher", "method.half_view=true", "detector.finer_level=true"]}


class NoReading(TorchDispatchMode):
    """Refuses what would wait for a GPU: numbers on the host, and shapes that depend on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.__name__.split(".")[0]
        assert name not in {"_local_scalar_dense", "item", "is_nonzero", "masked_select", "_unique2"}, name
        # row lists of the host are made before anything is on the device
        assert name != "nonzero" or args[0].ndim == 1, name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("detector", ["fcos", "retinanet"])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_reads_nothing_back(method, detector):
    recipe = load_recipe(
        "custom", [*TINY, *OPTIONS.get(method, [f"method.name={method}"]), f"detector.name={detector}"]
    )
    size = SIZE._replace(unlabeled=0) if method == "supervised" else SIZE
    student_teacher = make_student_teacher(recipe, Runtime(recipe.runtime), size, CLASSES)
    loaded = made_up_step(size, CLASSES)
    student_teacher.train_step(loaded)  # what is kept for a canvas is made by its first step
    with NoReading():
        student_teacher.train_step(loaded)
    assert student_teacher.values["loss"].isfinite()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_is_waited_for_in_no_step(method):
    recipe = load_recipe("custom", [*TINY, *OPTIONS.get(method, [f"method.name={method}"]), "runtime.device=cuda"])
    student_teacher = make_student_teacher(recipe, Runtime(recipe.runtime), SIZE, CLASSES)
    loaded = as_loaded(made_up_step(SIZE, CLASSES), student_teacher.runtime.device)
    student_teacher.train_step(loaded)
    torch.cuda.set_sync_debug_mode("error")
    try:
        student_teacher.train_step(loaded)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert student_teacher.values["loss"].isfinite()


@pytest.fixture(params=[FCOS, RetinaNet])
def seen(request):
    """A detector, its predictions as a trained teacher's are, and targets."""
    torch.manual_seed(0)
    detector = request.param(num_classes=CLASSES, backbone="test_byobnet", levels=(3, 5), channels=16)
    targets = made_up_targets(2, SIZE, CLASSES, torch.Generator().manual_seed(0))
    images = ImageBatch(torch.zeros(2, 3, 64, 96, dtype=torch.uint8), torch.tensor([[64, 96], [60, 80]]))
    with torch.no_grad():
        return detector, with_objects(detector(images), detector, targets), targets


def compiled(function):
    """By the tracer alone: a graph break is an error, and no compiler is needed."""
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend="eager")


def test_supervised_losses_are_one_graph(seen):
    detector, output, targets = seen
    expected = detector.supervised_losses(output, targets)
    found = compiled(detector.supervised_losses)(output, targets)
    assert_close_to_scale(found, expected)


def test_the_dense_student_task_is_one_graph(seen):
    detector, teacher_output, _ = seen
    method = DenseTeacher(ratio=0.1, burn_in=0, ramp=0)
    unlabeled = semi_batch().unlabeled

    def unlabeled_losses(teacher_output, output):
        targets = method.dense_targets(detector, teacher_output, unlabeled)
        return method.dense_task(detector, targets, unlabeled).loss(output)

    shifted = teacher_output._replace(logits=teacher_output.logits + 0.3)
    expected = unlabeled_losses(teacher_output, shifted)
    found = compiled(unlabeled_losses)(teacher_output, shifted)
    for name, value in expected.items():
        assert_close_to_scale(found[name], value)


def test_the_forward_is_one_graph(seen):
    detector, _, _ = seen
    detector.eval()
    images = ImageBatch(torch.zeros(2, 3, 64, 96, dtype=torch.uint8), torch.tensor([[64, 96], [60, 80]]))
    with torch.no_grad():
        expected = detector(images)
        found = compiled(detector)(images)
    for one, other in zip(found, expected, strict=True):
        if other is not None:
            assert_close_to_scale(one, other)


@pytest.mark.parametrize("method", ["dense_teacher", "half_view"])
def test_a_compiled_run_has_the_losses_of_an_eager_one(monkeypatch, method):
    compiled = []
    compile_with = torch.compile

    def traced(function, **options):  # the tracer alone needs no compiler and no minutes
        compiled.append(function)
        return compile_with(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", traced)
    torch._dynamo.reset()
    values = {}
    for compile_it in ("false", "true"):
        options = [*OPTIONS.get(method, []), f"runtime.compile={compile_it}", "method.burn_in=0", "method.ratio=0.1"]
        recipe = load_recipe("custom", [*TINY, *options, "ema.start=0"])
        student_teacher = make_student_teacher(recipe, Runtime(recipe.runtime), SIZE, CLASSES)
        for _ in range(2):
            student_teacher.train_step(made_up_step(SIZE, CLASSES))
        values[compile_it] = {name: float(value) for name, value in student_teacher.values.items()}
        assert bool(compiled) == (compile_it == "true")
    assert_close_to_scale(values["true"], values["false"])
    networks = [function for function in compiled if getattr(function, "__name__", "") == "_call_impl"]
    assert len(networks) == 2


def test_a_machine_that_cannot_compile_says_so(monkeypatch):
    def broken(function, **_):
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", broken)
    config = load_recipe("custom", [*TINY, "runtime.compile=true"]).runtime
    with pytest.raises(InputError, match=r"torch can't compile on this machine's cpu \(no C\+\+ compiler\)"):
        Runtime(config)


def test_what_a_step_leaves_out_is_a_function_of_the_step():
    recipe = load_recipe("custom", [*TINY, "detector.backbone=test_vit", "detector.drop_path=0.5"])
    losses = []
    for noise in range(2):
        student_teacher = make_student_teacher(recipe, Runtime(recipe.runtime), SIZE, CLASSES)
        for step in range(2):
            torch.manual_seed(noise + 10 * step)  # whatever has drawn before
            student_teacher.train_step(made_up_step(SIZE, CLASSES))
        losses.append(student_teacher.values["loss"])
    assert torch.equal(*losses)
