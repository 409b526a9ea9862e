"""One call for every figure: ``analyze("fig3", ["run"], output="figures")``."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from denseteacher.analysis import fig2ab, fig2cd, fig3, fig4, region
from denseteacher.analysis.outputs import DetectorOutputs
from denseteacher.analysis.selection import count_region, learning_rule
from denseteacher.analysis.truth import hidden_truth, read_truth
from denseteacher.data.choices import Format
from denseteacher.data.formats import AnnotationSource
from denseteacher.errors import InputError
from denseteacher.files import refusal_explained, write_json
from denseteacher.inference.predictor import Predictor
from denseteacher.recipes.files import suggest


class Request(NamedTuple):
    """What an analysis is asked."""

    detectors: list[Path]
    outputs: DetectorOutputs
    """What the first of them sees."""
    threshold: float
    """Score threshold of pseudo-boxes."""
    ratio: float | None
    """Share of the learning region; the run's own if not given."""


class Analysis(NamedTuple):
    """What an analysis leaves."""

    summary: str
    """One sentence."""
    picture: Path
    numbers: Path


Drawn = tuple[dict[str, Any], Figure]


def _fig2cd(request: Request) -> Drawn:
    outputs = request.outputs
    errors = fig2cd.count_errors(outputs)
    return fig2cd.describe(errors), fig2cd.draw(errors, len(outputs))


def _fig3(request: Request) -> Drawn:
    outputs = request.outputs
    result = fig3.measure(outputs, threshold=request.threshold)
    numbers = fig3.describe(result, outputs)
    figure = fig3.draw(result, numbers, outputs, threshold=request.threshold)
    return {**numbers, "threshold": request.threshold}, figure


def _fig4(request: Request) -> Drawn:
    rule, outputs = learning_rule(request.detectors[0], request.ratio), request.outputs
    figure = fig4.draw(outputs, rule, threshold=request.threshold)
    numbers = fig4.describe(count_region(outputs, rule))
    return {**numbers, "ratio": rule.ratio, "threshold": request.threshold}, figure


def _region(request: Request) -> Drawn:
    rule = learning_rule(request.detectors[0], request.ratio)
    history = region.follow(request.detectors, request.outputs.truth, rule)
    return {**region.describe(history), "ratio": rule.ratio}, region.draw(history)


_BY_DETECTOR: dict[str, Callable[[Request], Drawn]] = {
    "fig2cd": _fig2cd,
    "fig3": _fig3,
    "fig4": _fig4,
    "region": _region,
}
FIGURES = ("fig2ab", *_BY_DETECTOR)


def analyze(
    figure: str,
    detectors: Sequence[str | Path] = (),
    *,
    output: str | Path,
    data: str | Path | None = None,
    images: str | Path | None = None,
    format: Format | None = None,
    subset: str | None = None,
    tables: str | Path | None = None,
    limit: int = 128,
    threshold: float = 0.5,
    ratio: float | None = None,
) -> Analysis:
    """Draws a figure of the paper from a detector, and writes ``FIGURE.png`` and ``FIGURE.json``.

    Args:
        figure: One of ``FIGURES``.
        detectors: A detector file or run folder; of ``region`` also several detectors; of ``fig2ab`` none.
        output: Folder to write to.
        data: Labeled images that the detector was not trained on, of any format; the unlabeled images of its run,
            with the labels that its split hid, if not given.
        images: Folder of the files of ``data``; found if not given.
        format: Format of ``data``; detected if not given.
        subset: The part of ``data``, where it has several.
        tables: Folder of the tables of ``reproduce``, of ``fig2ab``.
        limit: Most images looked at.
        threshold: Pseudo-boxes score above it.
        ratio: Share of the locations in the learning region; that of the run if not given.

    Raises:
        InputError: If something given is missing or wrong.
        RunError: If the files can't be written.
    """
    if figure not in FIGURES:
        raise InputError(f"there is no figure {figure!r}{suggest(figure, FIGURES)}: use one of {', '.join(FIGURES)}")
    if figure == "fig2ab":
        if tables is None:
            raise InputError("fig2ab is drawn from the tables of denseteacher reproduce: give their folder as --tables")
        sweeps = fig2ab.read_sweeps(Path(tables))
        return _write(Path(output), figure, fig2ab.describe(sweeps) | {"tables": str(tables)}, fig2ab.draw(sweeps))
    paths = [Path(path) for path in detectors]
    if not paths or (len(paths) > 1 and figure != "region"):
        raise InputError(f"{figure} needs one detector file or run folder, not {len(paths)}")
    predictor = Predictor.load(paths[0])
    if data is None:
        truth = hidden_truth(paths[0])
    else:
        truth = read_truth(AnnotationSource.of(data, images, format, subset), categories=predictor.categories)
    truth = truth.spread(limit)
    numbers, drawn = _BY_DETECTOR[figure](Request(paths, DetectorOutputs(predictor, truth), threshold, ratio))
    about = {"detector": ", ".join(map(str, paths)), "data": truth.source, "images": len(truth.objects.images)}
    return _write(Path(output), figure, about | numbers, drawn)


def _write(folder: Path, name: str, numbers: dict[str, Any], figure: Figure) -> Analysis:
    picture, file = folder / f"{name}.png", folder / f"{name}.json"
    write_json(file, {"figure": name, **numbers})
    with refusal_explained(picture):
        figure.savefig(picture)
    return Analysis(numbers["summary"], picture, file)
