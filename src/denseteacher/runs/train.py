"""Training: from a recipe and what was asked for to a finished run folder."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from denseteacher.check import notes_before_run
from denseteacher.data.open import TrainingData, open_data
from denseteacher.methods import Method
from denseteacher.recipes.files import keys_by_hand
from denseteacher.recipes.resolve import recipe_foreground, resolve_auto, with_processes, with_ratio
from denseteacher.recipes.schema import Recipe, load_recipe, with_method
from denseteacher.recipes.view_sizes import resolve_sizes
from denseteacher.report.unlabeled_gain import UnlabeledGain
from denseteacher.runs.baseline import check_baseline, is_reported, train_baseline
from denseteacher.runs.build import (
    build_trainer,
    check_same_start,
    check_unlabeled,
    find_start,
    finish_run,
    new_student,
    open_runtime,
)
from denseteacher.runs.folder import (
    choose_folder,
    describe_run,
    goes_on_by_itself,
    has_checkpoint,
    resume_run,
    start_from_burn_in,
    with_detector_of,
)
from denseteacher.runs.report import BASELINE
from denseteacher.training.runtime import Runtime
from denseteacher.training.trainer import Trainer


class TrainResult(NamedTuple):
    """What a training run leaves."""

    folder: Path
    step: int
    metrics: dict[str, float]
    """Of the last evaluation: ``teacher/AP``, ``student/AP50``, ..."""
    best: dict[str, float]
    """``step`` and ``AP`` of the best teacher."""
    stopped_by: str | None
    """Name of the signal that ended the run, or its baseline, early."""
    is_main: bool
    """False in the other processes of a run: they write nothing and know no metrics."""
    baseline: "TrainResult | None" = None
    """The same of the detector without unlabeled images, where one was asked for and begun."""
    gain: UnlabeledGain | None = None
    """What the unlabeled images were worth over that baseline, once it is finished."""


def train_run(
    recipe: str | Path,
    overrides: list[str],
    *,
    output: str | Path | None,
    method: Method | None = None,
    resume: bool = False,
    burn_in_from: Path | None = None,
    baseline: bool = False,
) -> TrainResult:
    """Trains a detector: ``api.train`` with all that it is given as overrides of the recipe.

    Args:
        recipe: Name of a built-in recipe, or path of a YAML file.
        overrides: ``KEY=VALUE`` texts.
        output: The run folder; a new one below ``runs`` if not given.
        method: A method in place of the recipe's.
        resume: Whether the run in the folder goes on.
        burn_in_from: The run whose burn-in to start from, if any.
        baseline: Whether to train the same detector without unlabeled images too.

    Raises:
        InputError: If something asked for is wrong.
        RunError: If the run can't go on.
    """
    config = load_recipe(recipe, overrides)
    config = with_processes(config if method is None else with_method(config, method))
    if baseline:
        check_baseline(config)
    resume = resume or goes_on_by_itself(output)
    folder = choose_folder(config.name, output, resume=resume)
    by_hand = keys_by_hand("detector", str(recipe), overrides)
    run = prepare_run(config, by_hand, folder, resume=resume, burn_in_from=burn_in_from)
    progress = run.trainer.fit()
    if run.runtime.is_main and progress.stopped_by is None and not (baseline and is_reported(folder)):
        finish_run(run.recipe, run.data, run.trainer, progress, folder)
    result = TrainResult(folder, *progress, run.runtime.is_main)
    config, data, runtime = run[:3]
    del run  # the device has no memory for two trainers
    if not baseline or progress.stopped_by is not None:
        return result
    baseline_progress, gain = train_baseline(folder, config, data, runtime, burn_in_from=burn_in_from)
    second = TrainResult(folder / BASELINE, *baseline_progress, runtime.is_main)
    return result._replace(stopped_by=second.stopped_by, baseline=second, gain=gain)


class PreparedRun(NamedTuple):
    """What a run is made of."""

    recipe: Recipe
    """Nothing in it is ``auto``."""
    data: TrainingData
    runtime: Runtime
    trainer: Trainer


def prepare_run(
    recipe: Recipe, by_hand: Collection[str], folder: Path, *, resume: bool, burn_in_from: Path | None
) -> PreparedRun:
    """Opens data and devices, decides what the recipe leaves open, and makes the trainer.

    Args:
        recipe: As it was asked for.
        by_hand: Options of the detector that the user has set.
        folder: The run folder.
        resume: Whether the run in it goes on.
        burn_in_from: The run whose burn-in to start from, if any.

    Raises:
        InputError: If something asked for is wrong.
    """
    data = open_data(recipe.data)
    begun = folder if resume else burn_in_from
    config, initial, notes = with_detector_of(recipe, begun, by_hand), None, list[str]()
    if begun is None or (resume and not has_checkpoint(folder)):  # nothing else has the weights
        config, initial, notes = find_start(config, by_hand)
    config = resolve_auto(config, labeled=len(data.labeled.images), unlabeled=len(data.unlabeled))
    config = resolve_sizes(config, data.labeled)
    check_unlabeled(config, data)
    config, runtime = open_runtime(config)
    check_same_start(config, runtime)
    config, student, taken = new_student(config, data.labeled.categories, initial)
    notes += [] if taken is None else [taken.sentence()]
    notes += notes_before_run(config, student, data) if runtime.is_main and not resume else []
    if config.method.measures_ratio:
        config = with_ratio(config, recipe_foreground(config, student, data.labeled))
    if runtime.is_main and not resume:
        describe_run(folder, config, data.split, taken)
    trainer = build_trainer(config, data, student, runtime, folder)
    if resume:
        resume_run(trainer, config, folder)
    elif burn_in_from is not None:
        start_from_burn_in(trainer, config, burn_in_from)
    trainer.notes += [*data.notes, *notes]
    return PreparedRun(config, data, runtime, trainer)
