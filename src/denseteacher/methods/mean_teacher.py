"""What the methods that learn from unlabeled images have in common."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, NonNegativeInt
from torch.autograd.profiler import record_function

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import PAPER_RATIO, Method, boxes_per_image, weighted
from denseteacher.methods.supervised import Supervised
from denseteacher.pseudo_labels.missing_labels import TeacherOfBoth
from denseteacher.structures import (
    DenseOutput,
    ImageBatch,
    LabeledBatch,
    LossDict,
    MethodOutput,
    MethodState,
    SemiBatch,
    UnlabeledBatch,
    cat,
    chunk,
)


class SemiSupervised(Method):
    """A method that is ``Supervised`` until its burn-in ends; then its other losses ramp up linearly."""

    burn_in: NonNegativeInt | Literal["auto"] = 5000
    """Steps on labeled images alone."""
    ramp: int | None = Field(None, ge=0)
    """Steps from the end of the burn-in to full weight; as many as the burn-in if not given."""
    unlabeled_weight: float = Field(1.0, ge=0)
    """Full weight of all losses on unlabeled images (w_u of the paper's eq. 1), over the weight that each has of its
    own."""

    def weight_at(self, step: int) -> float:
        """Weight of the losses on unlabeled images: 0 up to the burn-in's end, then linear up to the ramp's end."""
        if isinstance(self.burn_in, str):
            raise ValueError("burn_in is still 'auto': give a number of steps")
        ramp = self.burn_in if self.ramp is None else self.ramp
        done = float(step >= self.burn_in) if ramp == 0 else min(max((step - self.burn_in) / ramp, 0.0), 1.0)
        return self.unlabeled_weight * done

    def needs_unlabeled(self, step: int) -> bool:
        """Whether unlabeled images are needed, which is so from the end of the burn-in on."""
        return self.weight_at(step) > 0

    @property
    def burn_in_steps(self) -> int | Literal["auto"] | None:
        """See ``Method``."""
        return self.burn_in

    def with_burn_in(self, steps: int) -> Self:
        """See ``Method``."""
        return self.model_copy(update={"burn_in": steps})

    def at_full_weight(self) -> Self:
        """See ``Method``."""
        return self.model_copy(update={"burn_in": 0, "ramp": 0}).with_ratio(PAPER_RATIO)


class StudentTask(NamedTuple):
    """What the student is shown of unlabeled images, and its loss on them."""

    images: ImageBatch
    loss: Callable[[DenseOutput], LossDict]
    """Losses of the student's predictions on ``images``: ``cls``, ``box``, ..., times the method's own weights."""
    metrics: LossDict
    """Detached numbers that are only watched."""
    state: MethodState | None = None
    """See ``MethodOutput``."""


class MeanTeacher(SemiSupervised):
    """The teacher sees the weak view of the unlabeled images, the student learns from it on the strong view.

    A method is what it makes of the teacher's predictions: its ``student_task``.
    """

    half_view: bool = False
    """The student learns what it learns on the strong views on their half-size copies too, by the pyramid's levels of
    half the stride (PseCo's multi-scale label consistency); needs ``detector.finer_level``."""
    half_view_weight: float = Field(1.0, ge=0)
    """Weight of the losses on half-size views, over those that they have on the views of full size."""

    @property
    def needs_finer_level(self) -> bool:
        """See ``Method``."""
        return self.half_view

    def teacher_output(self, student: DenseDetector, teacher: DenseDetector, unlabeled: UnlabeledBatch) -> DenseOutput:
        """What is believed of the B unlabeled images: the teacher's predictions on their weak views."""
        return teacher(unlabeled.weak)

    @abstractmethod
    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        """Makes training targets of the teacher's output. Called without gradients.

        Args:
            detector: For its functions of predictions; no forward.
            teacher_output: What ``teacher_output`` gave.
            labeled: The labeled images of the step.
            unlabeled: The B unlabeled ones.
            state: See ``Method.losses``.
        """

    def losses(
        self,
        student: DenseDetector,
        teacher: DenseDetector | None,
        batch: SemiBatch,
        step: int,
        state: MethodState | None = None,
    ) -> MethodOutput:
        """See ``Method``: the supervised losses and, under ``unsup/``, those on unlabeled images."""
        weight = self.weight_at(step)
        if teacher is None or weight == 0 or batch.unlabeled is None:
            return Supervised().losses(student, teacher, batch, step)
        labeled = batch.labeled
        with torch.no_grad(), record_function("pseudo-label"):
            both = TeacherOfBoth(teacher, labeled)
            output = self.teacher_output(student, both.teacher, batch.unlabeled)
            task = self.student_task(student, output, labeled, batch.unlabeled, state)
        count = len(task.images.sizes)
        seen = cat(labeled.weak, labeled.strong, task.images)
        output = student(seen, count) if self.half_view else student(seen)
        on_labeled, on_unlabeled, *on_halves = chunk(
            output, [2 * len(labeled.weak.sizes), count, *([count] if self.half_view else [])]
        )
        weights, watched = both.missing_labels()
        losses: LossDict = weighted("sup", student.supervised_losses(on_labeled, labeled.targets, weights))
        losses |= weighted("unsup", task.loss(on_unlabeled), weight)
        for half in on_halves:
            losses |= weighted("unsup/half", task.loss(half), weight * self.half_view_weight)
        metrics = {"labeled/boxes": boxes_per_image(labeled.targets)} | watched | task.metrics
        return MethodOutput(losses, metrics, task.state)
