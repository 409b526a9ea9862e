"""Runs in a folder that experiments share: what makes a run the same, whether it is done, what it reached."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from denseteacher.errors import InputError
from denseteacher.files import write_json
from denseteacher.recipes.differences import BURN_IN_MAY_CHANGE, MAY_CHANGE, changed_keys, flat_recipe
from denseteacher.recipes.schema import Recipe, load_recipe
from denseteacher.runs.folder import RunFolder
from denseteacher.training.metrics_log import last_evaluation, median_step_seconds

# what a run is called, and where it is computed, doesn't make it another one
_NOT_ITS_OWN = (*MAY_CHANGE, "name", "runtime", "data.root")


class Run(NamedTuple):
    """A run to do, or done."""

    name: str
    """Name of its folder: the method and a hash of the recipe, so that tables share their runs."""
    recipe: Recipe
    label: str
    """Name of the run for the reader."""
    group: str
    """The same for runs whose burn-ins are the same but for their length."""

    @property
    def burn_in(self) -> int | str | None:
        """The burn-in of its method; None on labeled images alone, which goes on from a burn-in of any length."""
        found = self.recipe.method.burn_in_steps
        return found


class RunRecord(NamedTuple):
    """What is known of a finished run."""

    metrics: dict[str, float]
    """Metrics of its last evaluation."""
    seconds: float | None
    """Seconds of all its processes; None where one was not seen to its end."""
    step_seconds: float | None
    """Median over the second half of the run, evaluations left out."""
    burn_in_from: str | None
    """The run whose burn-in it started from."""


def make_run(recipe: Recipe, label: str) -> Run:
    """A run of a recipe."""
    name = f"{recipe.method.name}-{_digest(recipe, _NOT_ITS_OWN)}"
    return Run(name, recipe, label, _digest(recipe, (*_NOT_ITS_OWN, *BURN_IN_MAY_CHANGE)))


def grouped(runs: Iterable[Run]) -> list[Run]:
    """The runs, each once, those that can share a burn-in one after the other."""
    groups: dict[str, dict[str, Run]] = {}
    for run in runs:
        groups.setdefault(run.group, {}).setdefault(run.name, run)
    return [run for group in groups.values() for run in group.values()]


def has_burn_in(run: Run, folder: Path) -> bool:
    """Whether others can start from a run's burn-in."""
    return RunFolder(folder / run.name).has_burn_in


def stored_burn_ins(folder: Path) -> list[Run]:
    """The runs in a folder that others can start from, whichever call trained them."""
    paths = [path for path in sorted(folder.glob("*/")) if RunFolder(path).has_burn_in]
    return [make_run(_as_asked_for(path), path.name)._replace(name=path.name) for path in paths]


def _as_asked_for(path: Path) -> Recipe:
    """The recipe that a run was begun with: what it leaves to data and backbone is decided in that of its folder."""
    asked = asked_file(path)
    return load_recipe(asked) if asked.is_file() else RunFolder(path).recipe()


def is_finished(run: Run, folder: Path) -> bool:
    """Whether a run is done in a folder of runs.

    Raises:
        InputError: If it was done with another recipe, as other defaults of an older version can bring about.
    """
    path = RunFolder(folder / run.name)
    if not path.is_finished:
        return False
    done = path.recipe().model_dump(mode="json")
    now = flat_recipe(run.recipe.model_dump(mode="json"))
    changed = [key for key in changed_keys(run.recipe, done, _NOT_ITS_OWN) if now.get(key) != "auto"]
    if changed:
        raise InputError(
            f"{path} was trained by another version, with {changed[0]}={flat_recipe(done).get(changed[0])}, not "
            f"{now.get(changed[0])}: move it away, or choose another --output"
        )
    return True


def read_record(run: Run, folder: Path) -> RunRecord:
    """What a finished run reached, and how long it took."""
    path = folder / run.name
    rows = RunFolder(path).rows()
    notes = read_notes(path)
    known = [value for value in notes.seconds if value is not None]
    seconds = round(sum(known), 1) if known and len(known) == len(notes.seconds) else None
    return RunRecord(last_evaluation(rows), seconds, median_step_seconds(rows), notes.burn_in_from)


class RunNotes(NamedTuple):
    """What is kept beside a run's folder."""

    burn_in_from: str | None = None
    seconds: tuple[float | None, ...] = ()
    """Seconds of each of its processes, None for one that has not ended."""


def asked_file(path: Path) -> Path:
    """The recipe that the run in a folder is begun with, beside the folder."""
    return path.with_suffix(".yaml")


def log_file(path: Path) -> Path:
    """What the processes of the run in a folder have printed, beside the folder."""
    return path.with_suffix(".log")


def read_notes(path: Path) -> RunNotes:
    """The notes on the run in a folder."""
    file = path.with_suffix(".json")
    return RunNotes(**json.loads(file.read_text())) if file.is_file() else RunNotes()


def write_notes(path: Path, notes: RunNotes) -> None:
    """Keeps them beside the folder."""
    write_json(path.with_suffix(".json"), notes._asdict(), indent=None)


def _digest(recipe: Recipe, without: tuple[str, ...]) -> str:
    """A hash of all that isn't a default, so that an option that comes later leaves it as it is."""
    content = recipe.model_dump(mode="json", exclude_defaults=True)
    for key in ("method", "detector"):  # the name is a default of its own class
        content[key] = content.get(key, {}) | {"name": getattr(recipe, key).name}
    for key in content["detector"].keys() & {"assigner", "coding"}:  # and those of its parts
        content["detector"][key] |= {"name": getattr(recipe.detector, key).name}
    return hashlib.sha256(json.dumps(flat_recipe(content, without), sort_keys=True).encode()).hexdigest()[:10]
