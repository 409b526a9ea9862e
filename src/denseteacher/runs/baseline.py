"""The same detector without unlabeled images, trained from a run's own burn-in: what the run is measured against."""

import gc
import math
from collections import Counter

import numpy as np

from denseteacher.data.open import TrainingData, Validation
from denseteacher.data.records import LabeledImages
from denseteacher.errors import InputError
from denseteacher.evaluation.arrays import class_names
from denseteacher.evaluation.gain import BestTeacher, ClassGain, UnlabeledGain, by_falling_gain, write_gain
from denseteacher.evaluation.resampling import resampled_ap
from denseteacher.evaluation.summary import RunEvaluation
from denseteacher.methods import Supervised
from denseteacher.recipes.differences import BURN_IN_MAY_CHANGE, MAY_CHANGE, require_same_recipe
from denseteacher.recipes.schema import Recipe
from denseteacher.runs.build import build_trainer, find_start, finish_run, new_student
from denseteacher.runs.evaluate import read_detections, read_evaluation
from denseteacher.runs.folder import RunFolder
from denseteacher.runs.report import report_run
from denseteacher.runs.tracking import tracked
from denseteacher.training.metrics_log import last_evaluation
from denseteacher.training.runtime import Runtime
from denseteacher.training.trainer import Progress

_RESAMPLES = 1000
_FEWEST, _MOST = 10, 2000
"""Validation images: resampling fewer says nothing, resampling more takes too long for what it would say."""


def check_baseline(recipe: Recipe) -> None:
    """Sees whether a run can have a baseline, before anything is read.

    Raises:
        InputError: If its method has no unlabeled images to leave out, or there is nothing to compare on.
    """
    if recipe.method.burn_in_steps is None:
        raise InputError(
            f"--baseline leaves the unlabeled images out, but method {recipe.method.name!r} has no burn-in after which "
            "they join in: leave --baseline out, or choose another method.name"
        )
    if recipe.data.path("val") is None and recipe.data.builtin is None:
        raise InputError(
            "--baseline compares two detectors on labeled images that neither has seen: give --val PATH, the "
            "annotations of such images"
        )


def is_reported(folder: RunFolder) -> bool:
    """Whether all that a finished run leaves is there: the report comes last."""
    return folder.is_finished and read_evaluation(folder) is not None


def baseline_recipe(recipe: Recipe) -> Recipe:
    """The resolved recipe of a run, for labeled images alone."""
    changes = {
        "method": Supervised(burn_in=recipe.method.burn_in_steps or 0),
        "augment": recipe.augment.model_copy(update={"affine": None}),
        "data": recipe.data.model_copy(update={"hidden_labels": False}),
    }
    return recipe.model_copy(update=changes)


def train_baseline(
    run: RunFolder, recipe: Recipe, data: TrainingData, runtime: Runtime, *, burn_in_from: RunFolder | None = None
) -> tuple[Progress, UnlabeledGain | None]:
    """Trains a finished run's baseline in ``RUN/baseline``, or goes on with it, and compares the two.

    Args:
        run: The run's folder.
        recipe: The run's, resolved.
        data: The run's.
        runtime: The run's devices and processes.
        burn_in_from: The run that the run itself started from, if any.

    Returns:
        How far it came, and in the main process, once it is done, what the unlabeled images were worth.

    Raises:
        InputError: If there is no burn-in to start from, or the validation images are other ones by now.
        RunError: If the disk refuses, or the loss stays non-finite.
    """
    gc.collect()  # the run's networks refer to each other in circles, and the device needs their memory
    folder, own = run.baseline, baseline_recipe(recipe)
    begun, burn_in = folder.has_checkpoint, recipe.method.burn_in_steps
    initial = None if begun or burn_in else find_start(own, ())[1]
    student, _ = new_student(own, data.labeled.categories, initial)
    trainer = build_trainer(own, data, student, runtime, folder)
    if runtime.is_main and not folder.exists:
        folder.describe(own, data.split, data.labeled.categories)
    if begun:
        trainer.resume(lambda other: require_same_recipe(own, other, folder, MAY_CHANGE))
    elif burn_in:
        source = _with_burn_in(run, burn_in_from)
        trainer.start_from(source.burn_in(), lambda other: require_same_recipe(own, other, source, BURN_IN_MAY_CHANGE))
    with tracked(trainer.files.log.trackers, folder):
        progress = trainer.fit([f"baseline: the same detector without unlabeled images, from step {trainer.step:,} on"])
        if progress.stopped_by is not None or not runtime.is_main:
            return progress, None
        if not is_reported(folder):
            finish_run(own, data, trainer, progress, folder)
    gain = measure_gain(run, data)
    write_gain(run.gain, gain)
    report_run(run, recipe, data)
    return progress, gain


def measure_gain(run: RunFolder, data: TrainingData) -> UnlabeledGain:
    """Compares a finished run with its finished baseline.

    Args:
        run: The run's folder.
        data: What both were trained and evaluated on.

    Raises:
        InputError: If they were not evaluated on the same images, or not on any object.
    """
    folders = (run.baseline, run)
    without, with_ = (read_evaluation(folder) for folder in folders)
    assert data.validation is not None
    assert without is not None  # both runs are finished
    assert with_ is not None
    if without.digest != with_.digest:
        raise InputError(
            f"{with_.file} has changed since the run in {run} was evaluated, so its baseline can't be compared: put "
            "the old content back, or start a new run"
        )
    interval = _interval(data.validation, folders)
    return UnlabeledGain(
        labeled=len(data.labeled.images),
        unlabeled=len(data.unlabeled),
        validation=with_.images,
        without=_best(folders[0], without),
        with_=_best(folders[1], with_),
        classes=_class_gains(data.labeled, data.validation, without, with_),
        interval=interval,
        resamples=0 if interval is None else _RESAMPLES,
    )


def _with_burn_in(run: RunFolder, burn_in_from: RunFolder | None) -> RunFolder:
    """The run whose burn-in checkpoint the baseline starts from."""
    if run.has_burn_in:
        return run
    if burn_in_from is None:
        raise InputError(
            f"{run} holds no burn-in checkpoint that its baseline could start from: give the run that it started from "
            "itself with --burn-in-from"
        )
    return burn_in_from


def _best(folder: RunFolder, found: RunEvaluation) -> BestTeacher:
    """A run's detector in numbers."""
    ap, ap50 = found.metrics["AP"], found.metrics["AP50"]
    if ap is None or ap50 is None:
        raise InputError(f"{found.file} has no object that AP could be about: --baseline has nothing to compare on")
    last = last_evaluation(folder.rows())
    return BestTeacher(found.step, ap, ap50, int(last["step"]), last["teacher/AP"])


def _class_gains(
    labeled: LabeledImages, validation: Validation, without: RunEvaluation, with_: RunEvaluation
) -> list[ClassGain]:
    """The classes by falling gain."""
    count = Counter(int(label) for labels in labeled.labels for label in labels)
    ids = {category.id: position for position, category in enumerate(labeled.categories)}
    boxes = {name: count[ids[id_]] for id_, name in class_names(validation.ground_truth).items()}
    before = {one.name: one.scores["AP"] for one in without.classes}
    return by_falling_gain(
        [ClassGain(one.name, boxes[one.name], before[one.name], one.scores["AP"]) for one in with_.classes]
    )


def _interval(validation: Validation, folders: tuple[RunFolder, RunFolder]) -> tuple[float, float] | None:
    """The middle 95 % of the gain in AP over resampled validation images; None where they are too few or many."""
    results = [read_detections(folder) for folder in folders]
    if not _FEWEST <= len(validation.images) <= _MOST or results[0] is None or results[1] is None:
        return None
    without, with_ = resampled_ap(validation.ground_truth, [results[0], results[1]], resamples=_RESAMPLES).T
    low, high = np.nanpercentile(with_ - without, [2.5, 97.5]).tolist()
    return None if math.isnan(low) else (low, high)
