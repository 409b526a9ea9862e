"""One self-contained HTML page that shows a run, or several side by side."""

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from denseteacher.evaluation.gain import UnlabeledGain
from denseteacher.evaluation.summary import ClassScore, RunEvaluation
from denseteacher.files import write_text
from denseteacher.report.charts import (
    gain_chart,
    loss_charts,
    optimizer_charts,
    precision_charts,
    pseudo_label_charts,
)
from denseteacher.report.curves import ShownRun
from denseteacher.report.gallery import Picture
from denseteacher.training.health import HealthNote
from denseteacher.visualization.boxes import SHOWN_ABOVE
from denseteacher.visualization.figure import Chart


class Report(NamedTuple):
    """What a page shows; what is empty is left out."""

    title: str
    summary: str
    """The sentence that a reader with ten seconds reads."""
    runs: Sequence[ShownRun]
    """One or several; the last is the one that the page is about, the first what it is measured against."""
    facts: Sequence[tuple[str, str]] = ()
    """Numbers to put first, each with what it is."""
    gain: UnlabeledGain | None = None
    """What unlabeled images were worth, where the run has a baseline."""
    notes: Sequence[str] = ()
    """What a reader must know before comparing."""
    health: Sequence[HealthNote] = ()
    """What the last run's numbers say about it."""
    comparable: bool = True
    """Whether all runs were evaluated on the same images."""
    figures: Sequence[Chart] = ()
    """Figures of the last run's evaluation."""
    confusions: Sequence[tuple[str, str, int]] = ()
    unlabeled: Sequence[Sequence[Picture]] = ()
    taught: str = ""
    """What becomes of the teacher's predictions, in a sentence."""
    mistakes: Sequence[Sequence[Picture]] = ()
    examples: Sequence[Sequence[Picture]] = ()
    differences: Mapping[str, Sequence[str]] = {}
    """Keys of the recipes that differ, with each run's value."""
    recipe: str = ""
    """YAML."""
    environment: str = ""
    """JSON text."""


class Cell(NamedTuple):
    """A number in a table; ``kind`` is ``count``, ``number``, ``bar`` (of 100), ``gain`` or ``score`` (of 1)."""

    kind: str
    value: float | None


def write_report(path: Path, report: Report) -> None:
    """Writes the page.

    Raises:
        RunError: If the disk refuses.
    """
    page = render_page(
        "page.html.j2",
        report=report,
        metrics=(metrics := _metrics(report.runs)),
        table=_table(report.runs, metrics),
        gain_chart=None if report.gain is None else gain_chart(report.gain),
        progress=precision_charts(report.runs) + loss_charts(report.runs),
        pseudo_labels=pseudo_label_charts(report.runs),
        optimizer=optimizer_charts(report.runs),
        classes=class_table(report.runs, comparable=report.comparable),
        shown_above=SHOWN_ABOVE,
    )
    write_text(path, page)


def render_page(template: str, **values: Any) -> str:
    """The HTML of a template beside this file, with the texts in it escaped."""
    loader = jinja2.FunctionLoader(lambda name: resources.files(__package__).joinpath(name).read_text("utf-8"))
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template(template).render(**values)


def class_table(runs: Sequence[ShownRun], *, comparable: bool = True) -> tuple[list[str], list[tuple[str, list[Cell]]]]:
    """Headings and rows: objects, AP of every run with its gain over the first, other metrics of the last, best scores.

    Runs without an evaluation are left out; of runs that don't compare only the last is shown.
    """
    shown = [(run.label, run.evaluation) for run in runs if run.evaluation is not None]
    shown = shown if comparable else shown[-1:]
    if not shown:
        return [], []
    *_, (_, last) = shown
    ap = [{one.name: one.scores["AP"] for one in found.classes} for _, found in shown]
    heads = ["objects"]
    for number, (label, _) in enumerate(shown):
        heads += ["AP" if len(shown) == 1 else f"AP, {label}", *(["gain"] if number else [])]
    rows = []
    for one in last.classes:
        cells = [Cell("count", one.objects)]
        for number, values in enumerate(ap):
            cells.append(Cell("bar", values.get(one.name)))
            cells += [Cell("gain", _difference(values.get(one.name), ap[0].get(one.name)))] if number else []
        others = [value for name, value in one.scores.items() if name != "AP"]
        rows.append((one.name, [*cells, *(Cell("number", value) for value in others), *_point_cells(last, one)]))
    heads += [name for name in last.classes[0].scores if name != "AP"]
    return heads + ([] if last.best is None else ["best score", "F1 there"]), rows


def _point_cells(found: RunEvaluation, one: ClassScore) -> list[Cell]:
    """The class's best operating point, where the evaluation has such."""
    if found.best is None:
        return []
    return [Cell("score", one.best and one.best.score), Cell("score", one.best and one.best.f1)]


def _difference(value: float | None, base: float | None) -> float | None:
    return None if value is None or base is None else value - base


def _metrics(runs: Sequence[ShownRun]) -> list[str]:
    """Names of the metrics that some run has, without the recalls."""
    keys = dict.fromkeys(key for run in runs for key in run.metrics)
    names = [key.removeprefix("teacher/") for key in keys if key.startswith("teacher/")]
    return [name for name in names if not name.startswith("AR")]


def _table(runs: Sequence[ShownRun], metrics: Sequence[str]) -> list[tuple[str, str, list[float | None]]]:
    """The metrics of every run's last evaluation."""
    return [
        (run.label, role, [run.metrics.get(f"{role}/{metric}") for metric in metrics])
        for run in runs
        if run.metrics
        for role in ("teacher", "student")
    ]
