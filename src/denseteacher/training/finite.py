"""Nothing that is not finite is saved, and a run whose steps are mostly skipped ends."""

from collections.abc import Mapping

from denseteacher.data.loading.steps import LoadedStep
from denseteacher.errors import RunError
from denseteacher.files import write_json
from denseteacher.training.run_files import TrainingFiles
from denseteacher.training.schedule import ScheduleConfig
from denseteacher.training.student_teacher import StudentTeacher

_ADVICE = "a smaller optim.lr, optim.clip_norm or a longer optim.warmup_steps helps"


def require_finite(student_teacher: StudentTeacher, files: TrainingFiles) -> None:
    """Sees whether student, teacher, method and optimizer may be saved, in all processes. Waits for the device.

    Raises:
        RunError: If one of them holds NaN or infinity.
    """
    part = student_teacher.nonfinite_part()
    if student_teacher.runtime.all_true(part is None):
        return
    raise RunError(
        f"the {part or 'state of another process'} holds NaN or infinity after step {student_teacher.step}, and is not "
        f"saved: the checkpoints in {files.checkpoints.folder} are from before; {_ADVICE}"
    )


def give_up_if_lost(
    student_teacher: StudentTeacher,
    schedule: ScheduleConfig,
    loaded: LoadedStep,
    values: Mapping[str, float],
    files: TrainingFiles,
) -> None:
    """Ends a run of whose last steps too many were skipped, as their gradients were not finite. Waits for the device.

    Args:
        student_teacher: After the step.
        schedule: How many are too many.
        loaded: The step.
        values: Its losses.
        files: Where to write what they were.

    Raises:
        RunError: If it is lost.
    """
    in_a_row, step = int(student_teacher.nonfinite), student_teacher.step - 1
    if in_a_row >= schedule.max_nonfinite:
        how_many = f"in {in_a_row} steps in a row, the last is step {step}"
    elif float(student_teacher.nonfinite_share) > schedule.max_nonfinite_share:
        how_many = f"in {int(student_teacher.nonfinite_steps)} of {step + 1} steps, most of the last ones"
    else:
        return
    losses = {name: str(value) for name, value in values.items()}
    write_json(files.nonfinite, {"step": step, "losses": losses, "files": loaded.files})
    raise RunError(f"the loss was not finite {how_many}: see {files.nonfinite} for its images and losses; {_ADVICE}")
