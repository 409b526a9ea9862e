"""Precision-recall curves and the confusion matrix, for the page and as files."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from denseteacher.evaluation.arrays import Ints
from denseteacher.evaluation.diagnostics import RECALLS, Curve, mean_precision
from denseteacher.report.line_chart import Chart
from denseteacher.report.pictures import SHOWN_ABOVE
from denseteacher.visualization.figure import BLUE, FAINT, GREEN, VERMILLION, as_svg, new_figure, page_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_NUMBERED = 20  # classes; the cells of larger matrices have no room for counts
_DARK = 0.6  # share of a row from which on its cell needs light text


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


def confusion_figure(matrix: Ints, names: Sequence[str]) -> "Figure":
    """Rows of the truth, each as shares of its sum; the last row and column are the background.

    Args:
        matrix: (K + 1, K + 1) counts.
        names: Of the K classes.
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


def _legend(what: str, name: str, curves: Mapping[str, Curve]) -> str:
    return f"{what}: {name}, {100 * curves[name].precision.mean():.1f}"


def _write_counts(axes: Any, matrix: Ints, shares: Any) -> None:
    for (row, column), count in np.ndenumerate(matrix):
        if count:
            color = "#ffffff" if shares[row, column] > _DARK else "#1c2431"  # not INK: cells don't follow the page
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize="x-small")
