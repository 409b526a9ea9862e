"""Functions that use a trained detector."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.data.choices import ExportFormat, Format, LabelFormat
from denseteacher.data.formats import AnnotationSource, Notes, read_annotations, with_categories
from denseteacher.data.open import Validation
from denseteacher.evaluation.evaluator import Evaluator
from denseteacher.evaluation.metrics import Metrics, fitting_metrics
from denseteacher.inference.export import export_onnx
from denseteacher.inference.predictor import Predictor
from denseteacher.runs.audit import AuditOutcome, audit_labels


class EvaluationResult(NamedTuple):
    """What an evaluation found."""

    metrics: Metrics
    results: list[dict[str, Any]]
    """COCO result entries that the metrics are computed from."""
    score_floor: float
    """Class scores at or below were no detections; numbers with different floors do not compare."""
    notes: tuple[str, ...] = ()
    """Sentences on what stands in the data otherwise than it is read."""


def load(path: str | Path) -> Predictor:
    """A trained detector: from its file, its run folder, or the hub (``hf://OWNER/NAME``, ``hf://OWNER/NAME@REVISION``).

    Raises:
        InputError: If there is none.
        RunError: If the hub can't be reached, and its cache has none.
    """
    return Predictor.load(Path(path))


def evaluate(
    detector: str | Path,
    *,
    data: str | Path,
    images: str | Path | None = None,
    format: Format | None = None,
    subset: str | None = None,
    score_floor: float | None = None,
    workers: int = 0,
    metrics: Sequence[str] | None = None,
) -> EvaluationResult:
    """Metrics of a detector on a labeled data set.

    Args:
        detector: Detector file or run folder.
        data: Annotations of any format (see ``data.formats.read_annotations``).
        images: Folder of its images; found near ``data`` if not given.
        format: The format of ``data``; detected if not given.
        subset: The part of ``data``, where it has several; ``test`` or ``val`` if not given.
        score_floor: Class scores at or below are not detections; the detector's own if not given.
        workers: Loader processes.
        metrics: What to measure besides COCO's AP: ``voc``, ``crowdhuman``; what fits the data if not given.
    """
    predictor, notes = Predictor.load(Path(detector), score_floor=score_floor), Notes()
    source = AnnotationSource.of(data, images, format, subset)
    annotations = read_annotations(source, role="validation", on_fault=notes)
    annotations = with_categories(annotations, predictor.categories)
    evaluator = Evaluator(
        Validation(annotations.records, annotations.content, Path(data)),
        predictor.categories,
        view=predictor.view,
        batch_size=8,
        workers=workers,
        metrics=fitting_metrics(annotations.content, annotations.format) if metrics is None else metrics,
    )
    floor = predictor.card.detector.score_floor
    return EvaluationResult(*evaluator(predictor.detector, predictor.device), floor, notes.sentences)


def audit(
    detector: str | Path,
    labeled: str | Path,
    *,
    images: str | Path | None = None,
    format: Format | None = None,
    subset: str | None = None,
    output: str | Path = "audit",
    to: LabelFormat = "coco",
    score: float = 0.3,
    top: int = 100,
) -> AuditOutcome:
    """Finds labels that are probably wrong or missing, by a detector's confident detections (``runs.audit``).

    Args:
        detector: Detector file or run folder; best of one that was not trained on these labels.
        labeled: Annotations of any format (see ``data.formats.read_annotations``).
        images: Folder of its images; found near ``labeled`` if not given.
        format: The format of ``labeled``; detected if not given.
        subset: The part of ``labeled``, where it has several.
        output: Folder for the page, the table and the draft; new or empty.
        to: What the draft is written as: the images in doubt, with their labels and the detections that none covers.
        score: What has a lower score, from 0 to 1, is left out.
        top: Most cases with a picture on the page.

    Raises:
        InputError: If something given is wrong.
        RunError: If the disk refuses.
    """
    source = AnnotationSource.of(labeled, images, format, subset)
    return audit_labels(detector, source, output, to=to, score=score, top=top)


def export(
    detector: str | Path,
    *,
    output: str | Path,
    format: ExportFormat = "onnx",
    nms: bool = True,
    opset: int | None = None,
) -> None:
    """Writes a detector as one file that runs without torch: any number of images, of any size.

    Args:
        detector: Detector file or run folder.
        output: File to write.
        format: Kind of the file.
        nms: Whether the file ends in detections, or in boxes and scores at every location.
        opset: Version of ONNX's operators; torch's choice if not given.

    Raises:
        InputError: If there is not a detector, ``output`` is there already, or the extra ``onnx`` is not installed.
        RunError: If torch can't export the network, or the disk refuses.
    """
    export_onnx(Path(detector), Path(output), nms=nms, opset=opset)
