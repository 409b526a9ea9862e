"""Training: from a recipe and what was asked for to a finished run folder."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from denseteacher.check import notes_before_run
from denseteacher.data.open import TrainingData, open_data
from denseteacher.data.splits import require_same_data
from denseteacher.errors import InputError, RunError
from denseteacher.evaluation.gain import UnlabeledGain
from denseteacher.hardware import this_machine
from denseteacher.methods import Method
from denseteacher.recipes import resolve
from denseteacher.recipes.differences import BURN_IN_MAY_CHANGE, MAY_CHANGE, require_same_recipe
from denseteacher.recipes.files import keys_by_hand
from denseteacher.recipes.schema import Recipe, load_recipe, with_method
from denseteacher.runs.baseline import check_baseline, is_reported, train_baseline
from denseteacher.runs.build import (
    build_trainer,
    check_same_start,
    check_unlabeled,
    find_start,
    finish_run,
    new_student,
    with_detector_of,
)
from denseteacher.runs.damage import damage_explained
from denseteacher.runs.folder import RunFolder
from denseteacher.runs.folder_choice import choose_folder, goes_on_by_itself, require_free
from denseteacher.runs.monitor import monitored
from denseteacher.runs.owner import FolderLock
from denseteacher.runs.tracking import tracked
from denseteacher.training.launcher import Launch, find_launch
from denseteacher.training.runtime import Runtime
from denseteacher.training.trackers import require_clients
from denseteacher.training.trainer import Trainer


class TrainResult(NamedTuple):
    """What a training run leaves."""

    folder: Path
    step: int
    metrics: dict[str, float]
    """Metrics of the last evaluation: ``teacher/AP``, ``student/AP50``, ..."""
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

    @property
    def detector(self) -> Path:
        """File of the best teacher."""
        return RunFolder(self.folder).detector

    @property
    def report(self) -> Path:
        """The page on the run."""
        return RunFolder(self.folder).report


def train_run(
    recipe: str | Path,
    overrides: list[str],
    output: str | Path | None,
    method: Method | None = None,
    *,
    resume: bool = False,
    burn_in_from: str | Path | None = None,
    baseline: bool = False,
    monitor: bool = False,
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
        monitor: Whether to serve the live view meanwhile.

    Raises:
        InputError: If something asked for is wrong.
        RunError: If the run can't go on.
    """
    config = load_recipe(recipe, overrides)
    config = config if method is None else with_method(config, method)
    launch = find_launch()  # before anything is read: it may say that nothing can work
    require_clients(config.runtime.log)
    if baseline:
        check_baseline(config)
    resume = resume or goes_on_by_itself(output)
    folder = choose_folder(config.name, output, resume=resume)
    by_hand = keys_by_hand("detector", str(recipe), overrides)
    source = None if burn_in_from is None else RunFolder(Path(burn_in_from))
    run = prepare_run(config, by_hand, folder, resume=resume, burn_in_from=source, launch=launch)
    lock, trackers = run.lock, run.trainer.files.log.trackers
    try:
        with monitored(folder, run.notes, enabled=monitor and run.runtime.is_main), tracked(trackers, folder):
            progress = run.trainer.fit(run.notes)
            if run.runtime.is_main and progress.stopped_by is None and not (baseline and is_reported(folder)):
                finish_run(run.recipe, run.data, run.trainer, progress, folder)
            result = TrainResult(folder.path, *progress[:4], run.runtime.is_main)
            config, data, runtime = run[:3]
            del run  # the device has no memory for two trainers
            if not baseline or progress.stopped_by is not None:
                return result
            baseline_progress, gain = train_baseline(folder, config, data, runtime, burn_in_from=source)
        second = TrainResult(folder.baseline.path, *baseline_progress[:4], runtime.is_main)
        return result._replace(stopped_by=second.stopped_by, baseline=second, gain=gain)
    finally:
        lock.release()


class PreparedRun(NamedTuple):
    """What a run is made of."""

    recipe: Recipe
    """The recipe without ``auto`` values."""
    data: TrainingData
    runtime: Runtime
    trainer: Trainer
    notes: list[str]
    """Sentences for the user."""
    lock: FolderLock
    """Lock of the run folder, to be released in the end."""


def prepare_run(
    recipe: Recipe,
    by_hand: Collection[str],
    folder: RunFolder,
    *,
    resume: bool,
    burn_in_from: RunFolder | None,
    launch: Launch | None,
) -> PreparedRun:
    """Opens data and devices, decides what the recipe leaves open, and makes the trainer.

    Args:
        recipe: As it was asked for.
        by_hand: Options of the detector that the user has set.
        folder: The run folder.
        resume: Whether the run in it goes on.
        burn_in_from: The run whose burn-in to start from, if any.
        launch: What started this process beside others, if anything did.

    Raises:
        InputError: If something asked for is wrong.
    """
    data, ratio = open_data(recipe.data), recipe.method.selected_share
    begun = folder if resume else burn_in_from
    if begun is not None:
        with damage_explained(begun.split):
            require_same_data(begun.split, data.split, data.labeled.categories, unlabeled=resume)
    recipe, initial, notes = with_detector_of(recipe, begun, by_hand), None, list[str]()
    if begun is None or (resume and not folder.has_checkpoint):  # nothing else has the weights
        recipe, initial, notes = find_start(recipe, by_hand)
    recipe = resolve(recipe, labeled=data.labeled, unlabeled=len(data.unlabeled), launch=launch, machine=this_machine())
    check_unlabeled(recipe, data)
    runtime = Runtime(recipe.runtime)
    check_same_start(recipe, runtime)
    student, taken = new_student(recipe, data.labeled.categories, initial)
    notes += [] if taken is None else [taken.sentence()]
    notes += notes_before_run(recipe, student, data, ratio) if runtime.is_main and not resume else []
    lock = claim_folder(folder, runtime, resume=resume)
    try:
        if runtime.is_main and not resume:
            folder.describe(recipe, data.split, data.labeled.categories, taken)
        trainer = build_trainer(recipe, data, student, runtime, folder)
        if resume:
            trainer.resume(lambda other: require_same_recipe(recipe, other, folder, MAY_CHANGE))
        elif burn_in_from is not None:
            trainer.start_from(
                burn_in_from.burn_in(),
                lambda other: require_same_recipe(recipe, other, burn_in_from, BURN_IN_MAY_CHANGE),
            )
    except BaseException:
        lock.release()
        raise
    return PreparedRun(recipe, data, runtime, trainer, [*data.notes, *notes], lock)


def claim_folder(folder: RunFolder, runtime: Runtime, *, resume: bool) -> FolderLock:
    """Makes the main process the owner of the run folder.

    Args:
        folder: Of the run.
        runtime: Its processes, which all come here.
        resume: Whether it holds a run.

    Raises:
        InputError: In all processes, if another run is in the folder.
        RunError: If the disk refuses.
    """
    lock, refusal = FolderLock(folder.lock), None
    if runtime.is_main:
        try:
            lock = folder.claim()
            if not resume:
                require_free(folder)  # it may have been another run's a moment ago
        except (InputError, RunError) as error:
            lock.release()
            refusal = error
    if not runtime.all_true(refusal is None):
        raise refusal or InputError(f"the main process can't have {folder}")
    return lock
