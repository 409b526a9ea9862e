"""Reproducing an experiment: which runs it needs, training those that are missing, and its table."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.errors import InputError
from denseteacher.experiments.plan import Run, grouped, is_finished, make_run, read_record
from denseteacher.experiments.queue import RunQueue
from denseteacher.experiments.schema import (
    DATA_OF,
    FOLDS,
    Cell,
    Experiment,
    ProfileName,
    Row,
    Variation,
    cells,
    load_experiment,
)
from denseteacher.experiments.table import STUDENT, Gain, Spread, Table, TableCell, write_table
from denseteacher.files import refusal_explained

OUTPUT = Path("runs/reproduced")


class Plan(NamedTuple):
    """An experiment's cells, each with the runs of its folds, and the runs to do."""

    experiment: Experiment
    folds: tuple[int, ...]
    cells: list[tuple[Cell, list[Run]]]
    runs: list[Run]
    """Runs of the chosen rows and this shard; those that share a burn-in follow one another."""


class ReproduceResult(NamedTuple):
    """What a call of ``reproduce`` leaves."""

    table: Table
    """Table of the runs that are finished, whenever they were trained."""
    files: dict[str, Path]
    """The table as ``md``, ``json`` and ``png``."""
    failures: dict[str, str]
    """A sentence for each run that failed, by its name."""
    stopped_by: str | None
    """Name of the signal that ended the call early."""


def reproduce(
    experiment: str | Path,
    *,
    root: str | Path | None = None,
    profile: ProfileName = "paper",
    folds: Sequence[int] | None = None,
    output: str | Path = OUTPUT,
    shard: tuple[int, int] | None = None,
    jobs: int = 1,
    rows: Sequence[str] = (),
    overrides: Sequence[str] = (),
    on_event: Callable[[str], None] = print,
) -> ReproduceResult:
    """Trains the runs of an experiment that aren't finished yet, and writes its table from those that are.

    Args:
        experiment: Name of a built-in experiment, or path of a YAML file.
        root: Folder of the data set that the experiment's recipes name files of, in its published layout.
        profile: ``paper``; ``digits`` for the built-in benchmark; ``masks`` or ``bccd`` for two small sets of
            photographs, which ``root`` is the folder of.
        folds: Each is a split and a seed, the same in every row; the profile's own if not given.
        output: Folder for the tables, and for the runs, which experiments share. For one data set.
        shard: (i, n) trains the i-th of n parts of the runs.
        jobs: Runs at a time.
        rows: Trains only the rows with these labels, or whose labels contain one of these texts; the table has all.
        overrides: Recipe keys for all rows, ``KEY=VALUE``.
        on_event: Called with a sentence whenever a run begins or ends.

    Raises:
        InputError: If something given is wrong.
        RunError: If the disk refuses.
    """
    plan = make_plan(experiment, root=root, profile=profile, folds=folds, shard=shard, rows=rows, overrides=overrides)
    queue = RunQueue(Path(output) / "runs", jobs=jobs, on_event=on_event)
    missing = [run for run in plan.runs if not is_finished(run, queue.folder)]
    if missing:
        _require_data(missing)
        on_event(f"{len(plan.runs)} runs, {len(plan.runs) - len(missing)} of them finished before")
    with refusal_explained(Path(output)):
        stopped_by = None
        if missing:
            one_thread = jobs > 1 or profile != "paper"
            stopped_by = queue.train(_on_one_thread(plan.runs, overrides) if one_thread else plan.runs)
        table = _table(plan, profile, queue.folder)
        return ReproduceResult(table, write_table(Path(output), table), queue.failures, stopped_by)


def make_plan(
    experiment: str | Path,
    *,
    root: str | Path | None = None,
    profile: ProfileName = "paper",
    folds: Sequence[int] | None = None,
    shard: tuple[int, int] | None = None,
    rows: Sequence[str] = (),
    overrides: Sequence[str] = (),
) -> Plan:
    """Resolves the recipe of every run; see ``reproduce``."""
    loaded = load_experiment(experiment)
    numbers = tuple(folds or loaded.profile(profile).folds or FOLDS[profile])
    place = [] if root is None else [f"data.root={json.dumps(str(Path(root).absolute()))}"]
    needed = [
        (cell, [make_run(cell.recipe_of(fold), _label(cell, fold)) for fold in numbers])
        for cell in cells(loaded, profile, [*place, *overrides])
    ]
    labels = list(dict.fromkeys(cell.row.label for cell, _ in needed))
    wanted = {label for text in rows or labels for label in _matching(labels, text)}
    unknown = next((text for text in rows if not _matching(labels, text)), None)
    if unknown is not None:
        raise InputError(f"{loaded.name} has no row with {unknown!r}; its rows are {', '.join(labels)}")
    chosen = [runs for cell, runs in needed if cell.row.label in wanted]
    fold_by_fold = [run for of_one_fold in zip(*chosen, strict=True) for run in of_one_fold]
    return Plan(loaded, numbers, needed, _part(grouped(fold_by_fold), shard or (1, 1)))


def _matching(labels: Sequence[str], text: str) -> list[str]:
    """The label that a text is, or else those that it is a part of."""
    whole = [label for label in labels if text.lower() == label.lower()]
    return whole or [label for label in labels if text.lower() in label.lower()]


def _label(cell: Cell, fold: int) -> str:
    return f"{cell.row.label}{'' if cell.column is None else f', {cell.column.label}'}, fold {fold}"


def _part(runs: list[Run], shard: tuple[int, int]) -> list[Run]:
    """The i-th of n parts of equal length; a burn-in is shared within a part."""
    number, parts = shard
    if not 1 <= number <= parts:
        raise InputError(f"there is no shard {number}/{parts}: the first of four is 1/4, the last 4/4")
    return runs[len(runs) * (number - 1) // parts : len(runs) * number // parts]


def _require_data(runs: Iterable[Run]) -> None:
    """Says at once that a data set is missing, and not once a run."""
    for run in runs:
        data = run.recipe.data
        file = data.path("labeled")
        if data.builtin is None and (file is None or not file.exists()):
            raise InputError(f"there is no {file}, which {run.label!r} needs: give the data set's root with --data")


def _on_one_thread(runs: list[Run], overrides: Sequence[str]) -> list[Run]:
    """The runs with one thread and no loader process each, as is best where they are small or several."""
    settings: dict[str, Any] = {"threads": 1, "workers": 0}
    given = {text.partition("=")[0].strip() for text in overrides}
    settings = {key: value for key, value in settings.items() if f"runtime.{key}" not in given}

    def settled(run: Run) -> Run:
        runtime = run.recipe.runtime.model_copy(update=settings)
        return run._replace(recipe=run.recipe.model_copy(update={"runtime": runtime}))

    return [settled(run) for run in runs]


def _table(plan: Plan, profile: ProfileName, folder: Path) -> Table:
    """The experiment's table of the runs that are finished."""
    about = plan.experiment
    found = [
        _table_cell(cell, dict(zip(plan.folds, runs, strict=True)), about.metrics, folder) for cell, runs in plan.cells
    ]
    found = _with_quoted(found, about, profile)
    if about.gain_over is not None:
        found = with_gains(found, about)
    return Table(about.name, about.title, about.note, profile, about.metrics, found, DATA_OF[profile])


def _with_quoted(found: list[TableCell], about: Experiment, profile: ProfileName) -> list[TableCell]:
    """The cells and those of rows that are quoted, in the order of the rows."""
    columns = about.columns or (None,)
    rows = [row for row in about.rows if row.quoted and row.changes(profile) is not None]
    quoted = [
        TableCell(
            row.label,
            None if column is None else column.label,
            [],
            {},
            _published(row, column, about.metrics[0]),
            [],
            [],
            [],
            [],
        )
        for row in rows
        for column in columns
    ]
    order = [row.label for row in about.rows]
    return sorted([*found, *quoted], key=lambda cell: order.index(cell.row))


def with_gains(found: Sequence[TableCell], about: Experiment) -> list[TableCell]:
    """The cells with their gains over the experiment's other row, fold by fold.

    Args:
        found: All cells of the table.
        about: The experiment.
    """
    metric = about.metrics[0]
    places = {(cell.row, cell.column): cell for cell in found}
    rows = {row.label: row for row in about.rows}

    def gained(cell: TableCell) -> TableCell:
        row = rows[cell.row]
        base = places.get((row.gain_over or about.gain_over or "", cell.column))
        if base is None or base is cell:
            return cell
        before, after = (dict(zip(one.folds, one.values.get(metric, []), strict=False)) for one in (base, cell))
        pairs = [(before.get(fold), value) for fold, value in after.items()]
        known = [(low, high) for low, high in pairs if low is not None and high is not None]
        own = row.published_baseline is not None
        published = row.published_baseline if own else base.published.get(metric, (None, None))[0]
        return cell._replace(
            gain=Gain(base.row, [low for low, _ in known], [high - low for low, high in known], published, own)
        )

    return [gained(cell) for cell in found]


def _table_cell(cell: Cell, runs: dict[int, Run], metrics: Sequence[str], folder: Path) -> TableCell:
    finished = {fold: run for fold, run in runs.items() if is_finished(run, folder)}
    records = [read_record(run, folder) for run in finished.values()]
    values = {metric: [record.metrics.get(f"teacher/{metric}") for record in records] for metric in metrics}
    values[STUDENT] = [record.metrics.get("student/AP") for record in records]
    return TableCell(
        cell.row.label,
        None if cell.column is None else cell.column.label,
        list(finished),
        values,
        _published(cell.row, cell.column, metrics[0]),
        [run.name for run in finished.values()],
        [record.seconds for record in records],
        [record.step_seconds for record in records],
        [record.burn_in_from for record in records],
    )


def _published(row: Row, column: Variation | None, metric: str) -> dict[str, Spread]:
    published = row.published
    if column is not None:
        published = {metric: published[column.label]} if column.label in published else {}
    return {name: value if isinstance(value, tuple) else (value, None) for name, value in published.items()}
