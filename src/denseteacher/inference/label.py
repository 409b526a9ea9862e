"""Pre-annotation: a detector's boxes as a first draft for a labeling tool."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from denseteacher.data.choices import LabelFormat
from denseteacher.data.formats import Fault, read_unlabeled
from denseteacher.data.images import load_image
from denseteacher.data.records import Category, ImageRecord, LabeledImages
from denseteacher.data.writers import write_annotations
from denseteacher.errors import InputError
from denseteacher.files import refusal_explained, require_empty
from denseteacher.inference.predictor import Predictor, predict_readable
from denseteacher.structures import Detections


class ClassBoxes(NamedTuple):
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
    classes: list[ClassBoxes]
    without_boxes: list[str]
    """Image files in which nothing was found."""
    unreadable: list[str]
    """One sentence for each file that is not a readable image."""
    hint: str
    """What imports the result, and how."""


def label_images(
    detector: str | Path,
    source: str | Path,
    output: str | Path,
    *,
    to: LabelFormat,
    images: str | Path | None = None,
    score: float = 0.3,
    top: int = 100,
    class_scores: Mapping[str, float] | None = None,
) -> LabelingOutcome:
    """Writes a detector's boxes in images as annotations to correct.

    Args:
        detector: Detector file or run folder.
        source: Unlabeled images; see ``read_unlabeled``.
        output: Folder to write to, new or empty.
        to: The format; see ``data.writers``.
        images: Folder that a list's or a JSON's paths are relative to.
        score: Boxes with a lower score are left out.
        top: Most boxes an image, those with the highest scores.
        class_scores: Another ``score`` for some classes.

    Raises:
        InputError: If there are no images or no such class, or ``output`` is not empty.
        RunError: If the disk refuses.
    """
    source, output = Path(source), Path(output)
    require_empty(output)
    predictor, floors = load_with_floors(Path(detector), score, class_scores or {})
    unreadable: list[str] = []

    def pass_over(faults: Sequence[Fault]) -> None:
        unreadable.extend(fault.message for fault in faults if not fault.harmless)

    records = read_unlabeled(source, None if images is None else Path(images), on_fault=pass_over)
    detected = predict_readable(predictor, records, load_image, lambda one: (one.height, one.width), unreadable)
    by_position = {position: best_boxes(detections, floors, top) for position, _, detections in detected}
    found = [(records[position], by_position[position]) for position in sorted(by_position)]
    if not found:
        raise InputError(f"none of the images of {source} can be read; the first: {unreadable[0]}")
    data, scores = as_annotations(found, predictor.categories)
    with refusal_explained(output), all_or_nothing(output):
        output.mkdir(parents=True, exist_ok=True)
        hint = write_annotations(to, data, scores, output)
    empty = [record.name for record, chosen in found if not len(chosen.scores)]
    boxes = sum(map(len, scores))
    return LabelingOutcome(len(found), boxes, _count(data, scores), empty, unreadable, hint)


def as_annotations(
    found: Sequence[tuple[ImageRecord, Detections]], categories: Sequence[Category]
) -> tuple[LabeledImages, list[npt.NDArray[np.float32]]]:
    """Detections as boxes of labeled images, and their scores.

    Args:
        found: The images, and what is to be written of each.
        categories: The classes.
    """
    data = LabeledImages(
        [record for record, _ in found],
        [chosen.boxes.numpy() for _, chosen in found],
        [chosen.labels.numpy() for _, chosen in found],
        list(categories),
    )
    return data, [chosen.scores.numpy() for _, chosen in found]


@contextmanager
def all_or_nothing(folder: Path) -> Iterator[None]:
    """Takes away a folder that was not written to the end: what is there looks complete.

    Args:
        folder: It must not have been there, or have been empty.
    """
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def load_with_floors(
    detector: Path, score: float, class_scores: Mapping[str, float]
) -> tuple[Predictor, npt.NDArray[np.float32]]:
    """The detector, whose own floor is no higher than what is asked for, and the (K,) lowest score of each class.

    Args:
        detector: Detector file or run folder.
        score: Lowest score of a box.
        class_scores: Another one for some classes.

    Raises:
        InputError: If there is no detector, or no such class.
    """
    predictor = Predictor.load(detector)
    names = predictor.class_names
    unknown = [name for name in class_scores if name not in names]
    if unknown:
        raise InputError(f"the detector has no class {unknown[0]!r}; it has {', '.join(names[:20])}")
    floors = np.array([class_scores.get(name, score) for name in names], dtype=np.float32)
    if floors.min() < predictor.card.detector.score_floor:
        predictor = Predictor.load(detector, score_floor=float(floors.min()))
    return predictor, floors


def best_boxes(detections: Detections, floors: npt.NDArray[np.float32], top: int) -> Detections:
    """The detections of an image that become its draft: those that have an area and a high enough score.

    Args:
        detections: By falling score.
        floors: (K,) lowest score of each class.
        top: Most of them.
    """
    boxes, scores, labels = detections
    has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1).numpy()
    kept = np.flatnonzero((scores.numpy() >= floors[labels.numpy()]) & has_area)[:top]
    return Detections(boxes[kept], scores[kept], labels[kept])


def _count(data: LabeledImages, scores: Sequence[npt.NDArray[np.float32]]) -> list[ClassBoxes]:
    counts = []
    for label, category in enumerate(data.categories):
        own = [image_scores[labels == label] for labels, image_scores in zip(data.labels, scores, strict=True)]
        of_class = np.concatenate(own)
        mean = float(of_class.mean()) if len(of_class) else float("nan")
        counts.append(ClassBoxes(category.name, sum(len(one) > 0 for one in own), len(of_class), mean))
    return counts
