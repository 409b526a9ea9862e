"""Pictures of what a run trains on, for its folder and for TensorBoard."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from denseteacher.data.affine import AffineView
from denseteacher.data.loaders import StepDataset
from denseteacher.data.photometry import StrongView
from denseteacher.detectors import DenseDetector
from denseteacher.errors import InputError
from denseteacher.inference.draw import draw_boxes, draw_detections, fitted, picture_sheet
from denseteacher.methods import Method
from denseteacher.report.figures import heat_overlay
from denseteacher.report.guidance import Guidance, first_views, guidance_of, image_pixels
from denseteacher.structures import Detections, ImageBatch, SemiBatch, Targets

_COLUMNS = 4
_SIDE = 320  # px of a picture
_LIVE_SIDE = 208  # px of one that is drawn again and again
_DRAWN_ABOVE = 0.5


def begin_previews(
    folder: Path,
    dataset: StepDataset,
    *,
    method: Method,
    strong: StrongView,
    affine: AffineView | None,
    device: torch.device,
) -> Callable[[DenseDetector], Image.Image] | None:
    """Writes a run's first views, and gives what draws a teacher's guidance on the unlabeled ones of them.

    A picture is no reason for a run to end: where an image can't be read, the run itself will say so.

    Args:
        folder: For the pictures.
        dataset: The run's steps.
        method: Of the run.
        strong: Its strong view.
        affine: Its geometry of strong views.
        device: Where its teacher is.

    Returns:
        ``teacher_sheet`` of these views; None where there are none.
    """
    names = [category.name for category in dataset.labeled.categories]
    try:
        views = first_views(dataset, strong, affine)
        write_first_views(folder, views, names)
    except (InputError, OSError) as error:
        warnings.warn(f"there are no previews: {error}", stacklevel=2)
        return None
    if views.unlabeled_weak is None:
        return None
    return partial(teacher_sheet, method=method, views=views, names=names, device=device)


def write_first_views(folder: Path, views: SemiBatch, names: list[str]) -> None:
    """Writes ``labeled_weak.jpg``, ``labeled_strong.jpg`` and likewise ``unlabeled_*``, with what boxes there are.

    Args:
        folder: For the pictures; made if needed.
        views: Of a run's first step.
        names: Of the classes.

    Raises:
        OSError: If the disk refuses.
    """
    hidden = None if views.provenance is None else views.provenance.hidden
    moved = views.provenance is not None and views.provenance.to_strong is not None
    sheets = {
        "labeled_weak": (views.labeled_weak, views.targets),
        "labeled_strong": (views.labeled_strong, views.targets),
        "unlabeled_weak": (views.unlabeled_weak, hidden),
        "unlabeled_strong": (views.unlabeled_strong, None if moved else hidden),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (images, targets) in sheets.items():
        if images is not None:
            _sheet(images, targets, names).save(folder / f"{name}.jpg", quality=88)


def teacher_sheet(
    teacher: DenseDetector, *, method: Method, views: SemiBatch, names: list[str], device: torch.device
) -> Image.Image:
    """A row an unlabeled image: its weak view, the teacher's scores, and what a student is taught of them.

    Args:
        teacher: On ``device``, in eval mode.
        method: Of the run.
        views: With unlabeled images, on the CPU.
        names: Of the classes.
        device: Where to compute.
    """
    told = guidance_of(method, teacher, views, device)[:_COLUMNS]
    taught = "dense pseudo-label" if told[0].region is not None else "pseudo-boxes"
    last = f"detections above {_DRAWN_ABOVE}" if told[0].region is None and told[0].pseudo_boxes is None else taught
    return picture_sheet([_row(one, names) for one in told], ("unlabeled, weak view", "teacher's scores", last))


def _row(told: Guidance, names: list[str]) -> list[Image.Image]:
    weak = Image.fromarray(told.weak)
    if told.region is not None:
        taught = fitted(heat_overlay(told.weak, told.region), _LIVE_SIDE)
    elif told.pseudo_boxes is not None:
        taught = _with_detections(weak, told.pseudo_boxes, names, score_floor=0.0)
    else:
        taught = _with_detections(weak, told.detections, names, score_floor=_DRAWN_ABOVE)
    return [fitted(weak, _LIVE_SIDE), fitted(heat_overlay(told.weak, told.scores), _LIVE_SIDE), taught]


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
