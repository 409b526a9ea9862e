"""What the methods whose teacher labels unlabeled images have in common."""

from abc import abstractmethod
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from denseteacher.config import Config
from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import boxes_per_image, concatenate, split_output, weighted
from denseteacher.methods.supervised import Supervised
from denseteacher.structures import DenseOutput, LossDict, MethodOutput, SemiBatch


class MeanTeacher(Config):
    """The teacher sees the weak view of the unlabeled images, the student learns from it on the strong view.

    A method is what it makes of the teacher's predictions: ``unlabeled_losses``. They begin after the burn-in
    and ramp up linearly; until then, and on the labeled images throughout, it is ``Supervised``.
    """

    burn_in: int | Literal["auto"] = 5000
    """Steps on labeled images alone."""
    ramp: int | None = Field(None, ge=0)
    """Steps from the end of the burn-in to full weight; as many as the burn-in if not given."""

    @abstractmethod
    def unlabeled_losses(
        self, detector: DenseDetector, output: DenseOutput, guess: DenseOutput, sizes: Tensor
    ) -> MethodOutput:
        """The losses on unlabeled images (``cls``, ``box``, ...), times the method's own weights but for the ramp.

        Args:
            detector: For its functions of predictions; no forward.
            output: The student's predictions of B strong views.
            guess: The teacher's of the weak ones, without gradient.
            sizes: (B, 2) height and width of the images.
        """

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

    def losses(
        self, student: DenseDetector, teacher: DenseDetector | None, batch: SemiBatch, step: int
    ) -> MethodOutput:
        """See ``Method``: the supervised losses and, under ``unsup/``, those on unlabeled images."""
        weight = self.unlabeled_weight(step)
        weak, strong = batch.unlabeled_weak, batch.unlabeled_strong
        if teacher is None or weight == 0 or weak is None or strong is None:
            return Supervised().losses(student, teacher, batch, step)
        with torch.no_grad():
            guess = teacher(weak)
        output = student(concatenate(batch.labeled_weak, batch.labeled_strong, strong))
        labeled, unlabeled = split_output(output, output.logits.shape[0] - strong.pixels.shape[0])
        losses: LossDict = weighted("sup", student.supervised_losses(labeled, batch.targets))
        learned, metrics = self.unlabeled_losses(student, unlabeled, guess, weak.sizes)
        losses |= weighted("unsup", learned, weight)
        return MethodOutput(losses, {"labeled/boxes": boxes_per_image(batch.targets)} | metrics)
