"""What a run tells of its steps: numbers in the log, images left out, how long it will take, previews."""

from denseteacher.data.loading.steps import LoadedStep
from denseteacher.training.evaluations import Preview, first_line
from denseteacher.training.finite import give_up_if_lost
from denseteacher.training.forecast import Forecast
from denseteacher.training.progress import ProgressDisplay
from denseteacher.training.run_files import TrainingFiles
from denseteacher.training.schedule import ScheduleConfig
from denseteacher.training.student_teacher import StudentTeacher
from denseteacher.training.throughput import Throughput


class StepReports:
    """Tells of each step of a run, in its log and on the display."""

    def __init__(
        self,
        student_teacher: StudentTeacher,
        schedule: ScheduleConfig,
        files: TrainingFiles,
        preview: Preview | None,
    ) -> None:
        """Nothing is told yet.

        Args:
            student_teacher: What is trained.
            schedule: Lengths and intervals; ``max_steps`` is a number.
            files: Where it is written.
            preview: Draws what a teacher says of unlabeled images, if that is wanted.
        """
        self.student_teacher, self.runtime = student_teacher, student_teacher.runtime
        self.schedule, self.max_steps = schedule, int(schedule.max_steps)
        self.files, self.preview = files, preview
        self.log = files.log if self.runtime.is_main else None
        """Log of the run; None in other processes than the main one."""
        self.throughput = Throughput(student_teacher)
        batches = student_teacher.data.labeled_batch, student_teacher.data.unlabeled_batch
        self._forecast = Forecast(
            student_teacher.method, max_steps=self.max_steps, labeled=batches[0], unlabeled=batches[1]
        )
        self._bad_images: set[str] = set()

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.student_teacher.step

    @property
    def is_log_step(self) -> bool:
        """Whether the numbers of this step are logged."""
        return self.step % self.schedule.log_every == 0 or self.step == self.max_steps

    def values(self) -> dict[str, float]:
        """The step's numbers at every ``log_every``-th step, which waits for the device; else nothing."""
        if not self.is_log_step:
            return {}
        skipped = int(self.student_teacher.nonfinite_steps)
        values = {name: float(value) for name, value in self.student_teacher.values.items()}
        return values | ({"skipped_steps": float(skipped)} if skipped else {})

    def before_step(self, display: ProgressDisplay, loaded: LoadedStep) -> None:
        """Says of each image of a step, once in a run, that another stands in for it."""
        for sentence in loaded.passed_over:
            if sentence not in self._bad_images:
                self._bad_images.add(sentence)
                display.message(f"left out: {sentence} (image {len(self._bad_images):,} of such)")

    def after_step(self, display: ProgressDisplay, loaded: LoadedStep, values: dict[str, float]) -> None:
        """Shows and logs a step that is done.

        Args:
            display: Where the user sees it.
            loaded: What the step was made of.
            values: What ``values`` gave.

        Raises:
            RunError: If the loss stays non-finite.
        """
        display.advance(self.step)
        self._tell_duration(display, loaded)
        self._report(display, loaded, values)
        self._show(display)

    def _report(self, display: ProgressDisplay, loaded: LoadedStep, values: dict[str, float]) -> None:
        """Writes the numbers of a logged step."""
        if not values:
            return
        give_up_if_lost(self.student_teacher, self.schedule, loaded, values, self.files)
        if self.log is not None:
            values |= self.throughput.read()
            display.update(self.step, values)
            self.log.write(self.step, values)
            for note in self.log.notes():
                display.message(note)

    def _tell_duration(self, display: ProgressDisplay, loaded: LoadedStep) -> None:
        """Says once how long a run on a CPU will take, whose steps are done when they return."""
        if self.runtime.device.type == "cpu" and self.runtime.is_main:
            sentence = self._forecast.after_step(loaded, self.throughput)
            if sentence is not None:
                display.message(sentence)

    def _show(self, display: ProgressDisplay) -> None:
        """Draws what the teacher says at every ``preview_every``-th step; a picture that fails ends no run."""
        if self.preview is None or self.log is None or self.step % self.schedule.preview_every:
            return
        try:
            self.log.show(self.step, self.preview(self.student_teacher.pseudo_labeler))
        except Exception as error:
            display.message(f"the preview of step {self.step} can't be made: {first_line(error)}")
