"""The training step: its parts, and what it costs over the passes of its bare networks."""

import time
from collections.abc import Callable, Collection
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from denseteacher.data.augment.weak import WeakView
from denseteacher.data.loading.steps import LoadedStep, StepDataset, step_loader
from denseteacher.data.loading.strong_views import StepsWithStrongViews, loads_strong_views, with_strong_views
from denseteacher.data.open import TrainingData
from denseteacher.methods import DenseTeacher, UnbiasedTeacher
from denseteacher.methods.mean_teacher import MeanTeacher
from denseteacher.recipes.schema import Recipe
from denseteacher.runs.benchmark import Size, as_loaded, made_up_step, make_student_teacher, open_runtime
from denseteacher.training.student_teacher import StudentTeacher
from denseteacher.training.throughput import peak_speed
from harness.data import made_up_files
from harness.parts import StepParts
from harness.timing import forget_peak_memory, in_turns, medians, peak_memory, ratio_of_medians, undisturbed_clock, wait

_SHARED = ("data wait", "strong views", "teacher", "pseudo-label", "student", "losses", "clip and optimizer", "EMA")
"""The parts that make up a step."""
_QUEUED_STEPS = 10


class StepReport(NamedTuple):
    """What was measured of a step."""

    precision: str
    seconds: dict[str, float]
    """Median of the whole step and of its parts, each alone; ``data wait`` is what a step from files waits for them."""
    shares: dict[str, float]
    """Of the parts in a step with its data wait, without strong views that loader processes make; ``rest`` is what is
    left, below 0 where parts overlap in the step."""
    ratios: dict[str, float]
    """``step_over_bare`` is on one CPU thread without the time that other programs took (``undisturbed_clock``)."""
    images_per_second: float
    """Labeled and unlabeled images, each of which the step sees in two views."""
    megapixels_per_second: dict[str, float]
    """Of these images: ``padded`` counts their canvases, ``real`` what of them is image."""
    tflop: float
    """Counted multiplications and additions of the networks' passes, in units of 1e12."""
    mfu: float
    """Model FLOP utilization: counted over what the device could have done in the step's time."""
    peak_tflops: float
    peak_source: str
    peak_gib: float
    """Of the first steps alone."""

    def content(self) -> dict[str, Any]:
        """For a JSON file."""
        return self._asdict()


def measure_step(recipe: Recipe, size: Size, *, classes: int, rounds: int) -> StepReport:
    """Times a step of a recipe on made-up images, and the passes of its bare networks, in turns.

    Bare are the student's forward and backward over all its views and the teacher's forward, with the same
    precision, memory format and batch, and nothing else: no views to make, no labels, losses or optimizer.

    Args:
        recipe: Says detector, method, optimizer, strong view, device and precision; ``auto`` values are not looked at.
        size: Of the step.
        classes: K.
        rounds: That count.
    """
    runtime = open_runtime(recipe)
    device = runtime.device
    forget_peak_memory(device)
    student_teacher = make_student_teacher(recipe, runtime, size, classes)
    loaded = as_loaded(made_up_step(size, classes), device)
    batch = with_strong_views(loaded, student_teacher.augment, seed=1, device=device)
    in_loader = loads_strong_views(device, recipe.runtime.workers)
    if in_loader:
        loaded = loaded._replace(batch=batch)
    for _ in range(2):
        student_teacher.train_step(loaded)
    peak_gib = peak_memory(device)
    parts = StepParts(student_teacher, batch)
    work = _work(student_teacher, loaded, parts)
    seconds = in_turns(work, rounds=rounds, device=device)
    pair = {name: work[name] for name in ("step", "bare")}
    pair_seconds = in_turns(pair, rounds=rounds, device=device, clock=undisturbed_clock(device))
    ratios = {"step_over_bare": ratio_of_medians(pair_seconds, "step", "bare")}
    if isinstance(student_teacher.method, DenseTeacher) and parts.teacher_output is not None:
        ratios["unlabeled_part_over_pseudo_box"] = ratio_of_medians(seconds, "unlabeled part", "pseudo-box part")
    with FlopCounterMode(display=False) as counter, torch.compiler.set_stance("force_eager"):
        parts.bare()
    found = medians(seconds) | {"data wait": _data_wait(recipe, student_teacher, size, rounds)}
    if device.type == "cuda":
        found["step of several"] = _queued_step(student_teacher, loaded)
    step = found.get("step of several", found["step"])
    peak, source = peak_speed(device, runtime.dtype)
    tflop = counter.get_total_flops() / 1e12
    images_per_second = (size.labeled + size.unlabeled) / step
    megapixels = size.height * size.width * images_per_second / 1e6
    return StepReport(
        precision=runtime.precision,
        seconds=found,
        shares=_shares(found, without={"strong views"} if in_loader else set()),
        ratios=ratios,
        images_per_second=images_per_second,
        megapixels_per_second={"padded": megapixels, "real": megapixels * (1 - size.padding)},
        tflop=tflop,
        mfu=tflop / step / peak,
        peak_tflops=peak,
        peak_source=source,
        peak_gib=peak_gib,
    )


def _work(student_teacher: StudentTeacher, loaded: LoadedStep, parts: StepParts) -> dict[str, Callable[[], object]]:
    """The step, its bare networks and its parts."""
    device = student_teacher.runtime.device
    work: dict[str, Callable[[], object]] = {
        "step": lambda: student_teacher.train_step(loaded),
        "bare": parts.bare,
        "strong views": lambda: with_strong_views(loaded, student_teacher.augment, seed=1, device=device),
        "student": parts.student,
        "teacher": parts.teacher,
        "losses": parts.losses(),
        "clip and optimizer": parts.optimize,
        "EMA": lambda: student_teacher.ema.update(0.99),
    }
    if isinstance(student_teacher.method, MeanTeacher) and parts.teacher_output is not None:
        work["pseudo-label"] = parts.pseudo_label
        work |= {"unlabeled part": parts.unlabeled_part(student_teacher.method)}
        work |= {"pseudo-box part": parts.unlabeled_part(UnbiasedTeacher(box=True, burn_in=0, ramp=0))}
    return work


def _shares(seconds: dict[str, float], without: Collection[str]) -> dict[str, float]:
    whole = seconds["step"] + seconds["data wait"]
    shares = {name: seconds[name] / whole for name in _SHARED if name in seconds and name not in without}
    return shares | {"rest": 1 - sum(shares.values())}


def _queued_step(student_teacher: StudentTeacher, loaded: LoadedStep) -> float:
    """Seconds of a step among several that a GPU is given without waiting in between, as a run does."""
    device = student_teacher.runtime.device
    wait(device)
    start = time.perf_counter()
    for _ in range(_QUEUED_STEPS):
        student_teacher.train_step(loaded)
    wait(device)
    return (time.perf_counter() - start) / _QUEUED_STEPS


def _data_wait(recipe: Recipe, student_teacher: StudentTeacher, size: Size, steps: int) -> float:
    """Median seconds that a step waits for its images, which the recipe's loader makes of JPEG files meanwhile."""
    with TemporaryDirectory() as folder:
        images = made_up_files(Path(folder), max(size.labeled, size.unlabeled))
        weak = WeakView(short_side=(size.height,), max_side=max(size.height, size.width))
        device = student_teacher.runtime.device
        dataset = StepDataset(
            TrainingData(images, images.images),
            student_teacher.data.model_copy(update={"unlabeled_batch": max(1, size.unlabeled)}),
            student_teacher.augment.model_copy(update={"weak": weak}),
            seed=recipe.seed,
            needs_unlabeled=lambda _: size.unlabeled > 0,
        )
        loads = loads_strong_views(device, recipe.runtime.workers)
        loader = step_loader(
            StepsWithStrongViews(dataset) if loads else dataset,
            range(steps + 1),
            workers=recipe.runtime.workers,
            pin_memory=device.type == "cuda",
        )
        seconds, start = [], time.perf_counter()
        for loaded in loader:
            seconds.append(time.perf_counter() - start)
            assert isinstance(loaded, LoadedStep)
            student_teacher.train_step(loaded)
            wait(device)
            start = time.perf_counter()
    return median(seconds[1:])  # the first waits for the workers' start
