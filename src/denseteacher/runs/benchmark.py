"""``denseteacher benchmark``: how fast training steps of a recipe are, on made-up images."""

import math
import platform
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_map_only

from denseteacher.data.loading.steps import LoadedStep, UnlabeledViews
from denseteacher.files import refusal_explained
from denseteacher.hardware import this_machine
from denseteacher.recipes.resolve import resolve_runtime
from denseteacher.recipes.schema import Recipe
from denseteacher.structures import ImageBatch, Targets
from denseteacher.training.ema import EMAConfig
from denseteacher.training.launcher import find_launch
from denseteacher.training.runtime import Runtime
from denseteacher.training.schedule import ScheduleConfig
from denseteacher.training.student_teacher import StudentTeacher
from denseteacher.training.throughput import Throughput, peak_speed

_PACKAGES = ("dense-teacher", "torch", "torchvision", "timm", "numpy")
_LEAST_SIDE, _MOST_SIDE = 0.06, 0.5
"""Sides of a box, as shares of the image's smaller side."""
_WARM_STEPS = 2
_TRACED_STEPS = 2
_OPERATORS = 10


class Size(NamedTuple):
    """How large a step is."""

    labeled: int
    """Images."""
    unlabeled: int
    height: int
    """Pixels of the canvas."""
    width: int
    boxes: int = 8
    """An image."""
    padding: float = 0.0
    """Share of the canvas below the images that is none of them."""


def benchmark(
    recipe: Recipe, size: Size, *, classes: int = 80, rounds: int = 5, trace: Path | None = None
) -> dict[str, Any]:
    """Times training steps with everything in them: past the burn-in, at full weight.

    Args:
        recipe: Says detector, method, optimizer, strong view, device and precision.
        size: Size of a step.
        classes: K.
        rounds: Steps that are timed, after some that are not.
        trace: File for a Chrome trace of two steps; none is made if not given.

    Returns:
        A dict with ``device``, ``versions``, ``size``, ``step`` (what ``Throughput`` counts, and precision and peak
        speed of the device) and, with ``trace``, what ``trace_steps`` found.

    Raises:
        RunError: If the trace can't be written.
    """
    runtime = open_runtime(recipe)
    student_teacher = make_student_teacher(recipe, runtime, size, classes)
    loaded = as_loaded(made_up_step(size, classes), runtime.device)
    throughput = Throughput(student_teacher)
    for step in range(_WARM_STEPS + rounds):
        if step == _WARM_STEPS:
            _sync(runtime.device)
            throughput.read()
        with throughput.step(loaded, data_wait=0.0):
            student_teacher.train_step(loaded)
            if step == _WARM_STEPS + rounds - 1:  # a GPU is given several steps without waiting, as in a run
                _sync(runtime.device)
    counted = {name: value if math.isfinite(value) else None for name, value in throughput.read().items()}
    peak, source = peak_speed(runtime.device, runtime.dtype)
    found: dict[str, Any] = {
        "device": device_name(runtime.device),
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES},
        "size": size._asdict() | {"classes": classes, "rounds": rounds},
        "step": {"precision": runtime.precision, **counted, "peak_tflops": peak, "peak_source": source},
    }
    if trace is not None:
        found["operators, ms a step"] = trace_steps(student_teacher, loaded, trace)
    return found


def open_runtime(recipe: Recipe) -> Runtime:
    """The devices of a recipe that has no data, and so is not resolved as a whole."""
    return Runtime(resolve_runtime(recipe.runtime, launch=find_launch(), machine=this_machine()))


def trace_steps(student_teacher: StudentTeacher, loaded: LoadedStep, file: Path) -> dict[str, float]:
    """Writes a Chrome trace of two steps, in which strong views, passes, pseudo-labels and EMA have their names.

    Args:
        student_teacher: Past its first steps, which set up what is not a part of the others.
        loaded: A step.
        file: To write; one whose name ends in ``.gz`` is compressed.

    Returns:
        The ten operators that took most time themselves, in milliseconds a step: of the GPU where there is one.

    Raises:
        RunError: If the disk refuses.
    """
    device = student_teacher.runtime.device
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as found:
        for _ in range(_TRACED_STEPS):
            student_teacher.train_step(loaded)
        _sync(device)
    with refusal_explained(file):
        found.export_chrome_trace(str(file))
    microseconds = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in found.key_averages()
        if not event.is_user_annotation
    }
    largest = sorted(microseconds, key=lambda name: microseconds[name], reverse=True)[:_OPERATORS]
    return {name: microseconds[name] / 1000 / _TRACED_STEPS for name in largest}


def device_name(device: torch.device) -> str:
    """What a device is called."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}"


def made_up_step(size: Size, classes: int, *, seed: int = 0) -> LoadedStep:
    """The weak views of a step: noise, with boxes of all sizes."""
    rng = torch.Generator().manual_seed(seed)
    unlabeled = None
    if size.unlabeled:
        unlabeled = UnlabeledViews(
            _noise(size.unlabeled, size, rng),
            torch.arange(size.unlabeled),
            torch.eye(3).repeat(size.unlabeled, 1, 1),
            None,
        )
    return LoadedStep(
        0,
        _noise(size.labeled, size, rng),
        made_up_targets(size.labeled, size, classes, rng),
        unlabeled,
        list(range(size.labeled)),
        list(range(size.unlabeled)),
        [],
    )


def made_up_targets(images: int, size: Size, classes: int, rng: torch.Generator) -> Targets:
    """Boxes inside the images."""
    room = max(1, size.boxes)
    height, width = _real_size(size)
    extent = torch.tensor([width, height], dtype=torch.float32)
    spread = torch.rand((images, room, 2), generator=rng)
    sides = (_LEAST_SIDE + (_MOST_SIDE - _LEAST_SIDE) * spread**2) * min(height, width)
    corner = torch.rand((images, room, 2), generator=rng) * (extent - sides)
    mask = torch.zeros((images, room), dtype=torch.bool)
    mask[:, : size.boxes] = True
    labels = torch.randint(0, classes, (images, room), generator=rng)
    return Targets(torch.cat([corner, corner + sides], 2) * mask[..., None], labels * mask, mask)


def as_loaded(loaded: LoadedStep, device: torch.device) -> LoadedStep:
    """A made-up step as a loader gives it: for a GPU in pinned memory."""
    pinned: LoadedStep = tree_map_only(Tensor, Tensor.pin_memory, loaded) if device.type == "cuda" else loaded
    return pinned


def make_student_teacher(recipe: Recipe, runtime: Runtime, size: Size, classes: int) -> StudentTeacher:
    """Both before a step that has everything: past the burn-in, at full weight, with a teacher that averages."""
    torch.manual_seed(0)
    parts = {
        "method": recipe.method.at_full_weight(),
        "augment": recipe.augment.model_copy(update={"affine": None}),
        "data": recipe.data.model_copy(update={"labeled_batch": size.labeled, "unlabeled_batch": size.unlabeled}),
        "ema": EMAConfig(decay=0.99, start=0),
        "schedule": ScheduleConfig(max_steps=10**6, accumulate=recipe.schedule.accumulate),
        "seed": 1,
    }
    student = recipe.detector.build(classes).to(memory_format=torch.channels_last)
    unlabeled = max(1, size.labeled, size.unlabeled)
    student_teacher = StudentTeacher(student, recipe.model_copy(update=parts), runtime, unlabeled=unlabeled)
    student_teacher.step = 1
    return student_teacher


def _noise(images: int, size: Size, rng: torch.Generator) -> ImageBatch:
    pixels = torch.randint(0, 256, (images, 3, size.height, size.width), dtype=torch.uint8, generator=rng)
    pixels[:, :, _real_size(size)[0] :] = 0
    return ImageBatch(pixels, torch.tensor([_real_size(size)]).repeat(images, 1))


def _real_size(size: Size) -> tuple[int, int]:
    return round(size.height * (1 - size.padding)), size.width


def _sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
