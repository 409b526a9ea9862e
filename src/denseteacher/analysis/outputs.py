"""What the analyses look at: a detector's outputs on images whose labels are known after all."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from denseteacher.analysis.truth import Truth
from denseteacher.data.augment.weak import Boxes, Geometry, pad_batch, pad_targets, transform
from denseteacher.data.images import load_image
from denseteacher.data.sizes import resized_size
from denseteacher.evaluation.matching import IGNORED, match_groups
from denseteacher.inference.predictor import Predictor
from denseteacher.methods import UnbiasedTeacher
from denseteacher.ops.assignment import Assignment, centers_inside
from denseteacher.pseudo_labels.boxes import PseudoBoxes, pseudo_boxes
from denseteacher.structures import DenseOutput, ImageBatch, Targets, to

BATCH = 8
"""Images a forward. They share one selection of the learning region, as those of a training step do."""
MATCH_IOU = 0.5
"""IoU from which on a box is that of an object."""


class OutputBatch(NamedTuple):
    """Images, outputs and labels of one forward, on the detector's device and at its evaluation size."""

    images: ImageBatch
    output: DenseOutput
    objects: Targets
    ignored: Targets
    """Regions in which nothing counts."""


class DetectorOutputs:
    """What a detector makes of labeled images, batch by batch; computed when it is asked for."""

    def __init__(self, predictor: Predictor, truth: Truth, *, batch_size: int = BATCH) -> None:
        """Reads no image yet."""
        self.predictor, self.detector, self.truth = predictor, predictor.detector, truth
        self._batch_size = batch_size

    def __len__(self) -> int:
        """Images."""
        return len(self.truth.objects.images)

    def __iter__(self) -> Iterator[OutputBatch]:
        """All batches, in the order of the images."""
        return (self._batch(start) for start in range(0, len(self), self._batch_size))

    def containing(self, place: int) -> tuple[OutputBatch, int]:
        """The batch with one image, and the image's row in it.

        Raises:
            InputError: If an image can't be read.
        """
        row = place % self._batch_size
        return self._batch(place - row), row

    @torch.no_grad()
    def _batch(self, start: int) -> OutputBatch:
        """The batch that begins with an image."""
        places = range(start, min(start + self._batch_size, len(self)))
        pixels, objects, ignored = zip(*(self._view(place) for place in places), strict=True)
        device = self.predictor.device
        images = to(pad_batch(pixels), device)
        targets = pad_targets(objects, [self.truth.objects.labels[place] for place in places])
        regions = pad_targets(ignored, [self.truth.ignored.labels[place] for place in places])
        return OutputBatch(
            images,
            self.detector(images),
            to(targets, device),
            to(regions, device),
        )

    def _view(self, place: int) -> tuple[Tensor, Boxes, Boxes]:
        """An image at evaluation size, its objects and its regions to ignore."""
        image, view = load_image(self.truth.objects.images[place]), self.predictor.view
        objects, ignored = self.truth.objects.boxes[place], self.truth.ignored.boxes[place]
        size = resized_size(image.shape[1], image.shape[2], view.short_side, view.max_side)
        pixels, boxes = transform(image, np.concatenate([objects, ignored]), Geometry(*size, flip=False))
        return pixels, boxes[: len(objects)], boxes[len(objects) :]

    def pseudo_boxes(self, batch: OutputBatch, threshold: float) -> PseudoBoxes:
        """What a method on pseudo-boxes would take for ground truth."""
        decoded = self.detector.decode(batch.output)
        return pseudo_boxes(
            decoded.boxes,
            decoded.scores,
            batch.images.sizes,
            threshold=threshold,
            nms_threshold=UnbiasedTeacher().nms_threshold,
        )

    def levels(self, batch: OutputBatch) -> Tensor:
        """(N,) int64 the pyramid level of each location, 0 the finest."""
        return self.detector.levels(batch.output.anchors)

    def assign(self, batch: OutputBatch, targets: Targets) -> Assignment:
        """What the detector's assigner makes of objects of the batch."""
        return self.detector.assign(targets, batch.output.anchors, self.levels(batch), batch.output)


def share(part: float, whole: float) -> float | None:
    """A part of a whole; None of nothing."""
    return part / whole if whole else None


def percent(value: float | None) -> str:
    """A share for a sentence."""
    return "-" if value is None else f"{value:.0%}"


def known_locations(batch: OutputBatch, truth: Assignment) -> Tensor:
    """(B, N) bool, where the labels say what a location is: not in the padding, nor in a region to ignore."""
    inside = centers_inside(batch.output.anchors, batch.ignored.boxes, batch.ignored.mask)
    return batch.output.valid & ((truth.labels >= 0) | ~inside)


def match_boxes(found: PseudoBoxes, objects: Targets, ignored: Targets) -> Tensor:
    """Which object each pseudo-box is, of its class, as COCO matches at an IoU of 0.5.

    Args:
        found: (B, P) boxes by falling score.
        objects: (B, G) boxes to find.
        ignored: Regions of a class; an unmatched box that lies in one counts neither way.

    Returns:
        (B, P) int64, on the CPU: position of the object, ``UNMATCHED`` or ``IGNORED``; ``IGNORED`` in the padding.
    """
    guesses, truth, regions = (_flat(one) for one in (found.targets, objects, ignored))
    matched = match_groups(
        guesses.boxes,
        guesses.groups,
        np.concatenate([truth.boxes, regions.boxes]),
        np.concatenate([truth.groups, regions.groups]),
        np.arange(len(truth.groups) + len(regions.groups)) >= len(truth.groups),
        at_least=MATCH_IOU,
        last=True,
    )
    result = torch.full(found.mask.shape, IGNORED)
    matched[matched >= 0] = truth.columns[matched[matched >= 0]]
    result[found.mask.cpu()] = torch.from_numpy(matched)
    return result


class _Flat(NamedTuple):
    """The boxes of a batch that are there."""

    boxes: npt.NDArray[np.float64]
    groups: npt.NDArray[np.int64]
    """A number for the image and class."""
    columns: npt.NDArray[np.int64]
    """Positions in their image."""


def _flat(targets: Targets) -> _Flat:
    boxes, labels, mask = (field.cpu().numpy() for field in targets[:3])
    rows, columns = np.nonzero(mask)
    return _Flat(boxes[mask].astype(np.float64), labels[mask] * len(mask) + rows, columns)
