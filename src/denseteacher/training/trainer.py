"""The training loop."""

import json
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, nullcontext, suppress
from typing import Any, NamedTuple

from denseteacher.data.loading.steps import LoadedStep, StepDataset, step_loader
from denseteacher.data.loading.strong_views import StepsWithStrongViews, loads_strong_views
from denseteacher.data.loading.workers import handover, loader_deaths_awaited, loading
from denseteacher.errors import InputError, RunError
from denseteacher.files import write_bytes
from denseteacher.training.evaluations import Callbacks, Evaluations
from denseteacher.training.finite import require_finite
from denseteacher.training.progress import ProgressDisplay
from denseteacher.training.run_files import BURN_IN, BurnIn, TrainingFiles
from denseteacher.training.schedule import ScheduleConfig
from denseteacher.training.shortages import explain_shortage, let_go
from denseteacher.training.signals import StopRequest
from denseteacher.training.step_reports import StepReports
from denseteacher.training.student_teacher import StudentTeacher

CheckRecipe = Callable[[str], None]
"""Is given the recipe of a checkpoint, as JSON, and raises InputError where the run can't go on with it."""


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
    evaluation_error: str | None
    """Why the evaluation of the last step failed."""


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
        self.recipe, self.files = recipe, files
        self.reports = StepReports(student_teacher, schedule, files, callbacks.preview)
        self.log = self.reports.log
        self.evaluations = Evaluations(student_teacher, files, callbacks)
        self._passed_over: list[str] = []
        self._data_wait = 0.0
        self._saved = -1
        self._lacks_burn_in = False

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
            self._saved = self.step
            has_burn_in = self.step in checkpoints.files(BURN_IN)
            at_its_end = self.step == self.student_teacher.method.burn_in_steps
            self._lacks_burn_in = not self.runtime.all_true(has_burn_in or not at_its_end)
        elif self._passed_over:
            raise InputError(f"no checkpoint in {checkpoints.folder} is whole ({'; '.join(self._passed_over)})")

    def start_from(self, burn_in: BurnIn, check: CheckRecipe) -> None:
        """Starts from the burn-in of another run of the same recipe and seed, whose method may differ.

        Without its best teacher this run would be judged by fewer teachers than the one that did the burn-in.

        Args:
            burn_in: Checkpoint, best teacher and logged rows of that run's burn-in.
            check: Is given the recipe of that run.

        Raises:
            InputError: If the recipe is another one, or the checkpoint is damaged.
            RunError: If the disk refuses.
        """
        state = self.files.checkpoints.load(burn_in.checkpoint)
        check(state["recipe"])
        self._restore(state, source=str(burn_in.checkpoint), same_method=False)
        if burn_in.detector is None:
            self.evaluations.best = {}
        if self.log is None:
            return
        if self.evaluations.best and burn_in.detector is not None:
            write_bytes(self.files.detector, burn_in.detector.read_bytes())
        self.log.truncate(0)  # of a start that came to no checkpoint
        for row in burn_in.rows:
            done_again = self.evaluations.pending and row["step"] == self.step and "teacher/AP" in row
            if row["step"] <= self.step and not done_again:
                self.log.write(row["step"], {name: value for name, value in row.items() if name != "step"})

    def fit(self, notes: Sequence[str] = ()) -> Progress:
        """Trains to the last step, or to the step at which a signal asked to stop.

        Args:
            notes: What the user is told before.

        Raises:
            InputError: If a file of the data can't be read; a run of one process is saved before.
            RunError: If the loss stays non-finite, a checkpoint can't be written, or the machine has too little memory
                or open files; in the last case a run of one process is saved before.
        """
        if self.log is not None:
            self.log.truncate(self.step + 1, evaluated=not self.evaluations.pending)
        with (
            StopRequest() as stop,
            ProgressDisplay("training", self.max_steps, start=self.step, enabled=self.runtime.is_main) as display,
        ):
            begun = self.log.begin() if self.log is not None else []
            for note in (*self._passed_over, *notes, *begun):
                display.message(note)
            try:
                self._train(stop, display)
            except RunError:
                raise
            except Exception as error:
                self._save_after(error)
                raise
            skipped = int(self.student_teacher.nonfinite_steps)
            if skipped:
                display.message(f"{skipped:,} of {self.step:,} steps were skipped, since their loss was not finite")
        done = self.step == self.max_steps and (not self.evaluations.pending or self.evaluations.error is not None)
        name = stop.signal.name if stop.signal is not None else "a signal to another process"
        found = self.evaluations
        return Progress(self.step, found.metrics, found.best, None if done else name, found.error)

    def _train(self, stop: StopRequest, display: ProgressDisplay) -> None:
        """The steps that are left, and what an earlier run has left undone of the last one."""
        if self._lacks_burn_in:
            self._save([BURN_IN])
        if self.evaluations.pending and self._evaluate(stop, display):
            return
        with closing(self._stream()) as stream:
            for loaded in stream:
                if isinstance(loaded, InputError):
                    raise loaded
                self.reports.before_step(display, loaded)
                with self.reports.throughput.step(loaded, self._data_wait):
                    self.student_teacher.train_step(loaded)
                    values = self.reports.values()
                self.reports.after_step(display, loaded, values)
                if self._end_step(stop, display):
                    break

    def _end_step(self, stop: StopRequest, display: ProgressDisplay) -> bool:
        """Saves the step, then evaluates it, each where it is due; says whether to stop."""
        at_end = self.step == self.max_steps
        self.evaluations.begin_step(self.step % self.schedule.evaluate_every == 0 or at_end)
        stopping = self._stops(stop.signal is not None)
        self._save(self._due(stopping))
        return stopping or (self.evaluations.pending and self._evaluate(stop, display))

    def _evaluate(self, stop: StopRequest, display: ProgressDisplay) -> bool:
        """Evaluates the step, and saves what it gave; says whether a request to stop ended it."""
        require_finite(self.student_teacher, self.files)
        stopped = not self.evaluations.do_pending(stop, display.message)
        if stopped and self._saved < self.step:
            self._save(["step"])
        elif not self.evaluations.pending:
            self._save(self._due(False))
        return stopped

    def _due(self, stopping: bool) -> list[str]:
        """Names of the checkpoints to write of this step. That of the burn-in first: no later step can write it."""
        names = [BURN_IN] if self.step == self.student_teacher.method.burn_in_steps else []
        if stopping or self.step % self.schedule.checkpoint_every == 0 or self.step == self.max_steps:
            names.append("step")
        return names

    def _save_after(self, error: Exception) -> None:
        """Saves a run that an error ends, where it can be saved.

        Raises:
            RunError: In place of an error that says what the machine had too little of.
        """
        shortage = explain_shortage(error)
        if shortage is not None:
            let_go(error)
        whole = self.student_teacher.is_whole and self.runtime.world_size == 1  # others are in the middle of a step
        if whole and self.step > self._saved:
            with suppress(Exception):
                self._save(["step"])
        if shortage is not None:
            if self._saved < 0:
                raise RunError(f"after step {self.step} {shortage}; nothing is saved yet") from error
            raise RunError(f"after step {self.step} {shortage}; the run is saved at step {self._saved}") from error

    def _stream(self) -> Generator[LoadedStep | InputError, None, None]:
        """The steps still to do; measures how long each was waited for."""
        if self.step >= self.max_steps:
            return
        loads = loads_strong_views(self.runtime.device, self.workers)
        loader = step_loader(
            StepsWithStrongViews(self.dataset) if loads else self.dataset,
            range(self.step, self.max_steps),
            workers=self.workers,
            pin_memory=self.runtime.device.type == "cuda",
        )
        with loading(loader) as stream, loader_deaths_awaited():
            while True:
                start = time.perf_counter()
                with handover() if self.workers else nullcontext():
                    loaded = next(stream, None)
                self._data_wait = time.perf_counter() - start
                if loaded is None:
                    return
                yield loaded

    def _stops(self, asked: bool) -> bool:
        """Whether to stop. Several processes ask each other at log steps alone: that waits for the device."""
        if self.runtime.world_size == 1:
            return asked
        return self.reports.is_log_step and not self.runtime.all_true(not asked)

    def _save(self, names: Sequence[str]) -> None:
        """Writes checkpoints of this step."""
        if names:
            require_finite(self.student_teacher, self.files)
        for name in names:
            if self.runtime.is_main:
                self.files.checkpoints.save(self.step, self.state(), name=name)
            self.runtime.barrier()
            self._saved = self.step

    def state(self) -> dict[str, Any]:
        """All that a bitwise resume needs."""
        return self.student_teacher.state() | self.evaluations.state() | {"recipe": json.dumps(self.recipe)}

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
        self.evaluations.restore(state)
