"""The objects of a run, built from its recipe, and what a run leaves at its end."""

import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from denseteacher.data.loading.steps import StepDataset
from denseteacher.data.open import TrainingData, Validation
from denseteacher.data.records import Category
from denseteacher.detectors import (
    ComposedConfig,
    DenseDetector,
    DetectorCard,
    DetectorConfig,
    InitialWeights,
    PyramidDetector,
    TakenOver,
    adopt,
    find_initial,
    save_detector,
    take_over,
    with_old_statistics,
    with_options,
)
from denseteacher.errors import InputError, RunError
from denseteacher.evaluation.evaluator import Evaluator
from denseteacher.files import write_bytes, write_text
from denseteacher.recipes.schema import Recipe
from denseteacher.report.previews import begin_previews
from denseteacher.runs.folder import RunFolder
from denseteacher.runs.report import draw_labels, evaluate_run, report_run
from denseteacher.training.evaluations import Callbacks, Evaluate, Preview, first_line
from denseteacher.training.runtime import Runtime
from denseteacher.training.shortages import explain_shortage
from denseteacher.training.student_teacher import StudentTeacher
from denseteacher.training.trainer import Progress, Trainer
from denseteacher.training.unlabeled_sample import UnlabeledSample


def build_steps(recipe: Recipe, data: TrainingData, rank: int = 0, world_size: int = 1) -> StepDataset:
    """The steps of a run, for one of ``world_size`` processes."""
    return StepDataset(
        data,
        recipe.data,
        recipe.augment,
        seed=recipe.seed,
        needs_unlabeled=recipe.method.needs_unlabeled,
        rank=rank,
        world_size=world_size,
    )


def build_evaluator(recipe: Recipe, validation: Validation, categories: Sequence[Category]) -> Evaluator:
    """The evaluator of a run's teacher and student."""
    return Evaluator(
        validation,
        categories,
        view=recipe.evaluation.view,
        batch_size=recipe.evaluation.batch,
        workers=recipe.runtime.workers,
        metrics=recipe.evaluation.metrics,
    )


def check_unlabeled(recipe: Recipe, data: TrainingData) -> None:
    """Sees whether a run has the images that its method needs.

    Raises:
        InputError: If there are none.
    """
    last = int(recipe.schedule.max_steps) - 1
    if not data.unlabeled and recipe.method.needs_unlabeled(last):
        raise InputError(
            f"method {recipe.method.name!r} needs unlabeled images: give --unlabeled PATH, or a data.split that "
            "leaves some, or train with --set method.name=supervised"
        )


def with_detector_of(recipe: Recipe, begun: RunFolder | None, by_hand: Collection[str]) -> Recipe:
    """The recipe with the detector of the run that it goes on from, which may have come from ``detector.init``.

    Args:
        recipe: As it is now.
        begun: The run's folder; None for a run that is new.
        by_hand: The options of the detector that the user has set; they stay, and are compared later.
    """
    if begun is None or not begun.exists:
        return recipe
    stored = begun.recipe_content()["detector"]
    try:
        then: ComposedConfig = TypeAdapter(DetectorConfig).validate_python(with_old_statistics(stored))
    except ValidationError:  # of another version, which the comparison explains
        return recipe
    now = recipe.detector
    kept = {key for key in by_hand if getattr(now, key, None) != "auto"}
    changes = {"init": then.init} if now.init == "auto" else {}
    return recipe.model_copy(update={"detector": with_options(now, then, kept).model_copy(update=changes)})


def find_start(recipe: Recipe, by_hand: Collection[str]) -> tuple[Recipe, InitialWeights | None, list[str]]:
    """What ``detector.init`` names, the recipe with its architecture, and what to tell the user.

    Args:
        recipe: The recipe.
        by_hand: Options of the detector that the user has set.

    Returns:
        The recipe, in which ``init`` is not ``auto`` any more; the detector to start from, None for a new one on the
        backbone's weights; and sentences.

    Raises:
        InputError: If it can't be had or is not a detector, or the user has set an option that contradicts it. With
            ``auto`` the run starts from the backbone's weights then.
    """
    detector = recipe.detector
    if detector.init == "backbone":
        return recipe, None, []
    wanted = detector.model_copy(update={"init": "coco"}) if detector.init == "auto" else detector
    try:
        adopted, initial = adopt(wanted, find_initial(wanted), by_hand)
    except InputError as error:
        if detector.init != "auto":
            raise InputError(f"detector.init: {error}") from error
        begins = "the backbone's pretrained" if detector.pretrained else "random"
        new = detector.model_copy(update={"init": "backbone"})
        note = f"detector.init=auto: starts from {begins} weights, not from a detector, since {error}"
        return recipe.model_copy(update={"detector": new}), None, [note]
    return recipe.model_copy(update={"detector": adopted}), initial, []


def check_same_start(recipe: Recipe, runtime: Runtime) -> None:
    """Sees whether all processes of a run start from the same, which ``detector.init=auto`` may find differently.

    Raises:
        InputError: If they don't.
    """
    new = recipe.detector.init == "backbone"
    if not runtime.all_true(new) and not runtime.all_true(not new):
        raise InputError(
            "detector.init=auto found COCO weights in some of the run's processes alone: set it to coco or backbone"
        )


def new_student(
    recipe: Recipe, categories: Sequence[Category], initial: InitialWeights | None = None
) -> tuple[PyramidDetector, TakenOver | None]:
    """The detector that a run begins with, the same for the same seed in every process.

    Args:
        recipe: Resolved. Where its ``detector.init`` names a detector, the backbone's weights are not asked for.
        categories: The classes.
        initial: What it starts from, if not from the backbone's weights or a checkpoint.

    Returns:
        The detector, and what it has from ``initial``.
    """
    torch.manual_seed(recipe.seed)
    detector = recipe.detector
    built = detector if detector.init == "backbone" else detector.model_copy(update={"pretrained": False})
    student = built.build(len(categories)).to(memory_format=torch.channels_last)
    if initial is None:
        return student, None
    return student, take_over(student, initial, [category.name for category in categories])


def build_trainer(
    recipe: Recipe, data: TrainingData, student: nn.Module, runtime: Runtime, folder: RunFolder
) -> Trainer:
    """The trainer of a run at step 0.

    Args:
        recipe: Resolved: nothing is ``auto``.
        data: What it trains and is evaluated on.
        student: The detector to train.
        runtime: Devices and precision.
        folder: The run folder.
    """
    evaluate_one = None
    if data.validation is not None:
        evaluator = build_evaluator(recipe, data.validation, data.labeled.categories)

        def evaluate_one(detector: DenseDetector) -> dict[str, float]:
            return evaluator(detector, runtime.device)[0].values

    def save_best(teacher: nn.Module, metrics: dict[str, float]) -> None:
        card = _card(recipe, data, "teacher", trainer.step, metrics)
        save_detector(folder.detector, teacher.state_dict(), card)
        if trainer.step <= int(recipe.method.burn_in_steps or 0):
            save_detector(folder.burn_in_detector, teacher.state_dict(), card)  # for runs that start from it

    dataset = build_steps(recipe, data, runtime.rank, runtime.world_size)
    watch = _watch(recipe, dataset, runtime) if data.unlabeled else None
    preview = _preview(recipe, dataset, runtime, folder.previews) if runtime.is_main else None
    student_teacher = StudentTeacher(student, recipe, runtime, unlabeled=len(data.unlabeled))
    trainer = Trainer(
        student_teacher,
        dataset,
        schedule=recipe.schedule,
        workers=recipe.runtime.workers,
        recipe=recipe.model_dump(mode="json"),
        files=folder.training_files(recipe.schedule.keep_checkpoints, folder.trackers(recipe)),
        callbacks=Callbacks(evaluate_one, save_best, preview, watch),
    )
    return trainer


def _preview(recipe: Recipe, dataset: StepDataset, runtime: Runtime, folder: Path) -> Preview | None:
    return begin_previews(folder, dataset, method=recipe.method, device=runtime.device)


def _watch(recipe: Recipe, dataset: StepDataset, runtime: Runtime) -> Evaluate | None:
    """What looks at the pseudo-labels of a method that has such."""
    method, evaluation = recipe.method, recipe.evaluation
    if not method.needs_unlabeled(int(recipe.schedule.max_steps) - 1):
        return None
    sample = UnlabeledSample(
        dataset,
        believed_above=method.believed_above,
        view=evaluation.view,
        batch_size=evaluation.batch,
        device=runtime.device,
    )

    def watch(teacher: DenseDetector) -> dict[str, float]:
        try:
            return sample(teacher)
        except InputError:  # training says which image it is when it comes to it
            return {}

    return watch


def _card(recipe: Recipe, data: TrainingData, role: str, step: int, metrics: Mapping[str, float]) -> DetectorCard:
    trained: dict[str, str | int | float] = {"recipe": recipe.name, "role": role, "step": step}
    if f"{role}/AP" in metrics:
        trained["AP"] = metrics[f"{role}/AP"]
    return DetectorCard(
        detector=recipe.detector,
        categories=tuple((category.id, category.name) for category in data.labeled.categories),
        short_side=recipe.evaluation.view.short_side,
        max_side=recipe.evaluation.view.max_side,
        trained=trained,
    )


def finish_run(recipe: Recipe, data: TrainingData, trainer: Trainer, progress: Progress, folder: RunFolder) -> None:
    """Writes the last teacher and student, the evaluation of the best teacher, and the report.

    Raises:
        RunError: If the evaluation or the report fails, after all else is written.
    """
    student_teacher = trainer.student_teacher
    for role, module, file in (
        ("teacher", student_teacher.ema.module, folder.last_teacher),
        ("student", student_teacher.student_module, folder.last_student),
    ):
        save_detector(file, module.state_dict(), _card(recipe, data, role, progress.step, progress.metrics))
    if not progress.best:  # nothing was evaluated, so the last teacher is the one to use
        write_bytes(folder.detector, folder.last_teacher.read_bytes())
    if progress.evaluation_error is not None:
        raise RunError(_saved_but(folder, progress.evaluation_error))
    try:
        if data.validation is not None:
            evaluator = build_evaluator(recipe, data.validation, data.labeled.categories)
            best_step = int(progress.best.get("step", progress.step))
            evaluate_run(folder, evaluator, file=data.validation.path, step=best_step)
        draw_labels(folder, data.labeled)
        report_run(folder, recipe, data)
    except RunError:
        raise
    except Exception as error:
        write_text(folder.failure, "".join(traceback.format_exception(error)))
        known = str(error) if isinstance(error, InputError) else explain_shortage(error)
        reason = known or f"{type(error).__name__}: {first_line(error)}; see {folder.failure}"
        raise RunError(_saved_but(folder, f"its evaluation or report failed ({reason})")) from error


def _saved_but(folder: RunFolder, what: str) -> str:
    """Says that a run is trained to its end, and what has failed after."""
    return (
        f"the run is trained and its detectors are in {folder}, but {what}; once that is mended, repeat with --resume"
    )
