"""The training loop."""

import json
import time
from collections.abc import Callable, Generator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import torch
from PIL import Image
from pydantic import Field, PositiveInt, model_validator
from torch import nn

from denseteacher.config import Config
from denseteacher.data.loading.steps import (
    LoadedStep,
    StepDataset,
    StepsWithStrongViews,
    loads_strong_views,
    step_loader,
)
from denseteacher.detectors import DenseDetector
from denseteacher.errors import InputError, RunError
from denseteacher.training.checkpoint import CheckpointFolder
from denseteacher.training.forecast import Forecast
from denseteacher.training.metrics_log import MetricsLog
from denseteacher.training.progress import ProgressDisplay
from denseteacher.training.signals import StopRequest
from denseteacher.training.student_teacher import StudentTeacher
from denseteacher.training.throughput import Throughput

Evaluate = Callable[[DenseDetector], dict[str, float]]
Preview = Callable[[DenseDetector], Image.Image]


class ScheduleConfig(Config):
    """How long, and what happens how often."""

    max_steps: PositiveInt | Literal["auto"] = 180_000
    """Optimizer steps of the run; ``auto`` follows the size of the data (``recipes.resolve``)."""
    least_steps: int = Field(5_000, gt=0)
    """Fewest steps that ``max_steps: auto`` becomes."""
    most_steps: int = Field(90_000, gt=0)
    """Most steps that ``max_steps: auto`` becomes."""
    accumulate: int = Field(1, gt=0)
    """Micro-batches that a step's batch is cut into, for a device that can't hold it whole."""
    evaluate_every: int = Field(2000, gt=0)
    """Steps between evaluations of teacher and student; the last step is evaluated in any case."""
    checkpoint_every: int = Field(2000, gt=0)
    """Steps between checkpoints, from which a stopped run goes on."""
    log_every: int = Field(20, gt=0)
    """Steps between rows of ``metrics.jsonl``; only these wait for the device."""
    preview_every: int = Field(1000, gt=0)
    """Steps between pictures of what the teacher says of a few unlabeled images."""
    keep_checkpoints: int = Field(2, gt=0)
    """Newest checkpoints that are kept."""
    max_nonfinite: int = Field(10, gt=0)
    """Steps in a row whose loss is not finite after which the run gives up, at the next logged one."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.least_steps > self.most_steps:
            raise ValueError(f"least_steps is {self.least_steps}, above most_steps, which is {self.most_steps}")
        return self


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
    """Trains student and teacher to the end of the run: steps, evaluations, checkpoints, logs."""

    def __init__(
        self,
        student_teacher: StudentTeacher,
        dataset: StepDataset,
        *,
        schedule: ScheduleConfig,
        workers: int,
        folder: Path,
        recipe: dict[str, Any],
        evaluate: Evaluate | None = None,
        save_best: Callable[[nn.Module, dict[str, float]], None] | None = None,
        preview: Preview | None = None,
    ) -> None:
        """Sets up a run at the step where student and teacher are.

        Args:
            student_teacher: What is trained.
            dataset: The steps.
            schedule: Lengths and intervals; ``max_steps`` is a number.
            workers: Loader processes.
            folder: The run folder.
            recipe: The resolved recipe, kept in checkpoints and compared on resume.
            evaluate: Gives a detector's metrics; in the main process alone.
            save_best: Told the teacher and its evaluation whenever it is the best so far.
            preview: Draws what a teacher says of unlabeled images; in the main process alone.
        """
        self.student_teacher, self.dataset, self.runtime = student_teacher, dataset, student_teacher.runtime
        self.schedule, self.max_steps, self.workers = schedule, int(schedule.max_steps), workers
        self.folder, self.recipe = folder, recipe
        self.evaluate, self.save_best, self.preview = evaluate, save_best, preview
        self.checkpoints = CheckpointFolder(folder / "checkpoints", keep=schedule.keep_checkpoints)
        self.log = MetricsLog(folder) if self.runtime.is_main else None
        self.best, self.metrics = dict[str, float](), dict[str, float]()
        self.notes: list[str] = []
        self.throughput = Throughput(student_teacher)
        batches = student_teacher.data.labeled_batch, student_teacher.data.unlabeled_batch
        self.forecast = Forecast(
            student_teacher.method, max_steps=self.max_steps, labeled=batches[0], unlabeled=batches[1]
        )
        self._data_wait = 0.0

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.student_teacher.step

    def fit(self) -> Progress:
        """Trains to the last step, or to the step at which a signal asked to stop.

        Raises:
            InputError: If a file of the data can't be read; a run of one process is saved before.
            RunError: If the loss stays non-finite, or a checkpoint can't be written.
        """
        if self.log is not None:
            self.log.truncate(self.step + 1)
        burn_in = self.student_teacher.method.burn_in_steps
        with (
            StopRequest() as stop,
            ProgressDisplay("training", self.max_steps, start=self.step, enabled=self.runtime.is_main) as display,
            closing(self._stream()) as stream,
        ):
            for note in self.notes:
                display.message(note)
            for loaded in stream:
                if isinstance(loaded, InputError):
                    if self.runtime.world_size == 1:  # the others are in the middle of a step, and can't
                        self._save()
                    raise loaded
                with self.throughput.step(loaded, self._data_wait):
                    self.student_teacher.train_step(loaded)
                    values = self._values()
                display.advance(self.step)
                self._tell_duration(display, loaded)
                self._report(display, loaded, values)
                self._show(display)
                if self.step % self.schedule.evaluate_every == 0 or self.step == self.max_steps:
                    self._evaluate(display)
                stopping = self._stops(stop.signal is not None)
                if stopping or self.step % self.schedule.checkpoint_every == 0 or self.step == self.max_steps:
                    self._save()
                if self.step == burn_in:
                    self._save("burn_in")
                if stopping:
                    break
        name = stop.signal.name if stop.signal is not None else "a signal to another process"
        return Progress(self.step, self.metrics, self.best, name if self.step < self.max_steps else None)

    def _stream(self) -> Generator[LoadedStep | InputError, None, None]:
        """The steps still to do; measures how long each was waited for."""
        if self.step >= self.max_steps:
            return
        loads = loads_strong_views(self.runtime.device, self.workers)
        loader = iter(
            step_loader(
                StepsWithStrongViews(self.dataset) if loads else self.dataset,
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

    @property
    def _is_log_step(self) -> bool:
        return self.step % self.schedule.log_every == 0 or self.step == self.max_steps

    def _stops(self, asked: bool) -> bool:
        """Whether to stop. Several processes ask each other at log steps alone: that waits for the device."""
        if self.runtime.world_size == 1:
            return asked
        return self._is_log_step and not self.runtime.all_true(not asked)

    def _values(self) -> dict[str, float]:
        """The step's numbers at every ``log_every``-th step, which waits for the device; else nothing."""
        return {name: float(value) for name, value in self.student_teacher.values.items()} if self._is_log_step else {}

    def _report(self, display: ProgressDisplay, loaded: LoadedStep, values: dict[str, float]) -> None:
        """Writes the numbers of a logged step."""
        if not values:
            return
        self._give_up_if_lost(loaded, values)
        if self.log is not None:
            values |= self.throughput.read()
            display.update(self.step, values)
            self.log.write(self.step, values)

    def _tell_duration(self, display: ProgressDisplay, loaded: LoadedStep) -> None:
        """Says once how long a run on a CPU will take, whose steps are done when they return."""
        if self.runtime.device.type == "cpu" and self.runtime.is_main:
            sentence = self.forecast.after_step(loaded, self.throughput)
            if sentence is not None:
                display.message(sentence)

    def _give_up_if_lost(self, loaded: LoadedStep, values: dict[str, float]) -> None:
        """Ends a run whose gradients have not been finite for too many steps in a row."""
        lost = int(self.student_teacher.nonfinite)
        if lost < self.schedule.max_nonfinite:
            return
        dump = self.folder / "nonfinite.json"
        losses = {name: str(value) for name, value in values.items()}
        dump.write_text(json.dumps({"step": self.step - 1, "losses": losses, "files": loaded.files}, indent=1))
        raise RunError(
            f"the loss was not finite in {lost} steps in a row, the last is step {self.step - 1}: see {dump} "
            "for its images and losses; a smaller optim.lr, optim.clip_norm or a longer optim.warmup_steps helps"
        )

    def _show(self, display: ProgressDisplay) -> None:
        """Draws what the teacher says at every ``preview_every``-th step; a picture that fails ends no run."""
        if self.preview is None or self.log is None or self.step % self.schedule.preview_every:
            return
        try:
            self.log.show(self.step, self.preview(self.student_teacher.pseudo_labeler))
        except OSError as error:
            display.message(f"the preview of step {self.step} can't be written: {error.strerror or error}")

    def _evaluate(self, display: ProgressDisplay) -> None:
        """Evaluates teacher and student, and remembers the best teacher."""
        if self.evaluate is not None and self.runtime.is_main:
            self.metrics = {}
            student = self.student_teacher.student_module.eval()
            for role, view in (
                ("teacher", self.student_teacher.teacher),
                ("student", self.student_teacher.local_student),
            ):
                with torch.no_grad():
                    result = self.evaluate(view)
                self.metrics |= {f"{role}/{name}": value for name, value in result.items()}
            student.train()
            display.message(
                f"step {self.step}: teacher AP {self.metrics['teacher/AP']:.1f}, "
                f"student AP {self.metrics['student/AP']:.1f}"
            )
            if self.log is not None:
                self.log.write(self.step, self.metrics)
            if self.metrics["teacher/AP"] > self.best.get("AP", -1.0):
                self.best = {"step": float(self.step), "AP": self.metrics["teacher/AP"]}
                if self.save_best is not None:
                    self.save_best(self.student_teacher.ema.module, self.metrics)
        self.runtime.barrier()

    def _save(self, name: str = "step") -> None:
        if self.runtime.is_main:
            self.checkpoints.save(self.step, self.state(), name=name)
        self.runtime.barrier()

    def state(self) -> dict[str, Any]:
        """All that a bitwise resume needs."""
        own = {"best": self.best, "metrics": self.metrics, "recipe": json.dumps(self.recipe)}
        return self.student_teacher.state() | own

    def restore(self, state: dict[str, Any], *, source: str, same_method: bool = True) -> None:
        """Continues from a checkpoint.

        Args:
            state: What ``state`` gave.
            source: Where it is from, for messages.
            same_method: False where another method wrote it, whose memory says nothing here.

        Raises:
            InputError: If it holds another architecture.
        """
        self.student_teacher.restore(state, source=source, same_method=same_method)
        self.best, self.metrics = dict(state["best"]), dict(state["metrics"])
