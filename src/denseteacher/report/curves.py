"""The lines of a page's charts: which of a run's numbers are drawn over its steps, under which names."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from denseteacher.evaluation.summary import RunEvaluation
from denseteacher.training.health import CLASS_KL, IMAGES_WITHOUT, LABELED_WITHOUT, SCORE
from denseteacher.training.metrics_log import last_evaluation, median_step_seconds, metric_series, smooth
from denseteacher.visualization.figure import Line, Series

_STUDENT_STYLE = 3  # dotted
_LOSSES = {"sup": "Losses on labeled images", "unsup": "Losses on unlabeled images"}
_EVALUATED = ("teacher", "student")
_MOST_POINTS = 300
_NAMES = {
    "pseudo/locations": ("Locations learned from", "an unlabeled image"),
    "pseudo/score": ("Teacher's score where it teaches", "mean"),
    "pseudo/pasted": ("Objects pasted", "an unlabeled image"),
    "pseudo/positives": ("Locations learned as objects", "an unlabeled image"),
    "pseudo/hard": ("Locations learned with all their scores", "an unlabeled image"),
    "pseudo/promoted": ("Unsure locations whose boxes are learned", "an unlabeled image"),
    "pseudo/images_with_boxes": ("Unlabeled images with a pseudo-box", "share"),
    "pseudo/boxes": ("Pseudo-boxes", "an unlabeled image"),
    "pseudo/reliable_boxes": ("Pseudo-boxes in a reliable place", "an unlabeled image"),
    "pseudo/remembered": ("Pseudo-boxes with those remembered", "an unlabeled image"),
    "pseudo/threshold": ("Threshold of the scores", "mean"),
    "consistency/locations": ("Locations compared", "an image"),
    CLASS_KL: ("Classes of the pseudo-labels against the labels", "KL divergence"),
    IMAGES_WITHOUT: ("Unlabeled images without a pseudo-label", "share"),
    SCORE: ("Best score of an unlabeled image", "mean"),
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
    """Rows of ``metrics.jsonl``."""
    burn_in: int | None = None
    evaluation: RunEvaluation | None = None
    """Evaluation of its best teacher."""

    @property
    def metrics(self) -> dict[str, float]:
        """The last evaluation: ``step``, ``teacher/AP``, ...; empty where nothing was evaluated."""
        return last_evaluation(self.rows)

    @property
    def step_seconds(self) -> float | None:
        """Median over the second half of the run."""
        return median_step_seconds(self.rows)


class Curves(NamedTuple):
    """One chart's lines over training steps."""

    title: str
    ylabel: str
    lines: Sequence[Line]


def precision_curves(runs: Sequence[ShownRun]) -> list[Curves]:
    """AP of teachers and students."""
    lines = [
        Line(role if len(runs) == 1 else f"{run.label}, {role}", series, number, style)
        for number, run in enumerate(runs)
        for role, style in zip(_EVALUATED, (0, _STUDENT_STYLE), strict=True)
        if (series := metric_series(run.rows, f"{role}/AP"))[0]
    ]
    return [Curves("AP on the validation images", "AP", lines)] if lines else []


def loss_curves(runs: Sequence[ShownRun]) -> list[Curves]:
    """The weighted losses: each of one run, their sums of several."""
    curves = []
    for prefix, title in _LOSSES.items():
        if len(runs) == 1:
            keys = [key for key in _keys(runs) if key.startswith(f"{prefix}/")]
            lines = [Line(key.partition("/")[2], _trend(runs[0].rows, key), at, at) for at, key in enumerate(keys)]
        else:
            lines = _lines(runs, [_summed(run.rows, prefix) for run in runs])
        if lines:
            ylabel = "weighted loss" if len(runs) == 1 else "sum of weighted losses"
            curves.append(Curves(title, ylabel, lines))
    return curves


def pseudo_label_curves(runs: Sequence[ShownRun]) -> list[Curves]:
    """Whatever the methods watch of their unlabeled side, a figure each."""
    known = (*_LOSSES, *_EVALUATED, "labeled")
    watched = [
        key for key in _keys(runs) if "/" in key and key.partition("/")[0] not in known and key != LABELED_WITHOUT
    ]
    return _each(runs, {key: _NAMES.get(key, (key, "value")) for key in watched})


def optimizer_curves(runs: Sequence[ShownRun]) -> list[Curves]:
    """Learning rate, gradients, speed."""
    return _each(runs, _OPTIMIZER)


def _each(runs: Sequence[ShownRun], names: Mapping[str, tuple[str, str]]) -> list[Curves]:
    found = {key: _lines(runs, [_trend(run.rows, key) for run in runs]) for key in names}
    return [Curves(*names[key], lines) for key, lines in found.items() if lines]


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
