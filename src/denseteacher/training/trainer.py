"""The training loop."""

import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import nn

from denseteacher.data.loading.steps import (
    LoadedStep,
    StepDataset,
    StepsWithStrongViews,
    loads_strong_views,
    step_loader,
)
from denseteacher.detectors import DenseDetector
from denseteacher.errors import InputError, RunError
from denseteacher.files import write_bytes, write_json
from denseteacher.training.forecast import Forecast
from denseteacher.training.progress import ProgressDisplay
from denseteacher.training.run_files import BURN_IN, BurnIn, TrainingFiles
from denseteacher.training.schedule import ScheduleConfig
from denseteacher.training.signals import StopRequest
from denseteacher.training.student_teacher import StudentTeacher
from denseteacher.training.throughput import Throughput

Evaluate = Callable[[DenseDetector], dict[str, float]]
Preview = Callable[[DenseDetector], Image.Image]
CheckRecipe = Callable[[str], None]
"""Is given the recipe of a checkpoint, as JSON, and raises InputError where the run can't go on with it."""


class Callbacks(NamedTuple):
    """What a trainer has others do."""

    evaluate: Evaluate | None = None
    """Gives a detector's metrics; called in the main process alone."""
    save_best: Callable[[nn.Module, dict[str, float]], None] | None = None
    """Is given the teacher and its evaluation whenever it is the best so far."""
    preview: Preview | None = None
    """Draws what a teacher says of unlabeled images; called in the main process alone."""


class Progress(NamedTuple):
    """How far a run has come."""

    step: int
    """Optimizer steps done."""
    metrics: dict[str, float]
    """Metrics of the last evaluation: ``teacher/AP``, ``student/AP50``, ..."""
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
        recipe: dict[str, Any],
        files: TrainingFiles,
        callbacks: Callbacks,
    ) -> None:
        """Sets up a run at the step where student and teacher are.

        Args:
            student_teacher: What is trained.
            dataset: The steps.
            schedule: Lengths and intervals; ``max_steps`` is a number.
            workers: Loader processes.
            recipe: The resolved recipe, kept in checkpoints and compared on resume.
            files: What to write.
            callbacks: What others do.
        """
        self.student_teacher, self.dataset, self.runtime = student_teacher, dataset, student_teacher.runtime
        self.schedule, self.max_steps, self.workers = schedule, int(schedule.max_steps), workers
        self.recipe, self.files, self.callbacks = recipe, files, callbacks
        self.log = files.log if self.runtime.is_main else None
        self.best, self.metrics = dict[str, float](), dict[str, float]()
        self._bad_images: set[str] = set()
        self.throughput = Throughput(student_teacher)
        batches = student_teacher.data.labeled_batch, student_teacher.data.unlabeled_batch
        self.forecast = Forecast(
            student_teacher.method, max_steps=self.max_steps, labeled=batches[0], unlabeled=batches[1]
        )
        self._passed_over: list[str] = []
        self._data_wait = 0.0

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.student_teacher.step

    def resume(self, check: CheckRecipe) -> None:
        """Continues from the newest whole checkpoint; from the beginning where none was written yet.

        Args:
            check: Is given the recipe of the checkpoint.

        Raises:
            InputError: If the recipe is another one, or all checkpoints are damaged.
        """
        checkpoints = self.files.checkpoints
        found = checkpoints.load_newest(on_fault=self._passed_over.append)
        if found is not None:
            check(found["recipe"])
            self._restore(found, source=str(checkpoints.folder.parent))
        elif self._passed_over:
            raise InputError(f"no checkpoint in {checkpoints.folder} is whole ({'; '.join(self._passed_over)})")

    def start_from(self, burn_in: BurnIn, check: CheckRecipe) -> None:
        """Starts from the burn-in of another run of the same recipe and seed, whose method may differ.

        Without its best teacher this run would be judged by fewer teachers than the one that did the burn-in.

        Args:
            burn_in: Burn in of that run.
            check: Is given the recipe of that run.

        Raises:
            InputError: If the recipe is another one, or the checkpoint is damaged.
            RunError: If the disk refuses.
        """
        state = self.files.checkpoints.load(burn_in.checkpoint)
        check(state["recipe"])
        self._restore(state, source=str(burn_in.checkpoint), same_method=False)
        if burn_in.detector is None:
            self.best = {}
        if self.log is None:
            return
        if self.best and burn_in.detector is not None:
            write_bytes(self.files.detector, burn_in.detector.read_bytes())
        self.log.truncate(0)  # of a start that came to no checkpoint
        for row in burn_in.rows:
            if row["step"] <= self.step:
                self.log.write(row["step"], {name: value for name, value in row.items() if name != "step"})

    def fit(self, notes: Sequence[str] = ()) -> Progress:
        """Trains to the last step, or to the step at which a signal asked to stop.

        Args:
            notes: What the user is told before.

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
            for note in (*self._passed_over, *notes):
                display.message(note)
            for loaded in stream:
                if isinstance(loaded, InputError):
                    if self.runtime.world_size == 1:  # the others are in the middle of a step, and can't
                        self._save()
                    raise loaded
                self._tell_passed_over(display, loaded)
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
                    self._save(BURN_IN)
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

    def _tell_passed_over(self, display: ProgressDisplay, loaded: LoadedStep) -> None:
        """Says of each image once that another stands in for it."""
        for sentence in loaded.passed_over:
            if sentence not in self._bad_images:
                self._bad_images.add(sentence)
                display.message(f"left out: {sentence} (image {len(self._bad_images):,} of such)")

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
        losses = {name: str(value) for name, value in values.items()}
        write_json(self.files.nonfinite, {"step": self.step - 1, "losses": losses, "files": loaded.files})
        raise RunError(
            f"the loss was not finite in {lost} steps in a row, the last is step {self.step - 1}: see "
            f"{self.files.nonfinite} for its images and losses; a smaller optim.lr, optim.clip_norm or a longer "
            "optim.warmup_steps helps"
        )

    def _show(self, display: ProgressDisplay) -> None:
        """Draws what the teacher says at every ``preview_every``-th step; a picture that fails ends no run."""
        if self.callbacks.preview is None or self.log is None or self.step % self.schedule.preview_every:
            return
        try:
            self.log.show(self.step, self.callbacks.preview(self.student_teacher.pseudo_labeler))
        except OSError as error:
            display.message(f"the preview of step {self.step} can't be written: {error.strerror or error}")

    def _evaluate(self, display: ProgressDisplay) -> None:
        """Evaluates teacher and student, and remembers the best teacher."""
        if self.callbacks.evaluate is not None and self.runtime.is_main:
            self.metrics = {}
            student = self.student_teacher.student_module.eval()
            for role, view in (
                ("teacher", self.student_teacher.teacher),
                ("student", self.student_teacher.local_student),
            ):
                with torch.no_grad():
                    result = self.callbacks.evaluate(view)
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
                if self.callbacks.save_best is not None:
                    self.callbacks.save_best(self.student_teacher.ema.module, self.metrics)
        self.runtime.barrier()

    def _save(self, name: str = "step") -> None:
        if self.runtime.is_main:
            self.files.checkpoints.save(self.step, self.state(), name=name)
        self.runtime.barrier()

    def state(self) -> dict[str, Any]:
        """All that a bitwise resume needs."""
        own = {"best": self.best, "metrics": self.metrics, "recipe": json.dumps(self.recipe)}
        return self.student_teacher.state() | own

    def _restore(self, state: dict[str, Any], *, source: str, same_method: bool = True) -> None:
        """Takes over what a checkpoint holds.

        Args:
            state: What ``state`` gave.
            source: Where it is from, for messages.
            same_method: False where another method wrote it, whose memory says nothing here.

        Raises:
            InputError: If it holds another architecture.
        """
        self.student_teacher.restore(state, source=source, same_method=same_method)
        self.best, self.metrics = dict(state["best"]), dict(state["metrics"])
