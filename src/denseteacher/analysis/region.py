"""How good the learning region is over the training of its teacher, and how far its scores can be believed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from denseteacher.analysis.calibration import Reliability, calibrate
from denseteacher.analysis.calibration import describe as describe_calibration
from denseteacher.analysis.outputs import DetectorOutputs, percent
from denseteacher.analysis.selection import RegionCounts, count_region
from denseteacher.analysis.truth import Truth
from denseteacher.detectors import load_weights
from denseteacher.errors import InputError
from denseteacher.inference.predictor import Predictor
from denseteacher.methods import DenseTeacher
from denseteacher.runs.folder import RunFolder
from denseteacher.training.run_files import BURN_IN
from denseteacher.visualization.figure import (
    BLUE,
    GRAY,
    GREEN,
    ORANGE,
    PINK,
    VERMILLION,
    label_axes,
    new_figure,
    shared_legend,
)

_CURVES = {
    "true_positives": ("true positives, of the selected", BLUE, "o", "-"),
    "right_class": ("right class, of the true positives", ORANGE, "v", "-"),
    "hard_negatives": ("hard negatives, of the selected", VERMILLION, "s", "--"),
    "foreground_selected": ("selected, of the foreground", GREEN, "^", "-."),
    "missed_objects": ("missed objects, of all objects", PINK, "D", ":"),
}

_MOST_MARKS = 16


class History(NamedTuple):
    """The region over training."""

    steps: list[int]
    counts: list[RegionCounts]
    calibration: dict[str, Reliability]
    """Calibration of the last teacher."""
    burn_in: int | None
    """The step at which unlabeled images came in, where that is known."""


def follow(detectors: Sequence[Path], truth: Truth, rule: DenseTeacher) -> History:
    """Measures every teacher.

    Args:
        detectors: A run folder, whose checkpoints are taken; or detectors, by their steps.
        truth: The images.
        rule: How the region is selected.

    Raises:
        InputError: If there are no checkpoints, or one is damaged.
    """
    steps, counts, last = [], [], None
    for step, predictor in teachers(detectors):
        last = DetectorOutputs(predictor, truth)
        steps.append(step)
        counts.append(count_region(last, rule))
    assert last is not None
    return History(steps, counts, calibrate(last), _burn_in(detectors))


def teachers(detectors: Sequence[Path]) -> Iterator[tuple[int, Predictor]]:
    """Steps and detectors, one after the other; of a run folder it is one predictor that changes.

    Raises:
        InputError: As ``follow``.
    """
    if len(detectors) == 1 and detectors[0].is_dir():
        yield from _checkpointed(detectors[0])
        return
    found = [Predictor.load(path) for path in detectors]
    if any(one.card.categories != found[0].card.categories for one in found):
        raise InputError(f"{', '.join(map(str, detectors))} have different classes: give teachers of one run")
    yield from sorted(((int(one.card.trained.get("step", 0)), one) for one in found), key=lambda pair: pair[0])


def _checkpointed(folder: Path) -> Iterator[tuple[int, Predictor]]:
    predictor = Predictor.load(folder)
    checkpoints = RunFolder(folder).checkpoints()
    files = checkpoints.files()
    if not files:
        raise InputError(
            f"{folder} holds no checkpoints: train with --set schedule.keep_checkpoints=20, or give several detectors"
        )
    for step, file in files.items():
        state = checkpoints.load(file)
        if not isinstance(state.get("teacher"), dict):
            raise InputError(f"{file} holds no teacher: it is not a checkpoint of a run of denseteacher")
        load_weights(predictor.detector, state["teacher"], source=str(file))  # type: ignore[arg-type]
        yield step, predictor


def _burn_in(detectors: Sequence[Path]) -> int | None:
    return max(RunFolder(detectors[0]).checkpoints().files(BURN_IN), default=None)


def describe(history: History) -> dict[str, Any]:
    """The shares at each step, and the calibration of the last teacher."""
    ends = [
        f"at step {step} {percent(counts.shares['true_positives'])} of the learning region is true foreground and "
        f"{percent(counts.shares['missed_objects'])} of the objects are missed"
        for step, counts in zip(history.steps, history.counts, strict=True)
    ]
    return {
        "summary": "; ".join(dict.fromkeys((ends[0], ends[-1]))),
        "burn_in": history.burn_in,
        "steps": [
            {"step": step, **counts.shares, "counts": counts._asdict()}
            for step, counts in zip(history.steps, history.counts, strict=True)
        ],
        "calibration": describe_calibration(history.calibration),
    }


def draw(history: History) -> Figure:
    """Shares over steps, and the reliability of the last teacher's scores."""
    figure = new_figure(9.4, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    for key, (label, color, marker, style) in _CURVES.items():
        values = [np.nan if (value := one.shares[key]) is None else value for one in history.counts]
        left.plot(
            history.steps, values, color=color, marker=marker, linestyle=style, label=label, markevery=_every(values)
        )
    if history.burn_in is not None:
        left.axvline(history.burn_in, color=GRAY, linewidth=1)
        left.annotate("end of burn-in ", (history.burn_in, 0.3), color=GRAY, fontsize="small", ha="right")
    label_axes(left, title="The learning region over training", xlabel="step", ylabel="share")
    left.set_ylim(-0.03, 1.03)
    shared_legend(figure, [left])
    _draw_reliability(right, history.calibration)
    label_axes(
        right,
        title=f"Calibration at step {history.steps[-1]}",
        xlabel="teacher's score",
        ylabel="share that is right",
    )
    return figure


def _every(values: Sequence[float]) -> int:
    """The distance of marked points, so that marks don't hide each other."""
    return 1 + len(values) // _MOST_MARKS


def _draw_reliability(axes: Axes, calibration: dict[str, Reliability]) -> None:
    axes.plot((0, 1), (0, 1), color=GRAY, linestyle=":", linewidth=1, label="calibrated")
    looks = {"locations": (BLUE, "o", "-"), "detections": (VERMILLION, "s", "--")}
    for name, (color, marker, style) in looks.items():
        points = [(bin_["score"], bin_["right"]) for bin_ in calibration[name].curve if bin_["count"]]
        error = calibration[name].error
        label = name if error is None else f"{name} (ECE {error:.3f})"
        axes.plot(*zip(*points, strict=True), color=color, marker=marker, linestyle=style, label=label)
    axes.set(xlim=(0, 1), ylim=(-0.02, 1.02), aspect="equal")
    axes.legend(frameon=False, fontsize="small", loc="upper left")
