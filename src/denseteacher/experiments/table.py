"""Tables of an experiment: measured means and spreads beside the published ones, as Markdown, JSON and PNG."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from denseteacher.files import write_json
from denseteacher.visualization.figure import BLUE, VERMILLION, literal_text, new_figure, shared_legend

STUDENT = "student AP"
_NONE = "-"
Spread = tuple[float, float | None]
"""A mean and its sample standard deviation, None of a single value."""


class Gain(NamedTuple):
    """What a cell's first metric is above that of another row."""

    over: str
    """Label of that row."""
    baselines: list[float]
    """Values of that row, of the folds that are finished in both."""
    values: list[float]
    """The differences, fold by fold."""
    published_baseline: float | None
    """Number that the published value is compared with."""
    own_baseline: bool = False
    """Whether that is not the published value of the other row: each method was published with its own."""


class TableCell(NamedTuple):
    """What is known of one row, in one column where the table has columns."""

    row: str
    column: str | None
    folds: list[int]
    """Folds that are finished."""
    values: dict[str, list[float | None]]
    """Values by metric, in the order of the folds."""
    published: dict[str, Spread]
    runs: list[str]
    """Names of the run folders, in the order of the folds."""
    seconds: list[float | None]
    """Seconds of each run; less where it started from another one's burn-in."""
    step_seconds: list[float | None]
    burn_in_from: list[str | None]
    gain: Gain | None = None
    """Gain over another row, if the table shows it and this is not that row."""

    def published_gain(self, metric: str) -> float | None:
        """The published value above what it is compared with; None where one of them is not published."""
        if self.gain is None or self.gain.published_baseline is None or metric not in self.published:
            return None
        return self.published[metric][0] - self.gain.published_baseline


class Table(NamedTuple):
    """An experiment's cells, and what is said with them."""

    name: str
    title: str
    note: str
    profile: str
    metrics: tuple[str, ...]
    cells: list[TableCell]
    data: str = ""
    """What stands for the paper's data; empty where those are used."""


def spread(values: Sequence[float | None]) -> Spread | None:
    """Mean and sample standard deviation of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return mean(known), stdev(known) if len(known) > 1 else None


def write_table(folder: Path, table: Table) -> dict[str, Path]:
    """Writes ``NAME-PROFILE.md``, ``.json`` and ``.png``, and returns their paths by ending."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {ending: folder / f"{table.name}-{table.profile}.{ending}" for ending in ("md", "json", "png")}
    files["md"].write_text(markdown(table), encoding="utf-8")
    write_json(files["json"], content(table))
    save_figure(files["png"], table)
    return files


def content(table: Table) -> dict[str, Any]:
    """The table with all that is known, each cell as a row of a results file."""
    rows = []
    for cell in table.cells:
        spreads = {metric: spread(values) for metric, values in cell.values.items()}
        summary = {f"{metric} mean": round(found[0], 3) for metric, found in spreads.items() if found is not None}
        summary |= {
            f"{metric} std": round(found[1], 3)
            for metric, found in spreads.items()
            if found is not None and found[1] is not None
        }
        where = {} if cell.column is None else {"row": cell.row, "column": cell.column}
        rows.append(
            {
                "label": cell.row if cell.column is None else f"{cell.row}, {cell.column}",
                **where,
                "seeds": cell.folds,
                "values": cell.values,
                "summary": summary,
                "published": {metric: list(value) for metric, value in cell.published.items()},
                **({} if cell.gain is None else {"gain": cell.gain._asdict()}),
                "runs": cell.runs,
                "seconds": cell.seconds,
                "step_seconds": cell.step_seconds,
                "burn_in_from": cell.burn_in_from,
            }
        )
    return {
        "name": table.name,
        "title": table.title,
        "profile": table.profile,
        "metrics": list(table.metrics),
        "note": table.note,
        "rows": rows,
    }


def markdown(table: Table) -> str:
    """The table as Markdown: a row a row, a column a metric, and one beside it for what was published.

    Where there are gains, they stand beside both; where published ones are over baselines of their own, as in the
    paper's Table 4, values are written as baseline → result.
    """
    places = [*_panels(table), *((column, STUDENT) for column in _columns(table))]
    published = {(cell.column, metric) for cell in table.cells for metric in cell.published}
    heads = [""]
    for place in places:
        beside = ["gain"] if _has_gains(table, place[1]) else []
        heads += [_heading(table, *place), *beside, *(["published", *beside] if place in published else [])]
    lines = [[*heads, "s/step", "runs"], ["---"] * (len(heads) + 2)]
    for row in _rows(table):
        cells = {cell.column: cell for cell in table.cells if cell.row == row}
        lines.append([row])
        for column, metric in places:
            lines[-1] += _texts(table, cells.get(column), metric, published=(column, metric) in published)
        steps = spread([value for cell in cells.values() for value in cell.step_seconds])
        counts = [str(len(cell.folds)) for cell in cells.values()]
        lines[-1] += [
            _NONE if steps is None else f"{steps[0]:.2g}",
            ", ".join(counts if len(set(counts)) > 1 else counts[:1]),
        ]
    about = (
        "Mean ± sample standard deviation over the runs (each another split and seed) of the teacher at the last "
        "step; the published numbers are the paper's, on its data."
    )
    rows = [f"| {' | '.join(texts)} |" for texts in lines]
    return "\n".join(
        [f"# {_title(table)}", "", *rows, "", about, *(["", table.note.strip()] if table.note else []), ""]
    )


def _texts(table: Table, cell: TableCell | None, metric: str, *, published: bool) -> list[str]:
    """A cell's texts under a metric: measured and published, each with its gain where the table has gains."""
    gains = _has_gains(table, metric)
    if cell is None:
        return [_NONE] * (1 + gains) * (1 + published)
    gain = cell.gain if gains else None
    arrows = any(one.gain is not None and one.gain.own_baseline for one in table.cells)
    measured, quoted = _measured(cell, metric), _text(cell.published.get(metric), 2)
    if gain is None:
        return [measured, *[_NONE] * gains, *([quoted, *[_NONE] * gains] if published else [])]
    before = spread(gain.baselines)
    if arrows and before is not None:
        measured = f"{_text(before, 1)} → {measured}"
    if arrows and gain.published_baseline is not None and metric in cell.published:
        quoted = f"{gain.published_baseline:.2f} → {quoted}"
    beside = cell.published_gain(metric)
    texts = [measured, _signed(spread(gain.values), 1)]
    return [*texts, quoted, _signed(None if beside is None else (beside, None), 2)] if published else texts


def _has_gains(table: Table, metric: str) -> bool:
    return metric == table.metrics[0] and any(cell.gain is not None for cell in table.cells)


def _signed(value: Spread | None, digits: int) -> str:
    return _NONE if value is None else ("+" if value[0] >= 0 else "") + _text(value, digits)


def save_figure(path: Path, table: Table) -> None:
    """Draws a panel a metric or column: each run, their mean and spread, and what was published."""
    panels, rows = _panels(table), _rows(table)
    with literal_text():  # labels are those of a user's file
        figure = new_figure(1.5 + 0.055 * max(map(len, rows)) + 2.5 * len(panels), 1.5 + 0.32 * len(rows))
        all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (column, metric) in zip(all_axes, panels, strict=True):
            for cell in table.cells:
                if cell.column == column:
                    _draw_cell(axes, rows.index(cell.row), cell, metric, published=table.profile == "paper")
            axes.set_title(_heading(table, column, metric), fontsize="medium")
            axes.grid(axis="x", alpha=0.3)
            for side in ("top", "right", "left"):
                axes.spines[side].set_visible(False)
            axes.tick_params(axis="y", length=0)
        all_axes[0].set_yticks(range(len(rows)), rows)
        all_axes[0].set_ylim(len(rows) - 0.5, -0.5)
        shared_legend(figure, all_axes, fontsize="small")
        figure.suptitle(_title(table), fontsize="medium")
        figure.savefig(path)


def _draw_cell(axes: Any, y: int, cell: TableCell, metric: str, *, published: bool) -> None:
    known = [value for value in cell.values.get(metric, []) if value is not None]
    found = spread(known)
    if found is not None:
        axes.errorbar(
            found[0], y, xerr=found[1] or 0, fmt="o", color=BLUE, markersize=6, linewidth=1.5, label="mean ± std"
        )
        axes.plot(known, [y + 0.22] * len(known), "|", color=BLUE, alpha=0.7, markersize=6, label="runs")
    if published and metric in cell.published:
        value = cell.published[metric][0]
        axes.plot(value, y, "D", markeredgecolor=VERMILLION, markerfacecolor="none", markersize=7, label="published")


def _title(table: Table) -> str:
    return f"{table.title}; here on {table.data}" if table.data else table.title


def _rows(table: Table) -> list[str]:
    return list(dict.fromkeys(cell.row for cell in table.cells))


def _columns(table: Table) -> list[str | None]:
    return list(dict.fromkeys(cell.column for cell in table.cells))


def _panels(table: Table) -> list[tuple[str | None, str]]:
    """Columns and metrics to show: not those of which nothing is known, unless nothing at all is."""
    known = {
        metric
        for cell in table.cells
        for metric in table.metrics
        if metric in cell.published or spread(cell.values.get(metric, [])) is not None
    }
    metrics = [metric for metric in table.metrics if metric in known] or list(table.metrics[:1])
    return [(column, metric) for column in _columns(table) for metric in metrics]


def _heading(table: Table, column: str | None, metric: str) -> str:
    if column is None:
        return metric
    return column if len(table.metrics) == 1 and metric != STUDENT else f"{column}, {metric}"


def _measured(cell: TableCell, metric: str) -> str:
    found = spread(cell.values.get(metric, []))
    if found is None and cell.folds and metric in cell.published:
        return "not measured"
    return _text(found, 1)


def _text(value: Spread | None, digits: int) -> str:
    if value is None:
        return _NONE
    return f"{value[0]:.{digits}f}" + ("" if value[1] is None else f" ± {value[1]:.{digits}f}")
