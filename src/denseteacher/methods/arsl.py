"""ARSL (Liu et al., CVPR 2023) on dense detectors."""

from functools import partial
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import Shown
from denseteacher.methods.mean_teacher import MeanTeacher, StudentTask
from denseteacher.ops.distributed import mean_over_processes
from denseteacher.ops.losses import giou_loss, joint_focal_loss, quality_loss
from denseteacher.pseudo_labels.task_separation import TaskSeparation, task_separation
from denseteacher.structures import DenseOutput, ImageBatch, LabeledBatch, LossDict, MethodState, UnlabeledBatch

_LEAST_MEAN_SCORE = 1e-3  # below, a teacher sees nothing at all, and its scores are no divisor


class ARSL(MeanTeacher):
    """Joint confidence says which locations teach; classes and boxes are learned at locations of their own.

    Published (paper and code; docs/sources.md, ARSL) and kept: a location's confidence is its class score times its
    predicted IoU. Of each image, locations at 0.1 or above are candidates. From the mean plus the standard deviation
    of their scores on, at most 0.4, they are positive and learn the teacher's score of their class; the other
    candidates are hard and learn its whole score vector; every other location is background, and none is ignored.
    Boxes and quality are learned at positive locations and at hard ones that are promoted: those inside the box of a
    positive one of their class, on its level or the next, with an IoU of 0.6 or more; they learn the mean of all such
    boxes. The class loss is over the sum of the positive locations' scores, the box loss weighted by the scores.

    Joint confidence on labeled images is the detector's loss ``joint``, which ``cls_loss`` asks for: before the
    burn-in ends the method is ``Supervised``.

    Different here: (1) Locations lie where the detector has them, in mining too. The published code mines with
    locations half a stride further than those that it trains, so that boxes of two levels are shifted against each
    other. (2) GIoU and IoU have no 1 added to intersection and union, which the published code does in units of
    strides. (3) Sums and counts that losses are divided by are those of the whole batch of all processes, not of a
    process's images, and are kept from 0. (4) Of an image at most ``most_mined`` hard and positive locations take
    part in mining. (5) Padding is never selected. (6) Where the detector has no quality branch, as RetinaNet, the
    joint confidence is the class score alone, and there is not a quality loss.
    """

    cls_loss: ClassVar[str | None] = "joint"

    name: Literal["arsl"] = "arsl"
    score_floor: float = Field(0.1, gt=0, lt=1)
    """Joint confidence from which on a location is a candidate."""
    most_threshold: float = Field(0.4, gt=0, le=1)
    """Upper limit of the confidence from which on a candidate is positive: mean + standard deviation of an image."""
    fallback: int = Field(10, gt=0, le=10_000)
    """Locations of highest confidence that are positive where none reaches the threshold."""
    least_iou: float = Field(0.6, gt=0, le=1)
    """IoU with the box of a positive location from which on a hard one can be promoted."""
    most_mined: int = Field(256, gt=0, le=10_000)
    """Hard and positive locations of an image that are compared, each those of highest confidence. Memory and time of
    mining grow with its square."""
    cls_weight: float = Field(2.0, ge=0)
    """Weight of the class loss on unlabeled images."""
    box_weight: float = Field(2.0, ge=0)
    """Weight of the box loss on unlabeled images."""
    quality_weight: float = Field(0.5, ge=0)
    """Weight of the quality loss on unlabeled images."""

    @model_validator(mode="after")
    def _check_thresholds(self) -> Self:
        if self.score_floor > self.most_threshold:
            raise ValueError(f"score_floor ({self.score_floor}) is above most_threshold ({self.most_threshold})")
        return self

    def show(self, detector: DenseDetector, teacher_output: DenseOutput, weak: ImageBatch) -> Shown:
        """See ``Method``: the highest target of each location."""
        return Shown(region=self.pseudo_labels(detector, teacher_output).targets.amax(-1))

    def legend(self) -> str:
        """See ``Method``."""
        return (
            f"Locations whose joint confidence (class score times predicted IoU) is {self.score_floor:g} or more, and "
            "what they teach: from the mean plus the standard deviation of an image on its class and its box, below "
            "it the whole score vector. All others are trained as background; bright is high."
        )

    def pseudo_labels(self, detector: DenseDetector, teacher_output: DenseOutput) -> TaskSeparation:
        """The teacher's predictions as this method's training targets."""
        return task_separation(
            teacher_output,
            detector.decode_boxes(teacher_output),
            detector.levels(teacher_output.anchors),
            score_floor=self.score_floor,
            most_threshold=self.most_threshold,
            fallback=self.fallback,
            least_iou=self.least_iou,
            most_mined=self.most_mined,
        )

    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        """See ``MeanTeacher``: ``cls`` everywhere, ``box`` and ``quality`` where boxes are learned."""
        labels = self.pseudo_labels(detector, teacher_output)
        images = labels.positive.shape[0]
        metrics = {
            "pseudo/positives": labels.positive.sum() / images,
            "pseudo/hard": labels.hard.sum() / images,
            "pseudo/promoted": labels.promoted.sum() / images,
            "pseudo/threshold": labels.threshold.mean(),
        }
        losses = partial(self._losses, detector, labels)
        return StudentTask(unlabeled.strong, losses, metrics)

    def _losses(self, detector: DenseDetector, labels: TaskSeparation, output: DenseOutput) -> LossDict:
        richness = labels.targets.amax(-1)
        weight = richness * labels.localized
        sums = (richness * labels.positive, labels.positive, weight, labels.localized)
        score, positives, total, localized = mean_over_processes(torch.stack([each.sum() for each in sums])).unbind()
        entropy = joint_focal_loss(output.logits, output.quality, labels.targets)
        losses: LossDict = {"cls": self.cls_weight * entropy.sum() / _at_least(score, positives)}
        error = giou_loss(detector.decode_boxes(output), labels.boxes)
        losses["box"] = self.box_weight * (error * weight).sum() / _at_least(total, localized)
        if output.quality is not None and labels.quality is not None:
            error = quality_loss(output.quality, labels.quality) * labels.localized
            losses["quality"] = self.quality_weight * error.sum() / localized.clamp(min=1)
        return losses


def _at_least(total: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """A sum of scores as a divisor, kept from 0."""
    return torch.maximum(total, _LEAST_MEAN_SCORE * count.clamp(min=1))
