"""Run folders: choosing one, describing the run in it, continuing what another run began."""

import json
import platform
from collections.abc import Collection, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml
from pydantic import TypeAdapter, ValidationError

from denseteacher.data.splits import Split, write_split_ids
from denseteacher.detectors import (
    DetectorConfig,
    PyramidConfig,
    TakenOver,
    with_old_statistics,
    with_options,
)
from denseteacher.errors import InputError
from denseteacher.files import write_bytes, write_json
from denseteacher.recipes.schema import Recipe, dump_recipe, load_recipe
from denseteacher.training.checkpoint import CheckpointFolder
from denseteacher.training.launcher import may_be_restarted
from denseteacher.training.metrics_log import read_metrics
from denseteacher.training.trainer import Trainer

DETECTOR, BURN_IN_DETECTOR = "detector.safetensors", "burn_in_detector.safetensors"
"""The best teacher of a run, and the best one of its burn-in."""
_PACKAGES = ("dense-teacher", "torch", "torchvision", "timm", "lightning-fabric", "numpy")
MAY_CHANGE = (
    "description",
    "runtime.workers",
    "evaluation.batch",
    "evaluation.metrics",
    "schedule.evaluate_every",
    "schedule.checkpoint_every",
    "schedule.log_every",
    "schedule.preview_every",
    "schedule.keep_checkpoints",
)
"""What a continued run may have different: none of it changes a loss."""
BURN_IN_MAY_CHANGE = (*MAY_CHANGE, "name", "method", "augment.affine", "data.hidden_labels")
"""What a run may have different from the one whose burn-in it starts from: none of it matters before its end."""


def choose_folder(name: str, output: str | Path | None, *, resume: bool) -> Path:
    """The folder of a new run, which must be free, or of the one to continue, which must be there.

    Args:
        name: Of the recipe.
        output: What the user asked for; without it ``runs/NAME-1``, ``runs/NAME-2``, ...
        resume: Whether to continue.

    Raises:
        InputError: If the folder is not free, or holds no run to continue.
    """
    if output is not None:
        folder = Path(output)
    else:
        numbers = [int(path.name.removeprefix(f"{name}-")) for path in Path("runs").glob(f"{name}-[0-9]*")]
        newest = max(numbers, default=0)
        folder = Path("runs") / f"{name}-{newest if resume else newest + 1}"
    if resume and not (folder / "recipe.yaml").is_file():
        raise InputError(f"there is no run to resume in {folder}: give its folder with --output")
    if not resume and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(
            f"{folder} is not empty: continue its run with --resume, or choose another --output; nothing was changed"
        )
    return folder


def goes_on_by_itself(output: str | Path | None) -> bool:
    """Whether a run is to be continued unasked: its processes are restarted where one dies, and it has begun.

    Args:
        output: What the user asked for.

    Raises:
        InputError: If a restarted run could not tell which folder is its own.
    """
    if not may_be_restarted():
        return False
    if output is None:
        raise InputError("torchrun or SLURM restarts this run, which must find its folder then: give it with --output")
    return (Path(output) / "recipe.yaml").is_file()


def describe_run(folder: Path, recipe: Recipe, split: Split, start: TakenOver | None = None) -> None:
    """Writes the resolved recipe, the split's image ids with their hash, the environment, and what it starts from."""
    folder.mkdir(parents=True, exist_ok=True)
    write_split_ids(split, folder / "split.json")
    environment = {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "packages": {name: metadata.version(name) for name in _PACKAGES},
    }
    write_json(folder / "environment.json", environment)
    if start is not None:
        write_json(folder / "init.json", {"init": recipe.detector.init, **start._asdict()})
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))  # last: with it the folder holds a run


def folder_of(detector: Path) -> Path:
    """The folder that a detector lies in, or is."""
    return detector if detector.is_dir() else detector.parent


def recipe_of(detector: Path) -> Recipe | None:
    """The recipe of the run that a detector is from; None if it lies in no run folder."""
    file = folder_of(detector) / "recipe.yaml"
    return load_recipe(file) if file.is_file() else None


def with_detector_of(recipe: Recipe, begun: Path | None, by_hand: Collection[str]) -> Recipe:
    """The recipe with the detector of the run that it goes on from, which may have come from ``detector.init``.

    Args:
        recipe: As it is now.
        begun: The run's folder; None for a run that is new.
        by_hand: The options of the detector that the user has set; they stay, and are compared later.
    """
    if begun is None or not (begun / "recipe.yaml").is_file():
        return recipe
    stored = yaml.safe_load((begun / "recipe.yaml").read_text(encoding="utf-8"))["detector"]
    try:
        then: PyramidConfig = TypeAdapter(DetectorConfig).validate_python(with_old_statistics(stored))
    except ValidationError:  # of another version, which the comparison explains
        return recipe
    now = recipe.detector
    kept = {key for key in by_hand if getattr(now, key, None) != "auto"}
    changes = {"init": then.init} if now.init == "auto" else {}
    return recipe.model_copy(update={"detector": with_options(now, then, kept).model_copy(update=changes)})


def has_checkpoint(folder: Path) -> bool:
    """Whether a run has come to its first checkpoint."""
    return bool(CheckpointFolder(folder / "checkpoints").files())


def resume_run(trainer: Trainer, recipe: Recipe, folder: Path) -> None:
    """Continues from the newest valid checkpoint; from the beginning where none was written yet.

    Raises:
        InputError: If the recipe is another one, or all checkpoints are damaged.
    """
    checkpoints = CheckpointFolder(folder / "checkpoints")
    found = checkpoints.load_newest(report=trainer.notes.append)
    if found is None:
        if trainer.notes:
            raise InputError(f"no checkpoint in {checkpoints.folder} is whole ({'; '.join(trainer.notes)})")
        return
    _require_same_recipe(recipe, found["recipe"], str(folder), MAY_CHANGE)
    trainer.restore(found, source=str(folder))


def start_from_burn_in(trainer: Trainer, recipe: Recipe, other: Path) -> None:
    """Starts from the burn-in of another run of the same recipe and seed, whose method may differ.

    Raises:
        InputError: If that run has no burn-in checkpoint, or another recipe.
    """
    checkpoints = CheckpointFolder(other / "checkpoints")
    files = list(checkpoints.files("burn_in").values())
    if not files:
        raise InputError(f"{other} holds no burn-in checkpoint: its method has no burn-in, or it did not get so far")
    state = checkpoints.load(files[-1])
    _require_same_recipe(recipe, state["recipe"], str(other), BURN_IN_MAY_CHANGE)
    trainer.restore(state, source=str(files[-1]), same_method=False)
    trainer.best = _take_best(trainer, other)
    if trainer.log is not None:
        trainer.log.truncate(0)  # of a start that came to no checkpoint
    for row in read_metrics(other / "metrics.jsonl"):
        step = int(row.pop("step"))
        if step <= trainer.step and trainer.log is not None:
            trainer.log.write(step, row)


def _take_best(trainer: Trainer, other: Path) -> dict[str, float]:
    """The best teacher of a burn-in that a run starts from, with its detector file; none where that is not there.

    Without it a run that starts there would be judged by fewer teachers than the one that did the burn-in.
    """
    file = other / BURN_IN_DETECTOR
    if not trainer.best or not file.is_file():
        return {}
    if trainer.log is not None:  # the process that writes
        write_bytes(trainer.folder / DETECTOR, file.read_bytes())
    return trainer.best


def changed_keys(recipe: Recipe, other: Mapping[str, Any], may_change: Sequence[str]) -> list[str]:
    """Dotted keys of a recipe whose values are others in a dumped one.

    Args:
        recipe: As it is now.
        other: As it was written, perhaps by another version.
        may_change: Keys that don't count, and all below them.
    """
    now, then = (flat_recipe(one, may_change) for one in (recipe.model_dump(mode="json"), _with_new_keys(other)))
    return [key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)]


def flat_recipe(content: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    """A dumped recipe as dotted keys and values, but for some keys and all below them."""
    return {
        key: value
        for key, value in _flat(content).items()
        if not any(key == free or key.startswith(f"{free}.") for free in without)
    }


def _with_new_keys(content: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped recipe, perhaps of an older version, with the keys of the detector that it could not say yet."""
    new = {"init": "backbone", "extra_from": "pyramid"}
    detector = new | with_old_statistics(content["detector"])
    return {**content, "detector": {key: list(one) if isinstance(one, tuple) else one for key, one in detector.items()}}


def _require_same_recipe(recipe: Recipe, other: str, source: str, may_change: Sequence[str]) -> None:
    """Refuses to go on with what another recipe began."""
    then = json.loads(other)
    changed = changed_keys(recipe, then, may_change)
    if changed:
        now = flat_recipe(recipe.model_dump(mode="json"))
        raise InputError(
            f"the run in {source} was begun with {changed[0]}={flat_recipe(then).get(changed[0])}, not "
            f"{now.get(changed[0])}{f' (and {len(changed) - 1} more differ)' if changed[1:] else ''}: use the same, or "
            "start a new run"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value  # an empty one is a value too
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
