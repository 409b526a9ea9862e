"""The training step: its parts, and what it costs over the passes of its bare networks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from denseteacher.benchmark.scene import Size, made_up_step, made_up_targets, with_objects
from denseteacher.benchmark.timing import in_turns, medians, peak_memory, peak_speed, ratio_of_medians
from denseteacher.data.loaders import StreamSettings, with_strong_views
from denseteacher.detectors import build_detector
from denseteacher.methods import DenseTeacher, UnbiasedTeacher
from denseteacher.methods.base import concatenate, split_output
from denseteacher.methods.mean_teacher import MeanTeacher
from denseteacher.recipe import Recipe
from denseteacher.structures import DenseOutput, ImageBatch, LossDict, SemiBatch
from denseteacher.training.learner import Learner
from denseteacher.training.optim import clip_gradients
from denseteacher.training.runtime import Runtime


class StepReport(NamedTuple):
    """What was measured of a step."""

    precision: str
    seconds: dict[str, float]
    """Median of the whole step and of its parts, each alone."""
    ratios: dict[str, float]
    images_per_second: float
    """Labeled and unlabeled images, each of which the step sees in two views."""
    tflop: float
    """Counted multiplications and additions of the networks' passes, in units of 1e12."""
    mfu: float
    """Model FLOP utilization: counted over what the device could have done in the step's time."""
    peak_tflops: float
    peak_source: str
    peak_gib: float

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
    runtime = Runtime(recipe.runtime)
    learner = make_learner(recipe, runtime, size, classes)
    loaded = made_up_step(size, classes)
    batch = with_strong_views(loaded, learner.strong, None, seed=1, device=runtime.device)
    parts = _Parts(learner, batch)
    work: dict[str, Callable[[], object]] = {
        "step": lambda: learner.train_step(loaded),
        "bare": parts.bare,
        "strong views": lambda: with_strong_views(loaded, learner.strong, None, seed=1, device=runtime.device),
        "student": parts.student,
        "teacher": parts.teacher,
        "losses": parts.losses,
        "clip and optimizer": parts.optimize,
        "EMA": lambda: learner.teacher.update(0.99),
    }
    if isinstance(learner.method, MeanTeacher):
        work["pseudo-label"] = parts.pseudo_label
        work |= {"unlabeled part": parts.unlabeled_part(learner.method)}
        work |= {"pseudo-box part": parts.unlabeled_part(UnbiasedTeacher(box=True, burn_in=0, ramp=0))}
    seconds = in_turns(work, rounds=rounds, device=runtime.device)
    ratios = {"step_over_bare": ratio_of_medians(seconds, "step", "bare")}
    if isinstance(learner.method, DenseTeacher):
        ratios["unlabeled_part_over_pseudo_box"] = ratio_of_medians(seconds, "unlabeled part", "pseudo-box part")
    with FlopCounterMode(display=False) as counter:
        parts.bare()
    dtype = torch.bfloat16 if runtime.precision == "bf16" else torch.float32
    peak, source = peak_speed(runtime.device, dtype)
    found = medians(seconds)
    tflop = counter.get_total_flops() / 1e12
    return StepReport(
        precision=runtime.precision,
        seconds=found,
        ratios=ratios,
        images_per_second=(size.labeled + size.unlabeled) / found["step"],
        tflop=tflop,
        mfu=tflop / found["step"] / peak,
        peak_tflops=peak,
        peak_source=source,
        peak_gib=peak_memory(runtime.device),
    )


def make_learner(recipe: Recipe, runtime: Runtime, size: Size, classes: int) -> Learner:
    """A learner whose next step has everything: past the burn-in, at full weight, with a teacher that averages."""
    torch.manual_seed(0)
    method = recipe.method
    known: dict[str, Any] = {"burn_in": 0, "ramp": 0} if hasattr(method, "burn_in") else {}
    if getattr(method, "ratio", None) == "auto":
        known["ratio"] = DenseTeacher().ratio
    method = method.model_copy(update=known)
    student = build_detector(recipe.detector, classes).to(memory_format=torch.channels_last)
    learner = Learner(
        student=student,
        method=method,
        strong=recipe.augment.strong,
        affine=None,
        optim=recipe.optim,
        ema=(0.99, 0),
        runtime=runtime,
        settings=StreamSettings(recipe.augment.weak, size.labeled, size.unlabeled, 1, method.needs_unlabeled),
        unlabeled=max(1, size.unlabeled),
        max_steps=10**6,
    )
    learner.step = 1
    return learner


class _Parts:
    """The parts of a step, each on what those before it would have left."""

    def __init__(self, learner: Learner, batch: SemiBatch) -> None:
        self.learner, self.batch = learner, batch
        views = [batch.labeled_weak, batch.labeled_strong]
        if batch.unlabeled_strong is not None:
            views.append(batch.unlabeled_strong)
        self.views = concatenate(*views)
        with torch.no_grad():
            self.output = learner.student(self.views)
            self.guess = None if batch.unlabeled_weak is None else self._guess(batch.unlabeled_weak)
        self.gradients = [torch.randn_like(parameter) * 1e-6 for parameter in learner.parameters]

    def _guess(self, weak: ImageBatch) -> DenseOutput:
        images, _, height, width = weak.pixels.shape
        rng = torch.Generator().manual_seed(1)
        size = Size(0, images, height, width, max(1, self.batch.targets.mask.shape[1]))
        targets = made_up_targets(images, size, self.learner.student.num_classes, rng)
        device = self.learner.runtime.device
        on_device = type(targets)(*(field.to(device) for field in targets))
        return with_objects(self.learner.labeler_view(weak), self.learner.student, on_device)

    def bare(self) -> None:
        self.teacher()
        self.student()

    def student(self) -> None:
        output = self.learner.student(self.views)
        predictions = [output.logits, output.deltas, *([] if output.quality is None else [output.quality])]
        torch.autograd.backward(predictions, [torch.ones_like(one) for one in predictions])
        self.learner.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def teacher(self) -> None:
        if self.batch.unlabeled_weak is not None:
            self.learner.labeler_view(self.batch.unlabeled_weak)

    @torch.no_grad()
    def pseudo_label(self) -> None:
        assert isinstance(self.learner.method, MeanTeacher)
        assert self.guess is not None
        self.learner.method.lesson(self.learner.student, self.guess, self.batch, self.learner.method_state)

    def losses(self) -> None:
        """All losses, forward and backward to the student's predictions."""
        output = _leaf(self.output)
        student = self.learner.student
        labeled, unlabeled = split_output(output, 2 * self.batch.labeled_weak.pixels.shape[0])
        losses = student.supervised_losses(labeled, self.batch.targets)
        if isinstance(self.learner.method, MeanTeacher) and self.guess is not None:
            with torch.no_grad():
                lesson = self.learner.method.lesson(student, self.guess, self.batch, self.learner.method_state)
            losses = losses | {f"unsup/{name}": value for name, value in lesson.losses(unlabeled).items()}
        torch.autograd.backward(_total(losses))

    def unlabeled_part(self, method: MeanTeacher) -> Callable[[], None]:
        """From the teacher's predictions to the gradient of a method's losses on unlabeled images."""

        def run() -> None:
            assert self.guess is not None
            _, unlabeled = split_output(_leaf(self.output), 2 * self.batch.labeled_weak.pixels.shape[0])
            with torch.no_grad():
                lesson = method.lesson(self.learner.student, self.guess, self.batch, self.learner.method_state)
            torch.autograd.backward(_total(lesson.losses(unlabeled)))

        return run

    def optimize(self) -> None:
        for parameter, gradient in zip(self.learner.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        clip_gradients(self.learner.parameters, self.learner.optim)
        self.learner.optimizer.step()
        self.learner.optimizer.zero_grad(set_to_none=True)


def _leaf(output: DenseOutput) -> DenseOutput:
    """The same predictions as the start of a graph."""
    quality = None if output.quality is None else output.quality.detach().requires_grad_()
    return output._replace(
        logits=output.logits.detach().requires_grad_(), deltas=output.deltas.detach().requires_grad_(), quality=quality
    )


def _total(losses: LossDict) -> Tensor:
    return torch.stack(list(losses.values())).sum()
