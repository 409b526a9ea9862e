"""What a run trains on, and what its teacher says of unlabeled images: as values, and as pictures for its folder."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch
from PIL import Image

from denseteacher.data.loading.steps import LoadedStep, StepDataset
from denseteacher.data.loading.strong_views import with_strong_views
from denseteacher.detectors import DenseDetector
from denseteacher.files import write_atomically
from denseteacher.methods import Method
from denseteacher.structures import Detections, ImageBatch, SemiBatch, Targets, take, to
from denseteacher.visualization.boxes import SHOWN_ABOVE, draw_boxes, draw_detections, fitted, picture_sheet
from denseteacher.visualization.heatmap import Heat, Pixels, heat_overlay, score_map

_COLUMNS = 4
_SIDE = 320  # px of a picture
_LIVE_SIDE = 208  # px of one that is drawn again and again

CPU = torch.device("cpu")


class UnlabeledExample(NamedTuple):
    """One unlabeled image; maps and boxes are in the pixels of its weak view."""

    weak: Pixels
    """(H, W, 3) what the teacher sees."""
    strong: Pixels
    """What the student sees."""
    scores: Heat
    """(H, W) the teacher's highest class score."""
    detections: Detections
    """The teacher's, at any score."""
    region: Heat | None
    """(H, W) highest class score of the dense pseudo-label; None for other methods."""
    pseudo_boxes: Detections | None
    """The boxes that a method of pseudo-boxes keeps at its threshold; None for other methods."""


def first_views(dataset: StepDataset, *, most: int = 8) -> SemiBatch:
    """The views of a run's first step, on the CPU, with unlabeled ones wherever there are any.

    Every draw is keyed by its step, so that looking at the step early changes nothing in the run.

    Args:
        dataset: The run's steps.
        most: Images of each kind.

    Raises:
        InputError: If one of the step's images can't be read.
    """
    loaded = _first(dataset.with_unlabeled().load(0), most)
    return with_strong_views(loaded, dataset.augment, seed=dataset.seed, device=CPU)


@torch.no_grad()
def unlabeled_examples(
    method: Method, teacher: DenseDetector, views: SemiBatch, device: torch.device
) -> list[UnlabeledExample]:
    """What the unlabeled images of a step teach.

    Args:
        method: Says what is made of the teacher's predictions.
        teacher: On ``device``, in eval mode.
        views: Views of the step, on the CPU.
        device: Where to compute.
    """
    if views.unlabeled is None:
        return []
    weak = to(views.unlabeled.weak, device)
    output = teacher(weak)
    detections = teacher.detect(output, weak.sizes)
    richness = teacher.class_logits(output).sigmoid().amax(-1)
    region, kept = method.show(teacher, output, weak)
    canvas = cast(tuple[int, int], tuple(weak.pixels.shape[-2:]))
    grid = output.anchors, teacher.shapes(canvas), teacher.strides
    sizes: list[tuple[int, int]] = [(height, width) for height, width in weak.sizes.tolist()]
    return [
        UnlabeledExample(
            weak=image_pixels(views.unlabeled.weak, index),
            strong=image_pixels(views.unlabeled.strong, index),
            scores=score_map(richness[index], *grid, size),
            detections=to(detections[index], CPU),
            region=None if region is None else score_map(region[index], *grid, size),
            pseudo_boxes=None if kept is None else to(kept[index], CPU),
        )
        for index, size in enumerate(sizes)
    ]


def image_pixels(images: ImageBatch, index: int) -> Pixels:
    """(H, W, 3) of one image of a batch, without its padding."""
    height, width = images.sizes[index].tolist()
    pixels: Pixels = images.pixels[index, :, :height, :width].permute(1, 2, 0).contiguous().cpu().numpy()
    return pixels


def _first(loaded: LoadedStep, most: int) -> LoadedStep:
    """The step with no more than the first few images of each kind."""
    first, unlabeled = slice(most), loaded.unlabeled
    return loaded._replace(
        labeled=take(loaded.labeled, first),
        targets=take(loaded.targets, first),
        unlabeled=None if unlabeled is None else take(unlabeled, first),
        labeled_samples=loaded.labeled_samples[first],
        unlabeled_samples=loaded.unlabeled_samples[first],
    )


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
    except Exception as error:
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
        OSError: If the folder can't be made.
        RunError: If the disk refuses.
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
        sheet = _sheet(images, targets, names)
        write_atomically(folder / f"{name}.jpg", partial(sheet.save, format="JPEG", quality=88))


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
