"""How unsure a detector is of an image, by its raw outputs: of each score, of its mirror image, beside its student."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from denseteacher.data.augment.weak import pad_batch
from denseteacher.evaluation.evaluator import in_file_pixels
from denseteacher.inference.predictor import Predictor
from denseteacher.pseudo_labels.dense import dense_pseudo_labels
from denseteacher.pseudo_labels.flip_ensemble import mirror_back, mirror_images
from denseteacher.structures import DenseOutput, Detections, to


class ImageDoubts(NamedTuple):
    """How unsure a detector is of one image, and what it finds there."""

    entropy: float
    """Bits a location of the rich region, as ``region_entropy``."""
    mirror: float | None
    """Difference between the scores of the image and of its mirror image, as ``disagreement``; None where they were not
    compared."""
    student: float | None
    """Difference between the scores of teacher and student; None where there is no student."""
    detections: Detections
    """The detector's detections, in the pixels of the image."""


class ImageAssessor:
    """Measures doubts, on the detector's device and at its evaluation size."""

    def __init__(self, teacher: Predictor, student: Predictor | None, *, ratio: float, mirror: bool = True) -> None:
        """Takes the detectors.

        Args:
            teacher: The detector.
            student: The one that it was averaged from, with the same classes and locations; None leaves it out.
            ratio: Share of an image's locations that are its rich region.
            mirror: Whether to compare an image with its mirror image, which may show something else, as that of a
                letter does.
        """
        self.teacher, self.student, self.ratio, self.mirror = teacher, student, ratio, mirror

    @torch.no_grad()
    def __call__(self, arrays: Sequence[npt.NDArray[np.uint8]]) -> list[ImageDoubts]:
        """Measures images of one batch.

        Args:
            arrays: (H, W, 3) uint8 RGB, of any sizes.
        """
        detector, device = self.teacher.detector, self.teacher.device
        pixels = [torch.from_numpy(array).permute(2, 0, 1) for array in arrays]
        batch = pad_batch([self.teacher.view.apply(one) for one in pixels])
        images = to(batch, device)
        output = detector(images)
        scored = output._replace(logits=detector.class_logits(output))
        columns: dict[str, list[float]] = {"entropy": region_entropy(scored, self.ratio).tolist()}
        if self.mirror:
            other = mirror_back(detector, detector(mirror_images(images)), images)
            columns["mirror"] = disagreement(scored, other.logits, self.ratio, valid=other.valid).tolist()
        if self.student is not None:
            student = self.student.detector
            columns["student"] = disagreement(scored, student.class_logits(student(images)), self.ratio).tolist()
        found = in_file_pixels(detector.detect(output, batch.sizes), batch.sizes, [array.shape[:2] for array in arrays])
        unknown = [None] * len(arrays)
        rows = zip(*(columns.get(name, unknown) for name in ImageDoubts._fields[:-1]), found, strict=True)
        return [ImageDoubts._make(row) for row in rows]


def rich_region(output: DenseOutput, ratio: float) -> Tensor:
    """(B, N) bool: the locations of each image, without its padding, with the highest class scores (paper, eq. 3).

    Args:
        output: Predictions on B images.
        ratio: Share of an image's locations; one at least.
    """
    return dense_pseudo_labels(output, ratio=ratio, group_size=1, count_padding=False).selected


def region_entropy(output: DenseOutput, ratio: float) -> Tensor:
    """(B,) mean entropy of a location's class scores over the rich region, in bits, summed over the classes.

    Each score is the probability of a yes. An object between two classes is twice as undecided as one that may be none.

    Args:
        output: Predictions on B images.
        ratio: Share of an image's locations that are its rich region.
    """
    logits = output.logits.float()
    nats = binary_cross_entropy_with_logits(logits, logits.sigmoid(), reduction="none").sum(-1)
    return _mean_over(nats / math.log(2), rich_region(output, ratio))


def disagreement(output: DenseOutput, logits: Tensor, ratio: float, *, valid: Tensor | None = None) -> Tensor:
    """(B,) mean largest difference between two opinions on a location's class scores, in [0, 1].

    The mean is over the region where either is rich, so that what one of them alone sees is in it.

    Args:
        output: Predictions on B images.
        logits: (B, N, K) the other opinion, on the same locations.
        ratio: Share of an image's locations that are its rich region.
        valid: (B, N) bool, where the other has an opinion; None takes every location of the image.
    """
    both = output.valid if valid is None else output.valid & valid
    either = output._replace(logits=torch.maximum(output.logits, logits), valid=both)
    difference = (output.logits.float().sigmoid() - logits.float().sigmoid()).abs().amax(-1)
    return _mean_over(difference, rich_region(either, ratio))


def _mean_over(values: Tensor, selected: Tensor) -> Tensor:
    return (values * selected).sum(1) / selected.sum(1).clamp(min=1)
