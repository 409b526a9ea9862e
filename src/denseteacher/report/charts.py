"""The charts of a page: how runs were trained, how well classes are found, what unlabeled images were worth."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from denseteacher.evaluation.arrays import Floats, Ints
from denseteacher.evaluation.diagnostics import RECALLS, Curve, mean_precision
from denseteacher.evaluation.gain import UnlabeledGain
from denseteacher.evaluation.thresholds import ScoreCurve, ScoreCurves
from denseteacher.report.curves import (
    Curves,
    ShownRun,
    loss_curves,
    optimizer_curves,
    precision_curves,
    pseudo_label_curves,
)
from denseteacher.visualization.boxes import SHOWN_ABOVE
from denseteacher.visualization.figure import (
    BLUE,
    FAINT,
    GREEN,
    VERMILLION,
    Chart,
    as_svg,
    line_chart,
    new_figure,
    page_style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ScoreValue = Literal["precision", "recall", "F1"]

_MOST_NUMBERED = 20  # classes; the cells of larger matrices have no room for counts
_DARK = 0.6  # share of a row from which on its cell needs light text
_MOST_DRAWN = 20  # classes


def precision_charts(runs: Sequence[ShownRun]) -> list[Chart]:
    """AP of teachers and students."""
    return _drawn(runs, precision_curves(runs))


def loss_charts(runs: Sequence[ShownRun]) -> list[Chart]:
    """The weighted losses: each of one run, their sums of several."""
    return _drawn(runs, loss_curves(runs))


def pseudo_label_charts(runs: Sequence[ShownRun]) -> list[Chart]:
    """Whatever the methods watch of their unlabeled side, a figure each."""
    return _drawn(runs, pseudo_label_curves(runs))


def optimizer_charts(runs: Sequence[ShownRun]) -> list[Chart]:
    """Learning rate, gradients, speed."""
    return _drawn(runs, optimizer_curves(runs))


def precision_recall_chart(curves: Mapping[str, Curve]) -> Chart:
    """``precision_recall_figure`` for the page."""
    title = "Precision against recall, IoU 0.5"
    return Chart(title, as_svg(precision_recall_figure(curves), f"{title}, of each class and in the mean"))


def confusion_chart(matrix: Ints, names: Sequence[str]) -> Chart:
    """``confusion_figure`` for the page."""
    alt = f"Confusion matrix of {len(names)} classes and the background; the most frequent mistakes stand below"
    return Chart(f"Confusion, scores above {SHOWN_ABOVE}", as_svg(confusion_figure(matrix, names), alt))


def precision_recall_figure(curves: Mapping[str, Curve]) -> "Figure":
    """The mean over the classes in bold, the best and the worst class by name, all others faint."""
    ranked = sorted(curves, key=lambda name: float(curves[name].precision.mean()))
    with page_style():
        figure = new_figure(4.2, 4.4)
        axes = figure.add_subplot()
        for name in ranked[1:-1]:
            axes.plot(RECALLS, curves[name].precision, color=FAINT, linewidth=0.8, alpha=0.6)
        if len(ranked) > 1:
            for name, what, color, style in ((ranked[-1], "best", GREEN, "-."), (ranked[0], "worst", VERMILLION, "--")):
                axes.plot(RECALLS, curves[name].precision, style, color=color, label=_legend(what, name, curves))
        mean = mean_precision(curves)
        axes.plot(RECALLS, mean, color=BLUE, linewidth=2.6, label=f"mean, AP50 {100 * mean.mean():.1f}")
        axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid()
        figure.legend(loc="outside lower left", ncols=1, frameon=False)
    return figure


def score_chart(curves: ScoreCurves) -> Chart:
    """``score_figure`` of F1 for the page."""
    title = "F1 against score threshold, IoU 0.5"
    return Chart(title, as_svg(score_figure(curves, "F1"), f"{title}, of each class and of all together"))


def score_figure(curves: ScoreCurves, value: ScoreValue) -> "Figure":
    """All classes together in bold, the classes with the highest and the lowest best F1 by name, all others faint.

    Args:
        curves: Of a detector.
        value: What is drawn against the score threshold.
    """
    ranked = sorted(curves.classes, key=lambda name: _best_f1(curves.classes[name]))
    with page_style():
        figure = new_figure(4.2, 4.4)
        axes = figure.add_subplot()
        for name in ranked[1:-1]:
            axes.plot(*_values(curves.classes[name], value), color=FAINT, linewidth=0.8, alpha=0.6)
        if len(ranked) > 1:
            for name, what, color, style in ((ranked[-1], "best", GREEN, "-."), (ranked[0], "worst", VERMILLION, "--")):
                curve = curves.classes[name]
                axes.plot(*_values(curve, value), style, color=color, label=f"{what}: {name}{_peak(curve)}")
        axes.plot(
            *_values(curves.overall, value), color=BLUE, linewidth=2.6, label=f"all classes{_peak(curves.overall)}"
        )
        if curves.overall.best is not None:
            axes.axvline(curves.overall.best.score, color=FAINT, linewidth=1, linestyle=":")
        axes.set(xlabel="score threshold", ylabel=value, xlim=(0, 1), ylim=(0, 1.02))
        axes.grid()
        figure.legend(loc="outside lower left", ncols=1, frameon=False)
    return figure


def _values(curve: ScoreCurve, value: ScoreValue) -> tuple[Floats, Floats]:
    drawn = curve.drawn()
    return drawn.scores, {"precision": drawn.precision, "recall": drawn.recall, "F1": drawn.f1}[value]


def _best_f1(curve: ScoreCurve) -> float:
    return 0.0 if curve.best is None else curve.best.f1


def _peak(curve: ScoreCurve) -> str:
    return "" if curve.best is None else f", best F1 {curve.best.f1:.2f} above {curve.best.score:.2f}"


def confusion_figure(matrix: Ints, names: Sequence[str]) -> "Figure":
    """Rows of the truth, each as shares of its sum; the last row and column are the background.

    Args:
        matrix: (K + 1, K + 1) counts.
        names: Names of the K classes.
    """
    labels = [*names, "background"]
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(max(4.2, 0.22 * len(labels) + 1.5), 24)
    with page_style():
        figure = new_figure(side, side)
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
        axes.set_xticks(range(len(labels)), labels, rotation=90)
        axes.set_yticks(range(len(labels)), labels)
        axes.set(xlabel="prediction", ylabel="truth")
        axes.tick_params(length=0, labelsize="small" if len(labels) <= _MOST_NUMBERED else "xx-small")
        for spine in axes.spines.values():
            spine.set_visible(False)
        if len(labels) <= _MOST_NUMBERED + 1:
            _write_counts(axes, matrix, shares)
    return figure


def gain_chart(gain: UnlabeledGain) -> Chart | None:
    """A bar a class from its AP without the unlabeled images to that with them; None where there is none to draw.

    Of many classes those that gain and lose most.
    """
    known = [one for one in gain.classes if one.gain is not None]
    half = _MOST_DRAWN // 2
    shown = known if len(known) <= _MOST_DRAWN else [*known[:half], *known[-half:]]
    if not shown:
        return None
    with page_style():
        figure = new_figure(4.2, 0.9 + 0.28 * len(shown))
        axes = figure.add_subplot()
        values = [one.gain or 0.0 for one in shown]
        axes.barh(range(len(shown)), values, color=[BLUE if value >= 0 else VERMILLION for value in values], height=0.6)
        axes.axvline(0, color=FAINT, linewidth=0.8)
        axes.set_yticks(range(len(shown)), [one.name for one in shown])
        axes.set_ylim(len(shown) - 0.4, -0.6)  # the first on top
        axes.set(xlabel="gain in AP")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_axisbelow(True)
    title = "Gain by class" if len(shown) == len(known) else f"Gain of the {half} first and last classes"
    return Chart(title, as_svg(figure, f"{title}, in AP; the numbers stand in the table"))


def _drawn(runs: Sequence[ShownRun], curves: Sequence[Curves]) -> list[Chart]:
    return [line_chart(one.lines, title=one.title, ylabel=one.ylabel, burn_in=runs[-1].burn_in) for one in curves]


def _legend(what: str, name: str, curves: Mapping[str, Curve]) -> str:
    return f"{what}: {name}, {100 * curves[name].precision.mean():.1f}"


def _write_counts(axes: Any, matrix: Ints, shares: Any) -> None:
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            color = "#ffffff" if shares[row, column] > _DARK else "#1c2431"  # not INK: cells don't follow the page
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize="x-small")
