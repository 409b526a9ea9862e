"""Made-up steps: images, boxes and predictions of a wanted size, without files."""

from typing import NamedTuple

import torch

from denseteacher.data.loaders import LoadedStep, UnlabeledViews
from denseteacher.detectors import DenseDetector
from denseteacher.ops.assigners import BACKGROUND
from denseteacher.structures import DenseOutput, ImageBatch, Targets

_LEAST_SIDE, _MOST_SIDE = 0.06, 0.5
"""Of a box, in the image's smaller side."""
_SURE = 2.0  # logit of a score of 0.88


class Size(NamedTuple):
    """How large a step is."""

    labeled: int
    """Images."""
    unlabeled: int
    height: int
    """Pixels of the canvas."""
    width: int
    boxes: int
    """An image."""
    padding: float = 0.0
    """Share of the canvas below the images that is none of them."""


def made_up_step(size: Size, classes: int, *, seed: int = 0) -> LoadedStep:
    """The weak views of a step: noise, with boxes of all sizes."""
    rng = torch.Generator().manual_seed(seed)
    unlabeled = None
    if size.unlabeled:
        unlabeled = UnlabeledViews(
            _noise(size.unlabeled, size, rng),
            torch.arange(size.unlabeled),
            torch.eye(3).repeat(size.unlabeled, 1, 1),
            None,
            list(range(size.unlabeled)),
        )
    return LoadedStep(
        0,
        _noise(size.labeled, size, rng),
        made_up_targets(size.labeled, size, classes, rng),
        list(range(size.labeled)),
        unlabeled,
        [],
    )


def made_up_targets(images: int, size: Size, classes: int, rng: torch.Generator) -> Targets:
    """Boxes inside the images."""
    room = max(1, size.boxes)
    height, width = _real_size(size)
    extent = torch.tensor([width, height], dtype=torch.float32)
    spread = torch.rand((images, room, 2), generator=rng)
    sides = (_LEAST_SIDE + (_MOST_SIDE - _LEAST_SIDE) * spread**2) * min(height, width)
    corner = torch.rand((images, room, 2), generator=rng) * (extent - sides)
    mask = torch.zeros((images, room), dtype=torch.bool)
    mask[:, : size.boxes] = True
    labels = torch.randint(0, classes, (images, room), generator=rng)
    return Targets(torch.cat([corner, corner + sides], 2) * mask[..., None], labels * mask, mask)


def with_objects(output: DenseOutput, detector: DenseDetector, targets: Targets) -> DenseOutput:
    """Predictions whose foreground is sure of its class, as a trained teacher's are: an untrained one finds nothing."""
    assignment = detector.assign(output.anchors, targets)
    foreground = assignment.labels > BACKGROUND
    at_label = torch.zeros_like(output.logits, dtype=torch.bool)
    at_label.scatter_(2, assignment.labels.clamp(min=0)[..., None], foreground[..., None])
    return output._replace(logits=output.logits.masked_fill(at_label, _SURE))


def _noise(images: int, size: Size, rng: torch.Generator) -> ImageBatch:
    pixels = torch.randint(0, 256, (images, 3, size.height, size.width), dtype=torch.uint8, generator=rng)
    pixels[:, :, _real_size(size)[0] :] = 0
    return ImageBatch(pixels, torch.tensor([_real_size(size)]).repeat(images, 1))


def _real_size(size: Size) -> tuple[int, int]:
    return round(size.height * (1 - size.padding)), size.width
