"""How long a run takes on this machine's CPU, measured on a pass of its networks."""

import time
from typing import NamedTuple

import numpy as np
import torch

from denseteacher.data.objects import image_sizes
from denseteacher.data.records import LabeledImages
from denseteacher.data.sizes import common_canvas
from denseteacher.detectors import DenseDetector, build_detector
from denseteacher.methods import SemiSupervised
from denseteacher.object_scales import middle_scale
from denseteacher.recipe import Recipe, load_recipe, resolve_auto
from denseteacher.structures import ImageBatch
from denseteacher.training.flops import pass_flops, step_flops
from denseteacher.training.forecast import SMALL_RECIPE
from denseteacher.view_sizes import resolve_sizes

_MEASURED = 4e10  # operations of the measured pass, at most: a second or less
_LONG = 600.0  # seconds
_MUCH_SHORTER = 3.0  # times


class Duration(NamedTuple):
    """Time of a run's networks on this CPU; views, losses and evaluations come on top."""

    steps: int
    seconds: float
    """Of all steps."""
    measured: tuple[int, int]
    """Height and width of the canvas whose pass was measured; the rest is counted in operations."""
    threads: int


def measure_duration(recipe: Recipe, labeled: LabeledImages, *, unlabeled: int) -> Duration:
    """Times one forward and backward pass on one image, and counts how many of them the run takes.

    Args:
        recipe: Resolved.
        labeled: Says how large the views are.
        unlabeled: Number of unlabeled images.
    """
    detector = build_detector(recipe.detector.model_copy(update={"pretrained": False}), len(labeled.categories))
    detector = detector.to(memory_format=torch.channels_last).train()
    canvas = _usual_canvas(recipe, labeled)
    flops = pass_flops(detector, canvas)
    pixels = canvas[0] * canvas[1]
    part = min(1.0, (_MEASURED / (flops.training * pixels)) ** 0.5)
    measured = common_canvas([(max(1, int(canvas[0] * part) - 31), max(1, int(canvas[1] * part) - 31))])
    if part == 1.0:
        measured = canvas
    speed = pass_flops(detector, measured).training * measured[0] * measured[1] / _pass_seconds(detector, measured)
    batches = step_flops(flops, recipe.data.labeled_batch, recipe.data.unlabeled_batch)
    steps = int(recipe.schedule.max_steps)
    full = steps - int(getattr(recipe.method, "burn_in", 0)) if unlabeled and _learns_unlabeled(recipe) else 0
    seconds = pixels * (batches.supervised * (steps - full) + batches.full * full) / speed
    return Duration(steps, seconds, measured, torch.get_num_threads())


def shorter_run(duration: Duration, labeled: LabeledImages, *, unlabeled: int) -> Duration | None:
    """That of the recipe for CPUs on the same data, where a long run would become much shorter by it."""
    if duration.seconds < _LONG:
        return None
    recipe = resolve_auto(load_recipe(SMALL_RECIPE), labeled=len(labeled.images), unlabeled=unlabeled)
    small = measure_duration(resolve_sizes(recipe, labeled), labeled, unlabeled=unlabeled)
    return small if _MUCH_SHORTER * small.seconds < duration.seconds else None


def batch_cost(recipe: Recipe, detector: DenseDetector) -> str | None:
    """A sentence on what unlabeled images cost where a step has not just as many of them as labeled ones.

    Args:
        recipe: Says how many.
        detector: In training mode, with or without storage.
    """
    labeled, unlabeled = recipe.data.labeled_batch, recipe.data.unlabeled_batch
    if labeled == unlabeled or not _learns_unlabeled(recipe):
        return None
    assert isinstance(detector, torch.nn.Module)
    flops = pass_flops(detector, (256, 256))
    times = step_flops(flops, labeled, unlabeled).full / step_flops(flops, labeled, labeled).full
    return (
        f"a step of {labeled} labeled and {unlabeled} unlabeled images takes {times:.2g} times the operations of one "
        f"of {labeled} and {labeled} (counted)"
    )


def _learns_unlabeled(recipe: Recipe) -> bool:
    return isinstance(recipe.method, SemiSupervised)


def _usual_canvas(recipe: Recipe, labeled: LabeledImages) -> tuple[int, int]:
    """Of views of middle size, all lying on their side."""
    sizes = image_sizes(labeled.images)
    views = np.sort(sizes * middle_scale(sizes, recipe.augment.weak)[:, None], axis=1)
    short, long = np.median(views, axis=0)
    return common_canvas([(int(short), int(long))])


def _pass_seconds(detector: torch.nn.Module, canvas: tuple[int, int]) -> float:
    """The second one's: the first one asks for memory."""
    images = ImageBatch(torch.zeros((1, 3, *canvas), dtype=torch.uint8), torch.tensor([canvas]))
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        output = detector(images)
        predictions = [part for part in (output.logits, output.deltas, output.quality) if part is not None]
        torch.autograd.backward([part.sum() for part in predictions])
        seconds = time.perf_counter() - start
    return seconds
