"""The evaluations of a run while it trains: each after the step is saved, and none that ends the run."""

import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import nn

from denseteacher.detectors import DenseDetector
from denseteacher.errors import InputError
from denseteacher.files import write_text
from denseteacher.training.health import health_notes, summary
from denseteacher.training.metrics_log import read_metrics
from denseteacher.training.run_files import TrainingFiles
from denseteacher.training.shortages import explain_shortage
from denseteacher.training.signals import Stopped, StopRequest
from denseteacher.training.student_teacher import StudentTeacher

Evaluate = Callable[[DenseDetector], dict[str, float]]
Preview = Callable[[DenseDetector], Image.Image]


class Callbacks(NamedTuple):
    """What a trainer has others do."""

    evaluate: Evaluate | None = None
    """Gives a detector's metrics; called in the main process alone. A request to stop may end it anywhere."""
    save_best: Callable[[nn.Module, dict[str, float]], None] | None = None
    """Is given the teacher and its evaluation whenever it is the best so far."""
    preview: Preview | None = None
    """Draws what a teacher says of unlabeled images; called in the main process alone."""
    watch: Evaluate | None = None
    """Gives numbers on what labels the unlabeled images, for ``health_notes``; called as ``evaluate`` is."""


class Evaluations:
    """Evaluates teacher and student, and remembers the best teacher.

    A step is saved before it is evaluated, with the word that its evaluation is pending: whatever ends the run
    meanwhile, a resumed one evaluates that step first.
    """

    def __init__(self, student_teacher: StudentTeacher, files: TrainingFiles, callbacks: Callbacks) -> None:
        """Nothing is evaluated yet.

        Args:
            student_teacher: What is evaluated.
            files: Where it is written.
            callbacks: Who does it.
        """
        self.student_teacher, self.runtime = student_teacher, student_teacher.runtime
        self.files, self.callbacks = files, callbacks
        self.metrics: dict[str, float] = {}
        """Metrics of the last evaluation: ``teacher/AP``, ``student/AP50``, ...; empty where it failed."""
        self.best: dict[str, float] = {}
        """``step`` and ``AP`` of the best teacher so far."""
        self.pending = False
        """Whether the step that student and teacher are at is still to be evaluated."""
        self.error: str | None = None
        """Why the evaluation of this step failed."""

    def begin_step(self, due: bool) -> None:
        """Says that student and teacher are at another step.

        Args:
            due: Whether it is to be evaluated.
        """
        self.pending, self.error = due and self.callbacks.evaluate is not None, None

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of them."""
        return {"best": self.best, "metrics": self.metrics, "pending": self.pending}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues from what ``state`` gave, perhaps in a version that evaluated before it saved."""
        self.best, self.metrics = dict(state["best"]), dict(state["metrics"])
        self.begin_step(bool(state.get("pending", False)))

    def do_pending(self, stop: StopRequest, tell: Callable[[str], None]) -> bool:
        """Evaluates the step, in the main process, while the others wait.

        An evaluation that fails is said in a sentence, and stays pending.

        Args:
            stop: A request to stop is followed at once.
            tell: Is given sentences for the user.

        Returns:
            False where a request to stop ended it.

        Raises:
            RunError: If the disk refuses.
        """
        done = True
        if self.runtime.is_main:
            try:
                with stop.interrupting():
                    metrics = self._measure()
            except Stopped:
                done = False
            except Exception as error:
                self.metrics, self.error = {}, self._explained(error)
                tell(f"step {self.student_teacher.step}: {self.error}; training is not affected")
            else:
                self._remember(metrics, tell)
        self.pending = not self.runtime.all_true(not (self.pending and self.runtime.is_main))
        return self.runtime.all_true(done)

    def _measure(self) -> dict[str, float]:
        assert self.callbacks.evaluate is not None
        metrics = dict[str, float]()
        student = self.student_teacher.student_module.eval()
        views = {"teacher": self.student_teacher.teacher, "student": self.student_teacher.local_student}
        try:
            for role, view in views.items():
                with torch.no_grad():
                    result = self.callbacks.evaluate(view)
                metrics |= {f"{role}/{name}": value for name, value in result.items()}
            if self.callbacks.watch is not None:
                metrics |= self.callbacks.watch(self.student_teacher.pseudo_labeler)
        finally:
            student.train()
        return metrics

    def _explained(self, error: Exception) -> str:
        """Why an evaluation failed; what nobody foresaw leaves its traceback in a file."""
        known = str(error) if isinstance(error, InputError) else explain_shortage(error)
        if known is None:
            write_text(self.files.failure, "".join(traceback.format_exception(error)))
            known = f"{type(error).__name__}: {first_line(error)}; see {self.files.failure}"
        return f"the evaluation failed ({known})"

    def _remember(self, metrics: dict[str, float], tell: Callable[[str], None]) -> None:
        step = self.student_teacher.step
        tell(f"step {step}: teacher AP {metrics['teacher/AP']:.1f}, student AP {metrics['student/AP']:.1f}")
        self.files.log.write(step, metrics)
        if self.callbacks.watch is not None:
            burn_in = self.student_teacher.method.burn_in_steps
            notes = health_notes(read_metrics(self.files.log.path), burn_in=None if burn_in is None else int(burn_in))
            for line in summary(notes):
                tell(line)
        if metrics["teacher/AP"] > self.best.get("AP", -1.0):
            if self.callbacks.save_best is not None:
                self.callbacks.save_best(self.student_teacher.ema.module, metrics)
            self.best = {"step": float(step), "AP": metrics["teacher/AP"]}
        self.metrics, self.pending = metrics, False


def first_line(error: BaseException) -> str:
    """The first line of an error's message, which may go on for many."""
    return next(iter(str(error).splitlines()), "no message")[:300]
