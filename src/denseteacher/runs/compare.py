"""Finished runs side by side: a table, and a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from denseteacher.data.open import TrainingData, open_data
from denseteacher.errors import InputError
from denseteacher.recipes.differences import MAY_CHANGE, flat_recipe
from denseteacher.runs.folder import RunFolder
from denseteacher.runs.report import FinishedRun, finished_run, report_runs, same_validation, validation_file


class Comparison(NamedTuple):
    """Several runs."""

    runs: list[FinishedRun]
    differences: dict[str, list[str]]
    """Keys of their recipes that differ, with each run's value; without keys that change no result."""
    notes: list[str]
    """What must be known before comparing, in sentences."""


def compare_runs(runs: Sequence[str | Path], *, output: str | Path | None = None) -> Comparison:
    """Compares finished runs; gains are over the first, and pictures show the last.

    Args:
        runs: Their folders.
        output: HTML file to write; none if not given.

    Raises:
        InputError: If there are fewer than two runs, or one is missing, damaged or not finished.
        RunError: If the page can't be written.
    """
    folders = [Path(run) for run in runs]
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise InputError("compare needs two or more different runs: give their folders")
    names = [folder.resolve().name for folder in folders]
    labels = names if len(set(names)) == len(names) else [str(folder) for folder in folders]
    finished = [_finished(RunFolder(folder), label) for folder, label in zip(folders, labels, strict=True)]
    differences, notes = recipe_differences(finished), _notes(finished)
    if output is not None:
        try:
            _write_page(Path(output), finished, differences, notes)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise InputError(
                f"no page can be made of {', '.join(map(str, folders))}: a file in one of them does not fit the others "
                f"({type(error).__name__}: {error})"
            ) from error
    return Comparison(finished, differences, notes)


def recipe_differences(runs: Sequence[FinishedRun]) -> dict[str, list[str]]:
    """Dotted keys whose values differ, with each run's value; a key that a run doesn't have is ``-``."""
    flat = [flat_recipe(run.recipe.model_dump(mode="json"), MAY_CHANGE) for run in runs]
    values = {
        key: [str(one.get(key, "-")) for one in flat] for key in dict.fromkeys(key for one in flat for key in one)
    }
    return {key: texts for key, texts in values.items() if len(set(texts)) > 1}


def _finished(folder: RunFolder, label: str) -> FinishedRun:
    if not folder.exists:
        raise InputError(f"there is no run in {folder}: give the folder of a finished run")
    recipe = folder.recipe()
    if not folder.is_finished:
        done = max((row["step"] for row in folder.rows()), default=0)
        raise InputError(
            f"the run in {folder} is not finished: it has done {done:,} of {recipe.schedule.max_steps:,} steps; "
            f"train on with --resume --output {folder}"
        )
    return finished_run(folder, recipe, label)


def _notes(runs: Sequence[FinishedRun]) -> list[str]:
    if same_validation(runs):
        return []
    files = list(dict.fromkeys(validation_file(run) for run in runs))
    what = f"different data ({', '.join(files)})" if len(files) > 1 else f"{files[0]}, whose content has changed"
    return [f"The runs were evaluated on {what}: their metrics do not compare."]


def _write_page(output: Path, runs: Sequence[FinishedRun], differences: dict[str, list[str]], notes: list[str]) -> None:
    last = runs[-1]
    gains = f"gains are over {runs[0].shown.label}, and " if same_validation(runs) else ""
    data: TrainingData | None = None
    try:
        data = open_data(last.recipe.data)
    except InputError as error:
        notes.append(f"The page has no pictures, since the data of {last.shown.label} can't be read: {error}.")
    report_runs(
        output,
        runs,
        title=f"Comparison of {', '.join(run.shown.label for run in runs)}",
        summary=f"{len(runs)} runs; {gains}pictures show {last.shown.label}.",
        data=data,
        notes=notes,
        differences=differences,
    )
