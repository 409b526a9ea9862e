"""Pictures of what a run trains on, for its folder and for TensorBoard."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from denseteacher.data.loading.steps import StepDataset
from denseteacher.detectors import DenseDetector
from denseteacher.errors import InputError
from denseteacher.methods import Method
from denseteacher.report.unlabeled_examples import UnlabeledExample, first_views, image_pixels, unlabeled_examples
from denseteacher.structures import Detections, ImageBatch, SemiBatch, Targets
from denseteacher.visualization.boxes import SHOWN_ABOVE, draw_boxes, draw_detections, fitted, picture_sheet
from denseteacher.visualization.heatmap import heat_overlay

_COLUMNS = 4
_SIDE = 320  # px of a picture
_LIVE_SIDE = 208  # px of one that is drawn again and again


def begin_previews(
    folder: Path,
    dataset: StepDataset,
    *,
    method: Method,
    device: torch.device,
) -> Callable[[DenseDetector], Image.Image] | None:
    """Writes a run's first views, and gives what draws what a teacher says of the unlabeled ones of them.

    A picture is no reason for a run to end: where an image can't be read, the run itself will say so.

    Args:
        folder: For the pictures.
        dataset: The run's steps.
        method: Method of the run.
        device: Where its teacher is.

    Returns:
        ``teacher_sheet`` of these views; None where there are none.
    """
    names = [category.name for category in dataset.labeled.categories]
    try:
        views = first_views(dataset)
        write_first_views(folder, views, names)
    except (InputError, OSError) as error:
        warnings.warn(f"there are no previews: {error}", stacklevel=2)
        return None
    if views.unlabeled is None:
        return None
    return partial(teacher_sheet, method=method, views=views, names=names, device=device)


def write_first_views(folder: Path, views: SemiBatch, names: list[str]) -> None:
    """Writes ``labeled_weak.jpg``, ``labeled_strong.jpg`` and likewise ``unlabeled_*``, with what boxes there are.

    Args:
        folder: For the pictures; made if needed.
        views: Views of a run's first step.
        names: Names of the classes.

    Raises:
        OSError: If the disk refuses.
    """
    labeled, unlabeled = views
    sheets: dict[str, tuple[ImageBatch, Targets | None]] = {
        "labeled_weak": (labeled.weak, labeled.targets),
        "labeled_strong": (labeled.strong, labeled.targets),
    }
    if unlabeled is not None:
        moved = unlabeled.to_strong is not None
        sheets["unlabeled_weak"] = unlabeled.weak, unlabeled.hidden_targets
        sheets["unlabeled_strong"] = unlabeled.strong, None if moved else unlabeled.hidden_targets
    folder.mkdir(parents=True, exist_ok=True)
    for name, (images, targets) in sheets.items():
        _sheet(images, targets, names).save(folder / f"{name}.jpg", quality=88)


def teacher_sheet(
    teacher: DenseDetector, *, method: Method, views: SemiBatch, names: list[str], device: torch.device
) -> Image.Image:
    """A row an unlabeled image: its weak view, the teacher's scores, and what a student is taught of them.

    Args:
        teacher: On ``device``, in eval mode.
        method: Method of the run.
        views: With unlabeled images, on the CPU.
        names: Names of the classes.
        device: Where to compute.
    """
    rows = [_row(one, names) for one in unlabeled_examples(method, teacher, views, device)[:_COLUMNS]]
    return picture_sheet([list(row.values()) for row in rows], list(rows[0]))


def _row(example: UnlabeledExample, names: list[str]) -> dict[str, Image.Image]:
    """Pictures by their captions."""
    weak = Image.fromarray(example.weak)
    if example.region is not None:
        taught = {"dense pseudo-label": fitted(heat_overlay(example.weak, example.region), _LIVE_SIDE)}
    elif example.pseudo_boxes is not None:
        taught = {"pseudo-boxes": _with_detections(weak, example.pseudo_boxes, names, score_floor=0.0)}
    else:
        found = _with_detections(weak, example.detections, names, score_floor=SHOWN_ABOVE)
        taught = {f"detections above {SHOWN_ABOVE}": found}
    scores = fitted(heat_overlay(example.weak, example.scores), _LIVE_SIDE)
    return {"unlabeled, weak view": fitted(weak, _LIVE_SIDE), "teacher's scores": scores, **taught}


def _with_detections(
    image: Image.Image, detections: Detections, names: list[str], *, score_floor: float
) -> Image.Image:
    boxes = detections.boxes * (_LIVE_SIDE / max(image.size))
    return draw_detections(fitted(image, _LIVE_SIDE), detections._replace(boxes=boxes), names, score_floor=score_floor)


def _sheet(images: ImageBatch, targets: Targets | None, names: list[str]) -> Image.Image:
    pictures = []
    for index in range(len(images.sizes)):
        image = Image.fromarray(image_pixels(images, index))
        factor, image = _SIDE / max(image.size), fitted(image, _SIDE)
        if targets is not None:
            there = targets.mask[index]
            boxes, labels = (targets.boxes[index][there] * factor).tolist(), targets.labels[index][there].tolist()
            image = draw_boxes(image, boxes, labels, names)
        pictures.append(image)
    return picture_sheet([pictures[start : start + _COLUMNS] for start in range(0, len(pictures), _COLUMNS)])
