"""How much of the locations is foreground, which says what share of them a teacher should teach."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from denseteacher.data.augment.weak import WeakView, move_boxes, pad_targets
from denseteacher.data.loading.samplers import LabeledSampler, is_portrait
from denseteacher.data.randomness import Draw
from denseteacher.data.records import LabeledImages
from denseteacher.detectors import DenseDetector

_STEPS = 32  # batches that the share of foreground is measured on


class Foreground(NamedTuple):
    """What the detector's own assigner makes of labeled images."""

    images: int
    """Images looked at, as often as they occurred."""
    positives: float
    """Mean number of foreground locations (or anchors) of an image."""
    share: float
    """Share of all locations of the canvas, padding included."""

    multiple: float
    """The method's ``ratio_multiple``."""

    @property
    def ratio(self) -> float:
        """The share of the locations to select: ``ratio: auto``."""
        ratio = min(1.0, max(self.multiple * self.share, 1e-4))
        # three digits: the share is an estimate, and the recipe of the run is meant to be read
        return float(f"{ratio:.3g}")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Computes on one thread tensors so small that sharing them costs more: three times, on two busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def measure_foreground(
    detector: DenseDetector,
    labeled: LabeledImages,
    *,
    weak: WeakView,
    batch: int,
    seed: int,
    multiple: float,
    steps: int = _STEPS,
) -> Foreground:
    """Assigns the weak views of the run's first labeled batches, of which no image has to be decoded.

    Args:
        detector: Whose assigner it is.
        labeled: The labeled images.
        weak: The weak view.
        batch: Labeled images a step.
        seed: Random seed of the run.
        multiple: Times the share of foreground that ``Foreground.ratio`` is.
        steps: Batches, within the first epoch.
    """
    sampler = LabeledSampler(is_portrait(labeled.images), batch, seed)
    images = foreground = locations = 0
    for step in range(min(steps, sampler.batches_per_epoch)):
        positions = sampler.batch(step)
        geometries = [
            weak.draw(
                labeled.images[position].height,
                labeled.images[position].width,
                seed=seed,
                draw=Draw.LABELED_WEAK,
                step=step,
                sample=sample,
            )
            for sample, position in enumerate(positions)
        ]
        sizes = [(geometry.height, geometry.width) for geometry in geometries]
        canvas = weak.canvas_for(sizes, weak.step_side(seed, step))
        anchors = detector.anchors(canvas, torch.device("cpu"))
        for position, geometry in zip(positions, geometries, strict=True):
            image = labeled.images[position]
            boxes = move_boxes(labeled.boxes[position], image.height, image.width, geometry)
            targets = pad_targets([boxes], [labeled.labels[position]])
            foreground += int(detector.foreground(targets, anchors).sum())
            locations += len(anchors)
            images += 1
    return Foreground(images, foreground / max(images, 1), foreground / max(locations, 1), multiple)
