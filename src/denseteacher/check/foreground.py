"""How much of the locations is foreground, which says what share of them a teacher should teach."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

from denseteacher.check.findings import Finding, finding
from denseteacher.data.geometry import move_boxes, pad_targets
from denseteacher.data.randomness import Draw
from denseteacher.data.records import LabeledImages
from denseteacher.data.samplers import LabeledSampler, is_portrait
from denseteacher.detectors import DenseDetector
from denseteacher.methods import DenseTeacher, Method
from denseteacher.methods.dense_teacher import PAPER_MULTIPLE
from denseteacher.recipe import Recipe

_TOLERANCE = 3.0  # times larger or smaller; within, a ratio does about as well (paper, Table 7a)
_STEPS = 32  # batches that the share of foreground is measured on


class Foreground(NamedTuple):
    """What the detector's own assigner makes of labeled images."""

    images: int
    """Images looked at, as often as they occurred."""
    positives: float
    """Mean number of foreground locations (or anchors) of an image."""
    share: float
    """Of all locations of the canvas, padding included."""

    multiple: float
    """The method's ``ratio_multiple``."""

    @property
    def ratio(self) -> float:
        """The share of the locations to select: ``ratio: auto``."""
        ratio = min(1.0, max(self.multiple * self.share, 1e-4))
        # three digits: the share is an estimate, and the recipe of the run is meant to be read
        return float(f"{ratio:.3g}")


def fixed_ratio(method: Method) -> float | None:
    """The share of locations that Dense Teacher is told to select; None where it selects none or measures it."""
    if isinstance(method, DenseTeacher) and method.region != "all" and not isinstance(method.ratio, str):
        return method.ratio
    return None


def fits(ratio: float, foreground: Foreground) -> bool:
    """Whether a share is about what the foreground calls for; without any nothing can be said."""
    return not foreground.share or 1 / _TOLERANCE < ratio / foreground.ratio < _TOLERANCE


@contextmanager
def _one_thread() -> Iterator[None]:
    """For tensors so small that sharing them costs more than it saves: three times, on two busy cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@_one_thread()
def measure_foreground(
    config: Recipe, detector: DenseDetector, labeled: LabeledImages, *, steps: int = _STEPS
) -> Foreground:
    """Assigns the weak views of the run's first labeled batches, of which no image has to be decoded.

    Args:
        config: Says how views and batches are drawn.
        detector: Whose assigner it is.
        labeled: The labeled images.
        steps: Batches, within the first epoch.
    """
    batch, weak = config.data.labeled_batch, config.augment.weak
    sampler = LabeledSampler(is_portrait(labeled.images), batch, config.seed)
    images = foreground = locations = 0
    for step in range(min(steps, sampler.batches_per_epoch)):
        positions = sampler.batch(step)
        geometries = [
            weak.draw(
                labeled.images[position].height,
                labeled.images[position].width,
                seed=config.seed,
                draw=Draw.LABELED_WEAK,
                step=step,
                slot=slot,
            )
            for slot, position in enumerate(positions)
        ]
        sizes = [(geometry.height, geometry.width) for geometry in geometries]
        canvas = weak.canvas_for(sizes, weak.step_side(config.seed, step))
        anchors = detector.anchors(canvas, torch.device("cpu"))
        for position, geometry in zip(positions, geometries, strict=True):
            image = labeled.images[position]
            boxes = move_boxes(labeled.boxes[position], image.height, image.width, geometry)
            targets = pad_targets([boxes], [labeled.labels[position]])
            foreground += int(detector.foreground(anchors, targets).sum())
            locations += len(anchors)
            images += 1
    multiple = getattr(config.method, "ratio_multiple", PAPER_MULTIPLE)
    return Foreground(images, foreground / max(images, 1), foreground / max(locations, 1), multiple)


def with_ratio(config: Recipe, foreground: Foreground) -> Recipe:
    """The recipe with the measured share in place of ``ratio: auto``."""
    if getattr(config.method, "ratio", None) != "auto":
        return config
    return config.model_copy(update={"method": config.method.model_copy(update={"ratio": foreground.ratio})})


def ratio_findings(config: Recipe, foreground: Foreground) -> list[Finding]:
    """A ``ratio`` far from what the labeled images call for."""
    ratio = fixed_ratio(config.method)
    if ratio is None or fits(ratio, foreground):
        return []
    example = (
        f"method.ratio is {ratio:g}, and {foreground.multiple:g} times the share of foreground is {foreground.ratio:g}"
    )
    return finding("warning", "ratio that does not fit the objects", "labeled", [example], "method.ratio=auto measures")
