"""Unlabeled images as examples: what a teacher says of them, and what of it a student is taught."""

from typing import NamedTuple, cast

import torch

from denseteacher.data.loading.steps import LoadedStep, StepDataset, with_strong_views
from denseteacher.detectors import DenseDetector
from denseteacher.methods import Method
from denseteacher.structures import Detections, ImageBatch, SemiBatch, take, to
from denseteacher.visualization.heatmap import Heat, Pixels, score_map

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
    richness = output.logits.sigmoid().amax(-1)
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
