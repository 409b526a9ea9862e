"""The training loop."""

import json
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

from denseteacher.config import Config
from denseteacher.data.affine import AffineView
from denseteacher.data.loaders import LoadedStep, StepDataset, step_loader, with_strong_views
from denseteacher.data.photometry import StrongView
from denseteacher.detectors import DenseDetector, load_weights
from denseteacher.errors import InputError, RunError
from denseteacher.methods import Method
from denseteacher.structures import MethodState
from denseteacher.training.accumulation import split_batch
from denseteacher.training.checkpoint import CheckpointFolder
from denseteacher.training.logging import MetricsLog, ProgressDisplay
from denseteacher.training.optim import (
    OptimConfig,
    build_optimizer,
    clip_gradients,
    learning_rate,
    set_rate,
)
from denseteacher.training.runtime import Runtime
from denseteacher.training.signals import StopRequest
from denseteacher.training.teacher import Teacher, ema_decay

Evaluate = Callable[[DenseDetector], dict[str, float]]
Preview = Callable[[DenseDetector], Image.Image]


class ScheduleConfig(Config):
    """How long, and what happens how often."""

    max_steps: int | Literal["auto"] = 180_000
    accumulate: int = Field(1, gt=0)
    """Parts that a step's batch is cut into, for a device that can't hold it whole."""
    evaluate_every: int = Field(2000, gt=0)
    checkpoint_every: int = Field(2000, gt=0)
    log_every: int = Field(20, gt=0)
    preview_every: int = Field(1000, gt=0)
    """Steps between pictures of what the teacher says of a few unlabeled images."""
    keep_checkpoints: int = Field(2, gt=0)
    max_nonfinite: int = Field(10, gt=0)
    """Steps in a row whose loss is not finite after which the run gives up."""


class Progress(NamedTuple):
    """How far a run has come."""

    step: int
    """Optimizer steps done."""
    metrics: dict[str, float]
    """Of the last evaluation: ``teacher/AP``, ``student/AP50``, ..."""
    best: dict[str, float]
    """``step`` and ``AP`` of the best teacher so far; empty before the first evaluation."""
    stopped_by: str | None
    """Name of the signal that stopped the run before its end."""


class Trainer:
    """Trains a student and its teacher; everything it decides by chance is a function of seed and step."""

    def __init__(
        self,
        *,
        student: nn.Module,
        method: Method,
        strong: StrongView,
        affine: AffineView | None = None,
        dataset: StepDataset,
        schedule: ScheduleConfig,
        optim: OptimConfig,
        ema: tuple[float, int],
        runtime: Runtime,
        workers: int,
        folder: Path,
        recipe: dict[str, Any],
        evaluate: Evaluate | None = None,
        save_best: Callable[[nn.Module, dict[str, float]], None] | None = None,
        preview: Preview | None = None,
    ) -> None:
        """Sets up a run at step 0.

        Args:
            student: The detector to train.
            method: What the losses are.
            strong: The strong view.
            affine: Geometry of the strong view of unlabeled images.
            dataset: The steps.
            schedule: Lengths and intervals; ``max_steps`` is a number.
            optim: Optimizer.
            ema: Decay and start of the teacher.
            runtime: Devices and precision.
            workers: Loader processes.
            folder: The run folder.
            recipe: The resolved recipe, kept in checkpoints and compared on resume.
            evaluate: Gives a detector's metrics; in the main process alone.
            save_best: Told the teacher and its evaluation whenever it is the best so far.
            preview: Draws what a teacher says of unlabeled images; in the main process alone.
        """
        self.method, self.strong, self.affine, self.dataset = method, strong, affine, dataset
        self.schedule, self.max_steps, self.optim, self.runtime = schedule, int(schedule.max_steps), optim, runtime
        self.workers, self.folder, self.recipe = workers, folder, recipe
        self.evaluate, self.save_best, self.preview = evaluate, save_best, preview
        self.ema_decay, self.ema_start = ema
        self.student_module = student.train()
        self.optimizer = build_optimizer(student, optim)
        self.student, self._stepper = runtime.setup(student, self.optimizer)
        self.teacher = Teacher(student)
        self.teacher_view = runtime.local_view(self.teacher.module)
        # who labels unlabeled images: the teacher, or what it was at the end of the burn-in
        self.labeler = Teacher(self.teacher.module) if method.static_teacher else self.teacher
        self.labeler_view = runtime.local_view(self.labeler.module)
        self.method_state = self._fresh_state()
        self.student_view = runtime.local_view(student)
        self.parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self._buffers = [buffer for buffer in student.buffers() if buffer.is_floating_point()]
        self.checkpoints = CheckpointFolder(folder / "checkpoints", keep=schedule.keep_checkpoints)
        self.log = MetricsLog(folder) if runtime.is_main else None
        self.step, self.nonfinite = 0, 0
        self.best, self.metrics = dict[str, float](), dict[str, float]()
        self.notes: list[str] = []
        self._step_values: dict[str, Tensor] = {}
        self._data_wait, self._seconds = 0.0, list[float]()

    def _fresh_state(self) -> MethodState:
        state = self.method.initial_state(classes=self.student.num_classes, unlabeled=len(self.dataset.unlabeled))
        return {name: value.to(self.runtime.device) for name, value in state.items()}

    def fit(self) -> Progress:
        """Trains to the last step, or to the step at which a signal asked to stop.

        Raises:
            InputError: If a file of the data can't be read; the run is saved before.
            RunError: If the loss stays non-finite, or a checkpoint can't be written.
        """
        if self.log is not None:
            self.log.truncate(self.step + 1)
        burn_in = getattr(self.method, "burn_in", None)
        with (
            StopRequest() as stop,
            ProgressDisplay("training", self.max_steps, start=self.step, enabled=self.runtime.is_main) as display,
            closing(self._stream()) as stream,
        ):
            for note in self.notes:
                display.message(note)
            for loaded in stream:
                if isinstance(loaded, InputError):
                    self._save()
                    raise loaded
                start = time.perf_counter()
                self._train_step(loaded)
                self._seconds.append(self._data_wait + time.perf_counter() - start)
                self._report(display)
                self._show(display)
                if self.step % self.schedule.evaluate_every == 0 or self.step == self.max_steps:
                    self._evaluate(display)
                stopping = not self.runtime.all_true(stop.signal is None)
                if stopping or self.step % self.schedule.checkpoint_every == 0 or self.step == self.max_steps:
                    self._save()
                if self.step == burn_in:
                    self._save("burn_in")
                if stopping:
                    break
        name = stop.signal.name if stop.signal is not None and self.step < self.max_steps else None
        return Progress(self.step, self.metrics, self.best, name)

    def _stream(self) -> Generator[LoadedStep | InputError, None, None]:
        """The steps still to do; measures how long each was waited for."""
        if self.step >= self.max_steps:
            return
        loader = iter(
            step_loader(
                self.dataset,
                range(self.step, self.max_steps),
                workers=self.workers,
                pin_memory=self.runtime.device.type == "cuda",
            )
        )
        while True:
            start = time.perf_counter()
            loaded = next(loader, None)
            self._data_wait = time.perf_counter() - start
            if loaded is None:
                return
            yield loaded

    def _train_step(self, loaded: LoadedStep) -> None:
        """One optimizer step and one EMA update, or neither where the loss is not finite."""
        rate = learning_rate(
            self.optim,
            self.step,
            max_steps=self.max_steps,
            labeled_batch=self.dataset.settings.labeled_batch,
        )
        set_rate(self.optimizer, rate)
        batch = with_strong_views(
            loaded, self.strong, self.affine, seed=self.dataset.settings.seed, device=self.runtime.device
        )
        saved = [buffer.clone() for buffer in self._buffers]
        values: dict[str, Tensor] = {}
        state = self.method_state
        parts = split_batch(batch, self.schedule.accumulate)
        for number, part in enumerate(parts):
            with self.runtime.accumulating(self.student, more_to_come=number + 1 < len(parts)):
                losses, metrics, remembered = self.method.losses(
                    self.student, self.labeler_view, part, self.step, state
                )
                total = torch.stack(list(losses.values())).sum() / len(parts)
                self.runtime.backward(total)
            state = state if remembered is None else remembered
            for name, value in (losses | metrics | {"loss": total * len(parts)}).items():
                values[name] = values.get(name, 0.0) + value.detach() / len(parts)
        norm = clip_gradients(self.parameters, self.optim)
        if self.runtime.all_true(torch.isfinite(norm) & torch.isfinite(values["loss"])):
            self._stepper.step()
            self.teacher.update(ema_decay(self.step, decay=self.ema_decay, start=self.ema_start))
            if self.labeler is not self.teacher and not self.method.needs_unlabeled(self.step):
                self.labeler.copy()
            self.method_state = state
            self.nonfinite = 0
        else:
            self._skip_step(saved, loaded, values)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._step_values = values | {"gradient_norm": norm, "lr": torch.tensor(rate)}

    def _skip_step(self, buffers: list[Tensor], loaded: LoadedStep, values: dict[str, Tensor]) -> None:
        """Leaves student and teacher as they were before the step; gives up after too many in a row."""
        for buffer, before in zip(self._buffers, buffers, strict=True):
            buffer.copy_(before)
        self.nonfinite += 1
        if self.nonfinite < self.schedule.max_nonfinite:
            return
        dump = self.folder / "nonfinite.json"
        content = {
            "step": self.step,
            "losses": {name: str(float(value)) for name, value in values.items()},
            "files": loaded.files,
        }
        dump.write_text(json.dumps(content, indent=1))
        raise RunError(
            f"the loss was not finite in {self.nonfinite} steps in a row, the last is step {self.step}: see {dump} "
            "for its images and losses; a smaller optim.lr, optim.clip_norm or a longer optim.warmup_steps helps"
        )

    def _report(self, display: ProgressDisplay) -> None:
        """Writes the step's numbers at every ``log_every``-th step; only then waits for the device."""
        if self.step % self.schedule.log_every and self.step != self.max_steps:
            return
        values = {name: float(value) for name, value in self._step_values.items()}
        values["data_wait"] = self._data_wait
        values["step_seconds"] = sum(self._seconds) / len(self._seconds)  # each step waits for its device
        self._seconds.clear()
        display.update(self.step, values)
        if self.log is not None:
            self.log.write(self.step, values)

    def _show(self, display: ProgressDisplay) -> None:
        """Draws what the teacher says at every ``preview_every``-th step; a picture that fails ends no run."""
        if self.preview is None or self.log is None or self.step % self.schedule.preview_every:
            return
        try:
            self.log.show(self.step, self.preview(self.labeler_view))
        except OSError as error:
            display.message(f"the preview of step {self.step} can't be written: {error.strerror or error}")

    def _evaluate(self, display: ProgressDisplay) -> None:
        """Evaluates teacher and student, and remembers the best teacher."""
        if self.evaluate is not None and self.runtime.is_main:
            self.metrics = {}
            for role, module in (("teacher", self.teacher.module), ("student", self.student_module)):
                module.eval()
                with torch.no_grad():
                    result = self.evaluate(self.teacher_view if role == "teacher" else self.student_view)
                self.metrics |= {f"{role}/{name}": value for name, value in result.items()}
            self.student_module.train()
            display.message(
                f"step {self.step}: teacher AP {self.metrics['teacher/AP']:.1f}, "
                f"student AP {self.metrics['student/AP']:.1f}"
            )
            if self.log is not None:
                self.log.write(self.step, self.metrics)
            if self.metrics["teacher/AP"] > self.best.get("AP", -1.0):
                self.best = {"step": float(self.step), "AP": self.metrics["teacher/AP"]}
                if self.save_best is not None:
                    self.save_best(self.teacher.module, self.metrics)
        self.runtime.barrier()

    def _save(self, name: str = "step") -> None:
        if self.runtime.is_main:
            self.checkpoints.save(self.step, self.state(), name=name)
        self.runtime.barrier()

    def state(self) -> dict[str, Any]:
        """All that a bitwise resume needs."""
        return {
            "step": self.step,
            "student": self.student_module.state_dict(),
            "teacher": self.teacher.module.state_dict(),
            "labeler": None if self.labeler is self.teacher else self.labeler.module.state_dict(),
            "method": self.method_state,
            "optimizer": self.optimizer.state_dict(),
            "nonfinite": self.nonfinite,
            "best": self.best,
            "metrics": self.metrics,
            "recipe": json.dumps(self.recipe),
        }

    def restore(self, state: dict[str, Any], *, source: str, same_method: bool = True) -> None:
        """Continues from a checkpoint.

        Args:
            state: What ``state`` gave.
            source: Where it is from, for messages.
            same_method: False where another method wrote it, whose memory says nothing here.

        Raises:
            InputError: If it holds another architecture.
        """
        load_weights(self.student_module, state["student"], source=source)
        load_weights(self.teacher.module, state["teacher"], source=source)
        if self.labeler is not self.teacher:
            self.labeler.copy()
            if same_method:
                load_weights(self.labeler.module, state["labeler"], source=source)
        if same_method:
            self.method_state = {name: value.to(self.runtime.device) for name, value in state["method"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.nonfinite = state["step"], state["nonfinite"]
        self.best, self.metrics = dict(state["best"]), dict(state["metrics"])
