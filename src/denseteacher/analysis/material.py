"""What the analyses look at: a detector's output on images whose labels are known after all."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from denseteacher.analysis.truth import Truth
from denseteacher.data.geometry import Boxes, Geometry, pad_batch, pad_targets, resized_size, transform
from denseteacher.data.images import load_image
from denseteacher.evaluation.matching import IGNORED, match_in_turn
from denseteacher.inference.predictor import Predictor
from denseteacher.methods import UnbiasedTeacher
from denseteacher.ops.assigners import Assignment
from denseteacher.ops.boxes import centers
from denseteacher.pseudo_labels.boxes import PseudoBoxes, pseudo_boxes
from denseteacher.structures import DenseOutput, ImageBatch, Targets

BATCH = 8
"""Images a forward. They share one selection of the learning region, as those of a training step do."""
MATCH_IOU = 0.5
"""From which on a box is that of an object."""


class Seen(NamedTuple):
    """One batch, on the detector's device and at its evaluation size."""

    images: ImageBatch
    output: DenseOutput
    objects: Targets
    ignored: Targets
    """Regions in which nothing counts."""


class Material:
    """Images with their labels, as a detector sees them."""

    def __init__(self, predictor: Predictor, truth: Truth, *, batch: int = BATCH) -> None:
        """Reads no image yet."""
        self.predictor, self.detector, self.truth, self.batch = predictor, predictor.detector, truth, batch

    def __len__(self) -> int:
        """Images."""
        return len(self.truth.objects.images)

    def __iter__(self) -> Iterator[Seen]:
        """All batches, in the order of the images."""
        return (self.seen(start) for start in range(0, len(self), self.batch))

    @torch.no_grad()
    def seen(self, start: int) -> Seen:
        """The batch that begins with an image.

        Raises:
            InputError: If an image can't be read.
        """
        places = range(start, min(start + self.batch, len(self)))
        pixels, objects, ignored = zip(*(self._view(place) for place in places), strict=True)
        device = self.predictor.device
        images = ImageBatch(*(tensor.to(device) for tensor in pad_batch(pixels)))
        targets = pad_targets(objects, [self.truth.objects.labels[place] for place in places])
        regions = pad_targets(ignored, [self.truth.ignored.labels[place] for place in places])
        return Seen(
            images,
            self.detector(images),
            Targets(*(tensor.to(device) for tensor in targets)),
            Targets(*(tensor.to(device) for tensor in regions)),
        )

    def _view(self, place: int) -> tuple[Tensor, Boxes, Boxes]:
        """An image at evaluation size, its objects and its regions to ignore."""
        image, view = load_image(self.truth.objects.images[place]), self.predictor.view
        objects, ignored = self.truth.objects.boxes[place], self.truth.ignored.boxes[place]
        size = resized_size(image.shape[1], image.shape[2], view.short_side, view.max_side)
        pixels, boxes = transform(image, np.concatenate([objects, ignored]), Geometry(*size, flip=False))
        return pixels, boxes[: len(objects)], boxes[len(objects) :]

    def pseudo_boxes(self, seen: Seen, threshold: float) -> PseudoBoxes:
        """What a method on pseudo-boxes would take for ground truth."""
        return pseudo_boxes(
            self.detector.decode_boxes(seen.output),
            self.detector.scores(seen.output),
            seen.images.sizes,
            threshold=threshold,
            nms_threshold=UnbiasedTeacher().nms_threshold,
        )

    def levels(self, seen: Seen) -> Tensor:
        """(N,) int64 the pyramid level of each location, 0 the finest."""
        height, width = seen.images.pixels.shape[-2:]
        counts = torch.tensor([rows * columns for rows, columns in self.detector.shapes((height, width))])
        anchors = len(seen.output.anchors) // int(counts.sum())
        return torch.arange(len(counts)).repeat_interleave(counts * anchors).to(seen.output.anchors.device)


def share(part: float, whole: float) -> float | None:
    """A part of a whole; None of nothing."""
    return part / whole if whole else None


def known_locations(seen: Seen, truth: Assignment) -> Tensor:
    """(B, N) bool, where the labels say what a location is: not in the padding, nor in a region to ignore."""
    center = centers(seen.output.anchors)[None, :, None]
    regions = seen.ignored.boxes[:, None]
    inside = ((center > regions[..., :2]) & (center < regions[..., 2:])).all(-1).any(-1)
    return seen.output.valid & ((truth.labels >= 0) | ~inside)


def match_boxes(found: PseudoBoxes, objects: Targets, ignored: Targets) -> Tensor:
    """Which object each pseudo-box is, of its class, as COCO matches at an IoU of 0.5.

    Args:
        found: (B, P) boxes by falling score.
        objects: (B, G) boxes to find.
        ignored: Regions of a class; an unmatched box that lies in one counts neither way.

    Returns:
        (B, P) int64, on the CPU: position of the object, ``UNMATCHED`` or ``IGNORED``; ``IGNORED`` in the padding.
    """
    boxes, regions = objects.boxes.double().cpu().numpy(), ignored.boxes.double().cpu().numpy()
    guesses = found.boxes.double().cpu().numpy()
    labels = [
        np.where(one.mask.cpu().numpy(), one.labels.cpu().numpy(), -1) for one in (found.targets, objects, ignored)
    ]
    matched = np.full(labels[0].shape, IGNORED, dtype=np.int64)
    for image, rows in enumerate(labels[0]):
        for label in set(rows.tolist()) - {-1}:
            guess, own, region = (np.flatnonzero(one[image] == label) for one in labels)
            hits = match_in_turn(guesses[image, guess], boxes[image, own], regions[image, region], at_least=MATCH_IOU)
            hits[hits >= 0] = own[hits[hits >= 0]]
            matched[image, guess] = hits
    return torch.from_numpy(matched)
