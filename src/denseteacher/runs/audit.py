"""Labels that are probably wrong or missing, from a detector: ranked, as a page, a table, and a draft to correct."""

import csv
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from denseteacher.data.choices import LabelFormat
from denseteacher.data.formats import Annotations, AnnotationSource, Notes, read_annotations, with_categories
from denseteacher.data.images import load_image
from denseteacher.data.open import open_data
from denseteacher.data.records import ImageRecord, LabeledImages
from denseteacher.data.writers import write_annotations
from denseteacher.errors import InputError
from denseteacher.evaluation.arrays import EvalArrays, read_arrays
from denseteacher.evaluation.evaluator import coco_results
from denseteacher.evaluation.label_errors import FaultKind, LabelFault, count_kinds, label_faults
from denseteacher.files import refusal_explained, require_empty, write_text
from denseteacher.inference.predictor import Predictor, predict_readable
from denseteacher.report.audit_page import AuditPage, write_audit_page
from denseteacher.runs.evaluate import plain_cell
from denseteacher.runs.folder import RunFolder

LEAST_DETECTION = 0.02
"""Class score from which a detection is something seen, where a label is doubted since nothing is."""


class LabelInDoubt(NamedTuple):
    """A label that is probably wrong, or a place that probably lacks one; boxes are x, y, width, height in pixels."""

    kind: FaultKind
    score: float
    """How probable it is compared with the others, from 0 to 1."""
    image: str
    """The image file."""
    image_id: int
    annotation: int | None
    """Id of the label; None where one is missing."""
    label: str | None
    label_box: list[float] | None
    detected: str | None
    """Class of the detection; None where there is nothing to see."""
    detection_score: float | None
    detection_box: list[float] | None

    def sentence(self) -> str:
        """What it is, in words."""
        file = Path(self.image).name
        seen = "" if self.detected is None else f"'{self.detected}' (score {self.detection_score:.2f})"
        said = {
            "missed": f"no label for {seen}",
            "phantom": f"nothing is seen at '{self.label}'",
            "other class": f"'{self.label}' looks like {seen}",
            "loose box": f"the box of '{self.label}' does not fit {seen}",
        }[self.kind]
        return f"{self.kind} {self.score:.2f}: {said} in {file}"


class AuditOutcome(NamedTuple):
    """What an audit found and wrote."""

    images: int
    labels: int
    found: list[LabelInDoubt]
    """Cases by falling score."""
    kinds: dict[FaultKind, int]
    trained_on: int | None
    """Images that the detector was trained on with labels; None where that is not known."""
    notes: list[str]
    """What a reader must know before believing it."""
    unreadable: list[str]
    """One sentence for each file that is not a readable image."""
    page: Path
    table: Path
    hint: str
    """What imports the draft, and how."""

    def content(self) -> dict[str, Any]:
        """All of it, for a JSON."""
        plain = self._asdict() | {"page": str(self.page), "table": str(self.table)}
        return plain | {"found": [one._asdict() for one in self.found]}


def audit_labels(
    detector: str | Path,
    labeled: AnnotationSource,
    output: str | Path,
    *,
    to: LabelFormat = "coco",
    score: float = 0.3,
    top: int = 100,
) -> AuditOutcome:
    """Compares labels with a detector's confident detections.

    Writes ``audit.html``, ``findings.csv``, and below ``draft`` the images in doubt, the most doubtful first, with
    their labels and the detections that no label covers.

    Args:
        detector: Detector file or run folder.
        labeled: Labels to look at.
        output: Folder to write to, new or empty.
        to: What the draft is written as; see ``data.writers``.
        score: What has a lower score is left out.
        top: Most cases with a picture on the page.

    Raises:
        InputError: If the labels can't be read, have a class that the detector lacks, none of their images can be read,
            or ``output`` is not empty.
        RunError: If the disk refuses.
    """
    output = Path(output)
    require_empty(output)
    predictor, notes = _load(Path(detector)), Notes()
    annotations = with_categories(read_annotations(labeled, on_fault=notes), predictor.categories)
    trained_on, about = _trained_on(RunFolder.of(Path(detector)), annotations)
    unreadable: list[str] = []
    annotations, results = _detect(predictor, annotations, unreadable)
    arrays = read_arrays(annotations.content, results)
    faults = label_faults(arrays, at_least=score)
    records = {record.id: record for record in annotations.records}
    shown = [records[image["id"]] for image in arrays.images]
    found = [_in_words(fault, annotations, arrays, shown) for fault in faults]
    kinds, said = count_kinds(faults), [*about, *notes.sentences]
    labels = int((~arrays.truth.crowd).sum())
    summary = f"{len(found):,} cases of labels that may be wrong or missing, where {labeled.path.name} has {labels:,}."
    page = AuditPage(summary, said, faults, [one.sentence() for one in found], kinds, arrays, shown)
    files = output / "audit.html", output / "findings.csv"
    outcome = AuditOutcome(len(shown), labels, found, kinds, trained_on, said, unreadable, *files, hint="")
    try:
        write_audit_page(outcome.page, page, top=top)
        write_text(outcome.table, _table(found))
        hint = _write_draft(output / "draft", to, predictor, arrays, faults, shown)
    except BaseException:  # what is there looks complete
        shutil.rmtree(output, ignore_errors=True)
        raise
    return outcome._replace(hint=hint)


def _load(detector: Path) -> Predictor:
    """The detector, whose own floor is low enough to know where it sees nothing."""
    predictor = Predictor.load(detector)
    if predictor.card.detector.score_floor > LEAST_DETECTION:
        predictor = Predictor.load(detector, score_floor=LEAST_DETECTION)
    return predictor


def _detect(
    predictor: Predictor, annotations: Annotations, unreadable: list[str]
) -> tuple[Annotations, list[dict[str, Any]]]:
    """The images that can be read with their labels, and the detections in them as COCO results.

    Raises:
        InputError: If none can.
    """
    records, content = annotations.records, annotations.content
    detected = predict_readable(predictor, records, load_image, lambda one: (one.height, one.width), unreadable)
    results: list[dict[str, Any]] = []
    seen = set()
    for position, _, detections in detected:
        seen.add(records[position].id)
        results.extend(coco_results(records[position].id, detections, predictor.categories))
    if not seen:
        raise InputError(f"none of the images of {annotations.path} can be read; the first: {unreadable[0]}")
    readable = {
        "images": [image for image in content["images"] if image["id"] in seen],
        "annotations": [one for one in content["annotations"] if one["image_id"] in seen],
    }
    return annotations._replace(content=content | readable), results


def _trained_on(run: RunFolder, annotations: Annotations) -> tuple[int | None, list[str]]:
    """How many of the images are labeled ones of the run, and sentences on what that means."""
    learned = "a detector that was trained on these very labels has learned their mistakes and finds fewer of them"
    advice = "to doubt labels with fresh eyes, audit those that a run was not trained on (its --val, another fold)"
    if not (run.exists and run.split.is_file()):
        return None, [f"What the detector was trained on is not known, since it is not in a run folder: {learned}."]
    recipe = run.recipe().data
    try:
        labeled = open_data(recipe.model_copy(update={"split": run.split, "unlabeled": None, "val": None})).labeled
    except InputError as error:
        return None, [f"Which images {run} was trained on can't be told ({error}): {learned}."]
    files = {record.path.resolve() for record in labeled.images}
    same = sum(record.path.resolve() in files for record in annotations.records)
    if not same:
        return 0, []
    return same, [f"{same:,} of the {len(annotations.records):,} images are among those that {run} was trained on with "
                  f"labels: {learned}; {advice}."]  # fmt: skip


def _in_words(
    fault: LabelFault, annotations: Annotations, arrays: EvalArrays, records: Sequence[ImageRecord]
) -> LabelInDoubt:
    truth, predictions = arrays.truth, arrays.predictions
    record, label, detection = records[fault.image], fault.label, fault.detection
    return LabelInDoubt(
        fault.kind,
        round(fault.score, 4),
        record.name,
        record.id,
        annotation=None if label is None else annotations.content["annotations"][label]["id"],
        label=None if label is None else arrays.names[truth.classes[label]],
        label_box=None if label is None else _sides(truth.boxes[label]),
        detected=None if detection is None else arrays.names[predictions.classes[detection]],
        detection_score=None if detection is None else round(float(predictions.scores[detection]), 4),
        detection_box=None if detection is None else _sides(predictions.boxes[detection]),
    )


def _sides(corners: Any) -> list[float]:
    left, top, right, bottom = corners.tolist()
    return [round(value, 2) for value in (left, top, right - left, bottom - top)]


def _table(found: Sequence[LabelInDoubt]) -> str:
    """CSV with a row each, the most doubtful first."""
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    nothing: list[float | None] = [None] * 4
    sides = ("x", "y", "width", "height")
    heads = ("rank", "kind", "score", "image", "image_id", "annotation", "label", *(f"label_{side}" for side in sides))
    writer.writerow([*heads, "detected", "detection_score", *(f"detection_{side}" for side in sides)])
    for rank, one in enumerate(found, 1):
        place = rank, one.kind, one.score, plain_cell(one.image), one.image_id, one.annotation
        drawn = plain_cell(one.label or ""), *(one.label_box or nothing)
        seen = plain_cell(one.detected or ""), one.detection_score, *(one.detection_box or nothing)
        writer.writerow([*place, *drawn, *seen])
    return table.getvalue()


def _write_draft(
    folder: Path,
    to: LabelFormat,
    predictor: Predictor,
    arrays: EvalArrays,
    faults: Sequence[LabelFault],
    records: Sequence[ImageRecord],
) -> str:
    """Writes the images in doubt with their labels, and with the detections that no label covers.

    A label's score is 1, less that of its fault; a detection has its own.
    """
    if not faults:
        return "nothing is in doubt, so there is no draft"
    truth, predictions = arrays.truth, arrays.predictions
    trust = np.ones(len(truth.boxes))
    for fault in faults:
        if fault.label is not None:
            trust[fault.label] = 1 - fault.score
    images, boxes, labels, scores = [], [], [], []
    for image in dict.fromkeys(fault.image for fault in faults):
        has_area = (truth.boxes[:, 2:] > truth.boxes[:, :2]).all(axis=1)
        drawn = np.flatnonzero((truth.images == image) & ~truth.crowd & has_area)
        missed = [one.detection for one in faults if one.image == image and one.kind == "missed"]
        added = np.array(missed, dtype=np.int64)
        images.append(records[image])
        boxes.append(np.concatenate([truth.boxes[drawn], predictions.boxes[added]]).astype(np.float32))
        labels.append(np.concatenate([truth.classes[drawn], predictions.classes[added]]))
        scores.append(np.concatenate([trust[drawn], predictions.scores[added]]).astype(np.float32))
    with refusal_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return write_annotations(to, LabeledImages(images, boxes, labels, predictor.categories), scores, folder)
