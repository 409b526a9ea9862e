"""What a method is: a validated value with one function."""

from typing import Protocol

import torch
from torch import Tensor

from denseteacher.detectors.base import DenseDetector
from denseteacher.structures import DenseOutput, ImageBatch, LossDict, MethodOutput, SemiBatch, Targets


class Method(Protocol):
    """A training method. It holds no state and never changes what it is given."""

    def losses(
        self, student: DenseDetector, teacher: DenseDetector | None, batch: SemiBatch, step: int
    ) -> MethodOutput:
        """The weighted losses of one step.

        Args:
            student: Trained by the sum of the losses.
            teacher: In eval mode, never given a gradient; None until its EMA starts.
            batch: All views of the step.
            step: Optimizer steps done before this one.
        """

    def needs_unlabeled(self, step: int) -> bool:
        """Whether this step's batch must hold unlabeled views."""


def concatenate(*batches: ImageBatch) -> ImageBatch:
    """Image batches of one canvas as one batch, so that a step costs one pass and one all-reduce."""
    return ImageBatch(torch.cat([batch.pixels for batch in batches]), torch.cat([batch.sizes for batch in batches]))


def split_output(output: DenseOutput, first: int) -> tuple[DenseOutput, DenseOutput]:
    """The predictions of the first images of a batch, and those of the others."""
    return _images(output, slice(None, first)), _images(output, slice(first, None))


def _images(output: DenseOutput, which: slice) -> DenseOutput:
    quality = output.quality
    return DenseOutput(
        output.logits[which],
        output.deltas[which],
        None if quality is None else quality[which],
        output.anchors,
        output.valid[which],
    )


def weighted(prefix: str, losses: LossDict, weight: float = 1.0) -> LossDict:
    """Losses under ``prefix/name``, times a weight."""
    return {f"{prefix}/{name}": value * weight for name, value in losses.items()}


def boxes_per_image(targets: Targets) -> Tensor:
    """Mean number of boxes of an image, on the device."""
    return targets.mask.sum() / targets.mask.shape[0]
