"""Fig. 2(a, b): what Unbiased Teacher reaches with each score and each NMS threshold of its pseudo-boxes."""

import json
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from denseteacher.errors import InputError
from denseteacher.visualization.figure import BLUE, GRAY, VERMILLION, label_axes, new_figure, shared_legend

_XLABELS = {"fig2a": "score threshold", "fig2b": "NMS threshold"}
_DATA = {"paper": "COCO", "digits": "Digits", "masks": "masks", "bccd": "BCCD"}
_ROW = re.compile(r"(CrowdHuman, )?(threshold|NMS|score|IoU) (0\.\d+)")
_LOWER_IS_BETTER = ("mMR",)
_FAILED = 0.5  # of the best run's: what reaches less did not converge


class Point(NamedTuple):
    """The runs with one threshold."""

    threshold: float
    values: list[float]
    converged: bool


class Sweep(NamedTuple):
    """One curve of the figure."""

    figure: str
    """``fig2a`` or ``fig2b``."""
    data: str
    metric: str
    points: list[Point]
    reference: float | None
    """What Dense Teacher reaches, which has no threshold."""


def read_sweeps(folder: Path) -> list[Sweep]:
    """The curves in the tables that ``denseteacher reproduce fig2a`` and ``fig2b`` wrote into a folder.

    Raises:
        InputError: If it holds no such table, or none of its runs is finished.
    """
    sweeps = []
    for figure in _XLABELS:
        for file in sorted([*folder.glob(f"{figure}-*.json"), *folder.glob(f"*_{figure}.json")]):
            sweeps += _sweeps(figure, file)
    if not sweeps:
        raise InputError(
            f"{folder} holds no finished run of fig2a or fig2b: measure them with denseteacher reproduce fig2a "
            f"--output {folder}"
        )
    return sweeps


def _sweeps(figure: str, file: Path) -> list[Sweep]:
    """The curves of one table: one a data set."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
        profile, rows = table.get("profile") or table["name"].partition("_")[0], table["rows"]
        found: dict[tuple[str, str], dict[float, list[float]]] = {}
        reference = None
        for row in rows:
            match = _ROW.fullmatch(row["label"])
            data, metric = ("CrowdHuman", "mMR") if match and match[1] else (_DATA.get(profile, profile), "AP")
            values = [value for value in row["values"].get(metric, []) if value is not None]
            if match and values:
                found.setdefault((data, metric), {})[float(match[3])] = values
            elif values and row["label"].startswith("Dense Teacher"):
                reference = mean(values)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is not a table of denseteacher reproduce ({error!r})") from error
    return [
        Sweep(figure, data, metric, _points(runs, metric), reference if metric == "AP" else None)
        for (data, metric), runs in found.items()
    ]


def _points(runs: dict[float, list[float]], metric: str) -> list[Point]:
    def quality(values: list[float]) -> float:
        return 100 - mean(values) if metric in _LOWER_IS_BETTER else mean(values)

    enough = _FAILED * max(map(quality, runs.values()))
    return [Point(threshold, values, quality(values) >= enough) for threshold, values in sorted(runs.items())]


def describe(sweeps: list[Sweep]) -> dict[str, Any]:
    """All values, and the best threshold of each curve."""
    curves = []
    for sweep in sweeps:
        sign = -1 if sweep.metric in _LOWER_IS_BETTER else 1
        best = max(sweep.points, key=lambda point: sign * mean(point.values))
        curves.append(
            {
                **sweep._asdict(),
                "points": [point._asdict() | {"mean": mean(point.values)} for point in sweep.points],
                "best": best.threshold,
            }
        )
    best_of = "; ".join(
        f"{curve['data']}: best {_XLABELS[curve['figure']]} {curve['best']} ({curve['metric']})" for curve in curves
    )
    return {"summary": best_of, "curves": curves}


def draw(sweeps: list[Sweep]) -> Figure:
    """A panel a curve."""
    figure = new_figure(1.2 + 3.3 * len(sweeps), 3.6)
    panels = figure.subplots(1, len(sweeps), squeeze=False)[0]
    for axes, sweep in zip(panels, sweeps, strict=True):
        _draw_sweep(axes, sweep)
    for metric in {sweep.metric for sweep in sweeps}:  # one scale, so that panels compare
        same = [axes for axes, sweep in zip(panels, sweeps, strict=True) if sweep.metric == metric]
        limits = [axes.get_ylim() for axes in same]
        for axes in same:
            axes.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))
    shared_legend(figure, panels)
    return figure


def _draw_sweep(axes: Axes, sweep: Sweep) -> None:
    good = [point for point in sweep.points if point.converged]
    bad = [point for point in sweep.points if not point.converged]
    axes.errorbar(
        [point.threshold for point in good],
        [mean(point.values) for point in good],
        yerr=[stdev(point.values) if len(point.values) > 1 else 0 for point in good],
        color=BLUE,
        marker="o",
        label="Unbiased Teacher",
    )
    if bad:
        places, values = [point.threshold for point in bad], [mean(point.values) for point in bad]
        axes.plot(
            places, values, linestyle="", marker=r"$\boxtimes$", markersize=13, color=GRAY, label="did not converge"
        )
    if sweep.reference is not None:
        axes.axhline(sweep.reference, color=VERMILLION, linestyle="--", label="Dense Teacher, no threshold")
    label_axes(
        axes,
        title=f"{sweep.metric} on {sweep.data} by {_XLABELS[sweep.figure]}",
        xlabel=_XLABELS[sweep.figure],
        ylabel=sweep.metric,
    )
    axes.set_xticks([point.threshold for point in sweep.points])
    axes.margins(x=0.1, y=0.1)
