"""What a finished run leaves of its evaluation in files: numbers, the detections they are from, and two figures."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from denseteacher.evaluation.diagnostics import confusion_matrix, match_scene, precision_recall
from denseteacher.evaluation.summary import ClassScore, RunEvaluation
from denseteacher.files import refusal_explained, write_json
from denseteacher.report.evaluation_figures import confusion_figure, precision_recall_figure
from denseteacher.report.pictures import SHOWN_ABOVE
from denseteacher.visualization.figure import save_png

_EVALUATION, _DETECTIONS = "evaluation.json", "detections.json"


def write_evaluation(folder: Path, found: RunEvaluation, results: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``evaluation.json``, ``detections.json`` (COCO results) and ``per_class.csv``.

    Raises:
        RunError: If the disk refuses.
    """
    write_json(folder / _EVALUATION, found._asdict() | {"classes": [one._asdict() for one in found.classes]})
    write_json(folder / _DETECTIONS, list(results), indent=None)
    table = folder / "per_class.csv"
    with refusal_explained(table), table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "objects", *found.classes[0].scores])
        writer.writerows([one.name, one.objects, *one.scores.values()] for one in found.classes)


def read_evaluation(folder: Path) -> RunEvaluation | None:
    """The evaluation of a run; None where it was not evaluated, or by a version that wrote none."""
    file = folder / _EVALUATION
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    return RunEvaluation(**content | {"classes": [ClassScore(**one) for one in content["classes"]]})


def read_detections(folder: Path) -> list[dict[str, Any]] | None:
    """The COCO results that a run's evaluation is from; None where it has none."""
    file = folder / _DETECTIONS
    return list(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def write_figures(folder: Path, truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``pr_curve.png`` and ``confusion_matrix.png``.

    Raises:
        OSError: If the disk refuses.
    """
    matched = match_scene(truth, results)
    matrix = confusion_matrix(matched.scene, score=SHOWN_ABOVE)
    save_png(folder / "pr_curve.png", precision_recall_figure(precision_recall(matched)))
    save_png(folder / "confusion_matrix.png", confusion_figure(matrix, matched.scene.names))
