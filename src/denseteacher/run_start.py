"""A run at the step where it begins or goes on: its recipe with nothing left open, its data, its trainer."""

from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from denseteacher.assembly import (
    build_trainer,
    check_same_start,
    check_unlabeled,
    find_start,
    new_student,
    open_runtime,
)
from denseteacher.check import measure_foreground, notes_before_run, with_ratio
from denseteacher.data.sources import TrainingData, open_data
from denseteacher.recipe import Recipe, resolve_auto
from denseteacher.run_folder import describe_run, has_checkpoint, resume_run, start_from_burn_in, with_detector_of
from denseteacher.training.runtime import Runtime
from denseteacher.training.trainer import Trainer
from denseteacher.view_sizes import resolve_sizes


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
    if getattr(config.method, "ratio", None) == "auto":
        config = with_ratio(config, measure_foreground(config, student, data.labeled))
    if runtime.is_main and not resume:
        describe_run(folder, config, data.split, taken)
    trainer = build_trainer(config, data, student, runtime, folder)
    if resume:
        resume_run(trainer, config, folder)
    elif burn_in_from is not None:
        start_from_burn_in(trainer, config, burn_in_from)
    trainer.notes += [*data.notes, *notes]
    return PreparedRun(config, data, runtime, trainer)
