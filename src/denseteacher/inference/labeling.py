"""Pre-annotation: a detector's boxes as a first draft for a labeling tool."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from denseteacher.data.choices import LabelFormat
from denseteacher.data.formats import Fault, read_unlabeled
from denseteacher.data.formats.writers import write_annotations
from denseteacher.data.images import load_image
from denseteacher.data.records import ImageRecord, LabeledImages
from denseteacher.errors import InputError, RunError
from denseteacher.inference.predictor import Predictor
from denseteacher.structures import Detections

_BATCH = 8


class ClassCount(NamedTuple):
    """What was found of one class."""

    name: str
    images: int
    boxes: int
    mean_score: float
    """nan where there are no boxes."""


class LabelingOutcome(NamedTuple):
    """What a pre-annotation run did."""

    images: int
    boxes: int
    classes: list[ClassCount]
    without_boxes: list[str]
    """Image files in which nothing was found."""
    unreadable: list[str]
    """One sentence for each file that is no readable image."""
    hint: str
    """What imports the result, and how."""


def label_images(
    detector: Path,
    source: Path,
    output: Path,
    *,
    to: LabelFormat,
    images: Path | None = None,
    score: float = 0.3,
    top: int = 100,
    class_scores: Mapping[str, float] | None = None,
) -> LabelingOutcome:
    """Writes a detector's boxes in images as annotations to correct.

    Args:
        detector: Detector file or run folder.
        source: Unlabeled images; see ``read_unlabeled``.
        output: Folder to write to, new or empty.
        to: The format; see ``data.formats.writers``.
        images: Folder that a list's or a JSON's paths are relative to.
        score: Boxes with a lower score are left out.
        top: Most boxes an image, those with the highest scores.
        class_scores: Another ``score`` for some classes.

    Raises:
        InputError: If there are no images or no such class, or ``output`` is not empty.
        RunError: If the disk refuses.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} is not empty: choose another --output; nothing was changed")
    predictor, floors = _load(detector, score, class_scores or {})
    unreadable: list[str] = []

    def pass_over(faults: Sequence[Fault]) -> None:
        unreadable.extend(fault.message for fault in faults)

    records = read_unlabeled(source, images, report=pass_over)
    detected = _detect(predictor, records, unreadable)
    found = [(record, _chosen(detections, floors, top)) for record, detections in detected]
    if not found:
        raise InputError(f"none of the images of {source} can be read; the first: {unreadable[0]}")
    data = LabeledImages(
        [record for record, _ in found],
        [chosen.boxes.numpy() for _, chosen in found],
        [chosen.labels.numpy() for _, chosen in found],
        predictor.categories,
    )
    scores = [chosen.scores.numpy() for _, chosen in found]
    try:
        output.mkdir(parents=True, exist_ok=True)
        hint = write_annotations(to, data, scores, output)
    except OSError as error:
        raise RunError(f"{output} can't be written: {error.strerror}") from error
    empty = [record.name for record, chosen in found if not len(chosen.scores)]
    boxes = sum(map(len, scores))
    return LabelingOutcome(len(found), boxes, _count(data, scores), empty, unreadable, hint)


def _load(detector: Path, score: float, class_scores: Mapping[str, float]) -> tuple[Predictor, npt.NDArray[np.float32]]:
    """The detector, whose own floor is no higher than what is asked for, and the (K,) lowest score of each class."""
    predictor = Predictor.load(detector)
    names = predictor.class_names
    unknown = [name for name in class_scores if name not in names]
    if unknown:
        raise InputError(f"the detector has no class {unknown[0]!r}; it has {', '.join(names[:20])}")
    floors = np.array([class_scores.get(name, score) for name in names], dtype=np.float32)
    if floors.min() < predictor.card.detector.score_floor:
        predictor = Predictor.load(detector, score_floor=float(floors.min()))
    return predictor, floors


def _detect(
    predictor: Predictor, records: Sequence[ImageRecord], unreadable: list[str]
) -> Iterator[tuple[ImageRecord, Detections]]:
    """Detections of the images that can be read, in order."""
    for start in range(0, len(records), _BATCH):
        readable: list[tuple[ImageRecord, Tensor]] = []
        for record in records[start : start + _BATCH]:
            try:
                readable.append((record, load_image(record)))
            except InputError as error:
                unreadable.append(str(error))
        arrays = [pixels.permute(1, 2, 0).contiguous().numpy() for _, pixels in readable]
        for (record, _), detections in zip(readable, predictor.predict(arrays, batch_size=_BATCH), strict=True):
            yield record, detections


def _chosen(detections: Detections, floors: npt.NDArray[np.float32], top: int) -> Detections:
    boxes, scores, labels = detections
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1).numpy()
    kept = np.flatnonzero((scores.numpy() >= floors[labels.numpy()]) & has_area)[:top]
    return Detections(boxes[kept], scores[kept], labels[kept])


def _count(data: LabeledImages, scores: Sequence[npt.NDArray[np.float32]]) -> list[ClassCount]:
    counts = []
    for label, category in enumerate(data.categories):
        own = [image_scores[labels == label] for labels, image_scores in zip(data.labels, scores, strict=True)]
        of_class = np.concatenate(own)
        mean = float(of_class.mean()) if len(of_class) else float("nan")
        counts.append(ClassCount(category.name, sum(len(one) > 0 for one in own), len(of_class), mean))
    return counts
