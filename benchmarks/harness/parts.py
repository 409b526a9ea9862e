"""The parts of a training step, each on what those before it would have left."""

from collections.abc import Callable

import torch
from torch import Tensor

from denseteacher.detectors import DenseDetector
from denseteacher.methods.mean_teacher import MeanTeacher, StudentTask
from denseteacher.ops.assignment import BACKGROUND
from denseteacher.runs.benchmark import Size, made_up_targets
from denseteacher.structures import DenseOutput, ImageBatch, LossDict, SemiBatch, Targets, cat, chunk, to
from denseteacher.training.optim import clip_gradients
from denseteacher.training.student_teacher import StudentTeacher

_SURE = 2.0  # logit of a score of 0.88


class StepParts:
    """What a step does to one batch, part by part. Nothing is learned."""

    def __init__(self, student_teacher: StudentTeacher, batch: SemiBatch) -> None:
        """Makes what the parts begin with.

        Args:
            student_teacher: Whose networks, losses and optimizer they are.
            batch: Made-up, on the device of the networks.
        """
        self.student_teacher, self.batch = student_teacher, batch
        labeled, unlabeled = batch
        self.views = cat(labeled.weak, labeled.strong, *([] if unlabeled is None else [unlabeled.strong]))
        with torch.no_grad():
            self.output = student_teacher.student(self.views)
            self.teacher_output = None if unlabeled is None else self._teacher_output(unlabeled.weak)
        self.gradients = [torch.randn_like(parameter) * 1e-6 for parameter in student_teacher.parameters]

    def _teacher_output(self, weak: ImageBatch) -> DenseOutput:
        images, _, height, width = weak.pixels.shape
        rng = torch.Generator().manual_seed(1)
        size = Size(0, images, height, width, max(1, self.batch.labeled.targets.mask.shape[1]))
        targets = made_up_targets(images, size, self.student_teacher.student.num_classes, rng)
        device = self.student_teacher.runtime.device
        return with_objects(
            self.student_teacher.pseudo_labeler(weak), self.student_teacher.student, to(targets, device)
        )

    def bare(self) -> None:
        """The networks' passes and nothing else."""
        self.teacher()
        self.student()

    def student(self) -> None:
        """Forward and backward over all views that the student is trained on."""
        output = self.student_teacher.student(self.views)
        predictions = [output.logits, output.deltas, *([] if output.quality is None else [output.quality])]
        self.student_teacher.runtime.backward(torch.stack([one.sum() for one in predictions]).sum())
        self.student_teacher.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def teacher(self) -> None:
        """Forward over the weak views of the unlabeled images."""
        if self.batch.unlabeled is not None:
            self.student_teacher.pseudo_labeler(self.batch.unlabeled.weak)

    def pseudo_label(self) -> None:
        """From the teacher's predictions to what the student is to learn from them."""
        assert isinstance(self.student_teacher.method, MeanTeacher)
        self._student_task(self.student_teacher.method)

    @torch.no_grad()
    def _student_task(self, method: MeanTeacher) -> StudentTask:
        assert self.teacher_output is not None
        assert self.batch.unlabeled is not None
        return method.student_task(
            self.student_teacher.student,
            self.teacher_output,
            self.batch.labeled,
            self.batch.unlabeled,
            self.student_teacher.method_state,
        )

    def losses(self) -> Callable[[], None]:
        """All losses of a task that has been made, forward and backward to the student's predictions."""
        method, student = self.student_teacher.method, self.student_teacher.student
        task = (
            self._student_task(method) if isinstance(method, MeanTeacher) and self.teacher_output is not None else None
        )

        def run() -> None:
            labeled, unlabeled = self._predictions()
            losses = student.supervised_losses(labeled, self.batch.labeled.targets)
            if task is not None:
                losses = losses | {f"unsup/{name}": value for name, value in task.loss(unlabeled).items()}
            torch.autograd.backward(_total(losses))

        return run

    def unlabeled_part(self, method: MeanTeacher) -> Callable[[], None]:
        """From the teacher's predictions to the gradient of a method's losses on unlabeled images."""

        def run() -> None:
            _, unlabeled = self._predictions()
            torch.autograd.backward(_total(self._student_task(method).loss(unlabeled)))

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
        labeled = 2 * len(self.batch.labeled.weak.sizes)
        on_labeled, on_unlabeled = chunk(leaf, [labeled, len(leaf.logits) - labeled])
        return on_labeled, on_unlabeled

    def optimize(self) -> None:
        """Clipping and the optimizer's step."""
        for parameter, gradient in zip(self.student_teacher.parameters, self.gradients, strict=True):
            parameter.grad = gradient
        clip_gradients(self.student_teacher.parameters, self.student_teacher.optim)
        self.student_teacher.optimizer.step()
        self.student_teacher.optimizer.zero_grad(set_to_none=True)


def _total(losses: LossDict) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def with_objects(output: DenseOutput, detector: DenseDetector, targets: Targets) -> DenseOutput:
    """Predictions whose foreground is sure of its class, as a trained teacher's are: an untrained one finds nothing."""
    assignment = detector.assign(targets, output.anchors, detector.levels(output.anchors), output)
    foreground = assignment.labels > BACKGROUND
    at_label = torch.zeros_like(output.logits, dtype=torch.bool)
    at_label.scatter_(2, assignment.labels.clamp(min=0)[..., None], foreground[..., None])
    return output._replace(logits=output.logits.masked_fill(at_label, _SURE))
