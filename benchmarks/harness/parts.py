"""The parts of a training step, each on what those before it would have left."""

from collections.abc import Callable

import torch
from torch import Tensor

from denseteacher.detectors import DenseDetector
from denseteacher.methods.base import concatenate, split_output
from denseteacher.methods.mean_teacher import Lesson, MeanTeacher
from denseteacher.ops.assigners import BACKGROUND
from denseteacher.runs.benchmark import Size, made_up_targets
from denseteacher.structures import DenseOutput, ImageBatch, LossDict, SemiBatch, Targets
from denseteacher.training.optim import clip_gradients
from denseteacher.training.student_teacher import Learner

_SURE = 2.0  # logit of a score of 0.88


class StepParts:
    """What a learner does to one batch, part by part. Nothing is learned."""

    def __init__(self, learner: Learner, batch: SemiBatch) -> None:
        """Makes what the parts begin with.

        Args:
            learner: Whose networks, losses and optimizer they are.
            batch: Made-up, on the learner's device.
        """
        self.learner, self.batch = learner, batch
        views = [batch.labeled_weak, batch.labeled_strong]
        if batch.unlabeled_strong is not None:
            views.append(batch.unlabeled_strong)
        self.views = concatenate(*views)
        with torch.no_grad():
            self.output = learner.student(self.views)
            self.guess = None if batch.unlabeled_weak is None else self._guess(batch.unlabeled_weak)
        self.gradients = [torch.randn_like(parameter) * 1e-6 for parameter in learner.parameters]

    def _guess(self, weak: ImageBatch) -> DenseOutput:
        images, _, height, width = weak.pixels.shape
        rng = torch.Generator().manual_seed(1)
        size = Size(0, images, height, width, max(1, self.batch.targets.mask.shape[1]))
        targets = made_up_targets(images, size, self.learner.student.num_classes, rng)
        device = self.learner.runtime.device
        on_device = type(targets)(*(field.to(device) for field in targets))
        return with_objects(self.learner.labeler_view(weak), self.learner.student, on_device)

    def bare(self) -> None:
        """The networks' passes and nothing else."""
        self.teacher()
        self.student()

    def student(self) -> None:
        """Forward and backward over all views that the student is trained on."""
        output = self.learner.student(self.views)
        predictions = [output.logits, output.deltas, *([] if output.quality is None else [output.quality])]
        self.learner.runtime.backward(torch.stack([one.sum() for one in predictions]).sum())
        self.learner.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def teacher(self) -> None:
        """Forward over the weak views of the unlabeled images."""
        if self.batch.unlabeled_weak is not None:
            self.learner.labeler_view(self.batch.unlabeled_weak)

    def pseudo_label(self) -> None:
        """From the teacher's predictions to what the student is to learn from them."""
        assert isinstance(self.learner.method, MeanTeacher)
        self._lesson(self.learner.method)

    @torch.no_grad()
    def _lesson(self, method: MeanTeacher) -> Lesson:
        assert self.guess is not None
        return method.lesson(self.learner.student, self.guess, self.batch, self.learner.method_state)

    def losses(self) -> Callable[[], None]:
        """All losses of a lesson that has been made, forward and backward to the student's predictions."""
        method, student = self.learner.method, self.learner.student
        lesson = self._lesson(method) if isinstance(method, MeanTeacher) and self.guess is not None else None

        def run() -> None:
            labeled, unlabeled = self._predictions()
            losses = student.supervised_losses(labeled, self.batch.targets)
            if lesson is not None:
                losses = losses | {f"unsup/{name}": value for name, value in lesson.losses(unlabeled).items()}
            torch.autograd.backward(_total(losses))

        return run

    def unlabeled_part(self, method: MeanTeacher) -> Callable[[], None]:
        """From the teacher's predictions to the gradient of a method's losses on unlabeled images."""

        def run() -> None:
            _, unlabeled = self._predictions()
            torch.autograd.backward(_total(self._lesson(method).losses(unlabeled)))

        return run

    def _predictions(self) -> tuple[DenseOutput, DenseOutput]:
        """The student's on labeled and on unlabeled views, as the start of a graph."""
        output = self.output
        quality = None if output.quality is None else output.quality.detach().requires_grad_()
        leaf = output._replace(
            logits=output.logits.detach().requires_grad_(),
            deltas=output.deltas.detach().requires_grad_(),
            quality=quality,
        )
        return split_output(leaf, 2 * self.batch.labeled_weak.pixels.shape[0])

    def optimize(self) -> None:
        """Clipping and the optimizer's step."""
        for parameter, gradient in zip(self.learner.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        clip_gradients(self.learner.parameters, self.learner.optim)
        self.learner.optimizer.step()
        self.learner.optimizer.zero_grad(set_to_none=True)


def _total(losses: LossDict) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def with_objects(output: DenseOutput, detector: DenseDetector, targets: Targets) -> DenseOutput:
    """Predictions whose foreground is sure of its class, as a trained teacher's are: an untrained one finds nothing."""
    assignment = detector.assign(output.anchors, targets)
    foreground = assignment.labels > BACKGROUND
    at_label = torch.zeros_like(output.logits, dtype=torch.bool)
    at_label.scatter_(2, assignment.labels.clamp(min=0)[..., None], foreground[..., None])
    return output._replace(logits=output.logits.masked_fill(at_label, _SURE))
