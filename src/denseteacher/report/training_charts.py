"""The charts of training on a page: precision, losses, pseudo-labels and the optimizer, of one run or of several."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from denseteacher.evaluation.summary import RunEvaluation
from denseteacher.report.line_chart import Chart, Line, Series, line_chart
from denseteacher.training.metrics_log import last_evaluation, median_step_seconds

_STUDENT_STYLE = 3  # dotted
_LOSSES = {"sup": "Losses on labeled images", "unsup": "Losses on unlabeled images"}
_EVALUATED = ("teacher", "student")
_MOST_POINTS = 300
_NAMES = {
    "pseudo/locations": ("Locations learned from", "an unlabeled image"),
    "pseudo/score": ("Teacher's score where it teaches", "mean"),
    "pseudo/boxes": ("Pseudo-boxes", "an unlabeled image"),
    "pseudo/reliable_boxes": ("Pseudo-boxes in a reliable place", "an unlabeled image"),
    "pseudo/remembered": ("Pseudo-boxes with those remembered", "an unlabeled image"),
    "pseudo/threshold": ("Threshold of the pseudo-boxes", "mean over classes"),
    "consistency/locations": ("Locations compared", "an image"),
}
_OPTIMIZER = {
    "lr": ("Learning rate", "rate"),
    "gradient_norm": ("Norm of the gradient, before clipping", "norm"),
    "step_seconds": ("Time of a step", "seconds"),
    "images_per_second": ("Images trained on", "a second"),
    "mfu": ("Share of the device's peak that the networks use (MFU)", "share"),
}


class ShownRun(NamedTuple):
    """One run to show."""

    label: str
    rows: list[dict[str, Any]]
    """Of ``metrics.jsonl``."""
    burn_in: int | None = None
    evaluation: RunEvaluation | None = None
    """Of its best teacher."""

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last evaluation: ``step``, ``teacher/AP``, ...; empty where nothing was evaluated."""
        return last_evaluation(self.rows)

    @property
    def step_seconds(self) -> float | None:
        """Median over the second half of the run."""
        return median_step_seconds(self.rows)


def precision_charts(runs: Sequence[ShownRun]) -> list[Chart]:
    """AP of teachers and students."""
    lines = [
        Line(role if len(runs) == 1 else f"{run.label}, {role}", series, number, style)
        for number, run in enumerate(runs)
        for role, style in zip(_EVALUATED, (0, _STUDENT_STYLE), strict=True)
        if (series := metric_series(run.rows, f"{role}/AP"))[0]
    ]
    return [_chart(runs, lines, "AP on the validation images", "AP")] if lines else []


def loss_charts(runs: Sequence[ShownRun]) -> list[Chart]:
    """The weighted losses: each of one run, their sums of several."""
    charts = []
    for prefix, title in _LOSSES.items():
        if len(runs) == 1:
            keys = [key for key in _keys(runs) if key.startswith(f"{prefix}/")]
            lines = [Line(key.partition("/")[2], _trend(runs[0].rows, key), at, at) for at, key in enumerate(keys)]
        else:
            lines = _lines(runs, [_summed(run.rows, prefix) for run in runs])
        if lines:
            charts.append(_chart(runs, lines, title, "weighted loss" if len(runs) == 1 else "sum of weighted losses"))
    return charts


def pseudo_label_charts(runs: Sequence[ShownRun]) -> list[Chart]:
    """Whatever the methods watch of their unlabeled side, a figure each."""
    known = (*_LOSSES, *_EVALUATED, "labeled")
    watched = [key for key in _keys(runs) if "/" in key and key.partition("/")[0] not in known]
    return _charts(runs, {key: _NAMES.get(key, (key, "value")) for key in watched})


def optimizer_charts(runs: Sequence[ShownRun]) -> list[Chart]:
    """Learning rate, gradients, speed."""
    return _charts(runs, _OPTIMIZER)


def _charts(runs: Sequence[ShownRun], names: Mapping[str, tuple[str, str]]) -> list[Chart]:
    found = {key: _lines(runs, [_trend(run.rows, key) for run in runs]) for key in names}
    return [_chart(runs, lines, *names[key]) for key, lines in found.items() if lines]


def _chart(runs: Sequence[ShownRun], lines: Sequence[Line], title: str, ylabel: str) -> Chart:
    return line_chart(lines, title=title, ylabel=ylabel, burn_in=runs[-1].burn_in)


def _lines(runs: Sequence[ShownRun], series: Sequence[Series]) -> list[Line]:
    """A line for each run that has values."""
    return [Line(run.label, one, at, at) for at, (run, one) in enumerate(zip(runs, series, strict=True)) if one[0]]


def _keys(runs: Sequence[ShownRun]) -> list[str]:
    return list(dict.fromkeys(key for run in runs for row in run.rows for key in row))


def _summed(rows: Sequence[Mapping[str, Any]], prefix: str) -> Series:
    totals = []
    for row in rows:
        terms = [value for key, value in row.items() if key.startswith(f"{prefix}/") and value is not None]
        totals += [{"step": row["step"], "sum": sum(terms)}] if terms else []
    return _trend(totals, "sum")


def _trend(rows: Sequence[Mapping[str, Any]], key: str) -> Series:
    """A noisy metric, smoothed, and of a long run no more points than can be seen."""
    steps, values = metric_series(rows, key)
    stride = max(1, len(steps) // _MOST_POINTS)
    return steps[::stride], smooth(values, window=max(9, len(values) // 40))[::stride]


def smooth(values: Sequence[float], window: int = 9) -> list[float]:
    """A running mean of the same length, with shorter windows at both ends."""
    array, half = np.asarray(values, dtype=float), window // 2
    return [float(array[max(0, i - half) : i + half + 1].mean()) for i in range(len(array))]


def metric_series(rows: Sequence[Mapping[str, Any]], key: str) -> Series:
    """Steps and values of one key of ``metrics.jsonl``."""
    pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return [step for step, _ in pairs], [value for _, value in pairs]
