"""What a method is: a validated value with one function."""

from typing import Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor

from denseteacher.config import Config
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


class BurnIn(Config):
    """When a teacher-student method starts to use unlabeled images."""

    burn_in: int | Literal["auto"] = 5000
    """Steps on labeled images alone."""
    ramp: int | None = Field(None, ge=0)
    """Steps from the end of the burn-in to full weight; as many as the burn-in if not given."""

    def unlabeled_weight(self, step: int) -> float:
        """0 up to the burn-in's end, then linear, 1 from the end of the ramp."""
        if isinstance(self.burn_in, str):
            raise ValueError("burn_in is still 'auto': give a number of steps")
        ramp = self.burn_in if self.ramp is None else self.ramp
        if ramp == 0:
            return float(step >= self.burn_in)
        return min(max((step - self.burn_in) / ramp, 0.0), 1.0)

    def needs_unlabeled(self, step: int) -> bool:
        """From the end of the burn-in on."""
        return self.unlabeled_weight(step) > 0


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


def weighted(prefix: str, losses: LossDict, weights: dict[str, float] | None = None) -> LossDict:
    """Losses under ``prefix/name``, each times its weight (1 where none is given)."""
    weights = weights or {}
    return {f"{prefix}/{name}": value * weights.get(name, 1.0) for name, value in losses.items()}


def boxes_per_image(targets: Targets) -> Tensor:
    """Mean number of boxes of an image, on the device."""
    return targets.mask.sum() / targets.mask.shape[0]
