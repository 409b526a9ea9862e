"""What a finished run leaves of its evaluation in files: numbers, the detections they are from, and two figures."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter

from denseteacher.evaluation.diagnostics import confusion_matrix, match_arrays, precision_recall
from denseteacher.evaluation.summary import RunEvaluation
from denseteacher.evaluation.thresholds import OperatingPoint, score_curves
from denseteacher.files import write_json, write_text
from denseteacher.report.charts import confusion_figure, precision_recall_figure, score_figure
from denseteacher.runs.damage import damage_explained
from denseteacher.runs.folder import RunFolder
from denseteacher.visualization.boxes import SHOWN_ABOVE
from denseteacher.visualization.figure import save_png


def write_evaluation(folder: RunFolder, found: RunEvaluation, results: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``evaluation.json``, ``detections.json`` (COCO results) and ``per_class.csv``.

    Raises:
        RunError: If the disk refuses.
    """
    write_json(folder.evaluation, found.content())
    write_json(folder.detections, list(results), indent=None)
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    points = [one.best or [None] * len(OperatingPoint._fields) for one in found.classes]
    heads = [f"best_{name}" for name in OperatingPoint._fields]
    writer.writerow(["class", "objects", *found.classes[0].scores, *heads])
    writer.writerows(
        [plain_cell(one.name), one.objects, *one.scores.values(), *point]
        for one, point in zip(found.classes, points, strict=True)
    )
    write_text(folder.per_class, table.getvalue())


def plain_cell(name: str) -> str:
    """A text that a spreadsheet takes for no formula: behind an apostrophe where it begins as one."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


class _Result(NamedTuple):
    """A COCO result."""

    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    score: float


def read_evaluation(folder: RunFolder) -> RunEvaluation | None:
    """The evaluation of a run; None where it was not evaluated, or by a version that wrote none.

    Raises:
        InputError: If its file is damaged.
    """
    file = folder.evaluation
    if not file.is_file():
        return None
    with damage_explained(file):
        found = TypeAdapter(RunEvaluation).validate_json(file.read_bytes())
        if not found.classes:
            raise ValueError
    return found


def read_detections(folder: RunFolder) -> list[dict[str, Any]] | None:
    """The COCO results that a run's evaluation is from; None where it has none.

    Raises:
        InputError: If their file is damaged.
    """
    file = folder.detections
    if not file.is_file():
        return None
    with damage_explained(file):
        results: list[dict[str, Any]] = json.loads(file.read_bytes())
        TypeAdapter(list[_Result]).validate_python(results)
    return results


def write_figures(folder: RunFolder, truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``pr_curve.png``, ``confusion_matrix.png`` and precision, recall and F1 against score.

    Raises:
        RunError: If the disk refuses.
    """
    matched = match_arrays(truth, results)
    matrix = confusion_matrix(matched.arrays, score=SHOWN_ABOVE)
    save_png(folder.pr_curve, precision_recall_figure(precision_recall(matched)))
    save_png(folder.confusion_matrix, confusion_figure(matrix, matched.arrays.names))
    curves = score_curves(matched)
    save_png(folder.precision_curve, score_figure(curves, "precision"))
    save_png(folder.recall_curve, score_figure(curves, "recall"))
    save_png(folder.f1_curve, score_figure(curves, "F1"))
