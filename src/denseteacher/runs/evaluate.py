"""What a finished run leaves of its evaluation in files: numbers, the detections they are from, and two figures."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from denseteacher.evaluation.diagnostics import confusion_matrix, match_arrays, precision_recall
from denseteacher.evaluation.summary import ClassScore, RunEvaluation
from denseteacher.files import write_json, write_text
from denseteacher.report.charts import confusion_figure, precision_recall_figure
from denseteacher.runs.folder import RunFolder
from denseteacher.visualization.boxes import SHOWN_ABOVE
from denseteacher.visualization.figure import save_png


def write_evaluation(folder: RunFolder, found: RunEvaluation, results: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``evaluation.json``, ``detections.json`` (COCO results) and ``per_class.csv``.

    Raises:
        RunError: If the disk refuses.
    """
    write_json(folder.evaluation, found._asdict() | {"classes": [one._asdict() for one in found.classes]})
    write_json(folder.detections, list(results), indent=None)
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(["class", "objects", *found.classes[0].scores])
    writer.writerows([_plain_cell(one.name), one.objects, *one.scores.values()] for one in found.classes)
    write_text(folder.per_class, table.getvalue())


def _plain_cell(name: str) -> str:
    """A text that a spreadsheet takes for no formula: behind an apostrophe where it begins as one."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def read_evaluation(folder: RunFolder) -> RunEvaluation | None:
    """The evaluation of a run; None where it was not evaluated, or by a version that wrote none."""
    file = folder.evaluation
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    return RunEvaluation(**content | {"classes": [ClassScore(**one) for one in content["classes"]]})


def read_detections(folder: RunFolder) -> list[dict[str, Any]] | None:
    """The COCO results that a run's evaluation is from; None where it has none."""
    file = folder.detections
    return list(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def write_figures(folder: RunFolder, truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``pr_curve.png`` and ``confusion_matrix.png``.

    Raises:
        OSError: If the disk refuses.
    """
    matched = match_arrays(truth, results)
    matrix = confusion_matrix(matched.arrays, score=SHOWN_ABOVE)
    save_png(folder.pr_curve, precision_recall_figure(precision_recall(matched)))
    save_png(folder.confusion_matrix, confusion_figure(matrix, matched.arrays.names))
