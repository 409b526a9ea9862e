"""Unbiased Teacher (Liu et al., ICLR 2021) on one-stage detectors: the pseudo-box baseline of the paper."""

from typing import Literal

import torch
from pydantic import Field

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import BurnIn, boxes_per_image, concatenate, split_output, weighted
from denseteacher.methods.supervised import Supervised
from denseteacher.pseudo_labels.boxes import pseudo_boxes
from denseteacher.structures import MethodOutput, SemiBatch


class UnbiasedTeacher(BurnIn):
    """The student is trained on the teacher's thresholded boxes as if they were ground truth.

    This is the re-implementation on FCOS that the paper compares with (Table 1): threshold, NMS, label
    assignment, then the detector's own supervised losses. Burn-in, ramp, EMA and views are those of Dense
    Teacher. The original's threshold of 0.7 is for a two-stage detector's softmax scores; the paper finds
    that FCOS fails to converge with it (Fig. 2a), and Unbiased Teacher v2 uses 0.5 on FCOS, the default here.
    """

    name: Literal["unbiased_teacher"] = "unbiased_teacher"
    threshold: float = Field(0.5, ge=0, lt=1)
    """Detections must score above this to become pseudo-boxes."""
    nms_threshold: float = Field(0.6, gt=0, le=1)
    cls_weight: float = Field(4.0, ge=0)
    box_weight: float = Field(1.0, ge=0)
    """Of the box and the quality loss."""
    box: bool = False
    """Learn boxes and their quality too. Off as in the original: the threshold says nothing about a box's place."""

    def losses(
        self, student: DenseDetector, teacher: DenseDetector | None, batch: SemiBatch, step: int
    ) -> MethodOutput:
        """See ``Method``: the supervised losses and ``unsup/cls``; with ``box`` also ``unsup/box`` and ``/quality``."""
        weight = self.unlabeled_weight(step)
        weak, strong = batch.unlabeled_weak, batch.unlabeled_strong
        if teacher is None or weight == 0 or weak is None or strong is None:
            return Supervised().losses(student, teacher, batch, step)
        with torch.no_grad():
            guess = teacher(weak)
        targets = pseudo_boxes(
            teacher.decode_boxes(guess),
            teacher.scores(guess),
            weak.sizes,
            threshold=self.threshold,
            nms_threshold=self.nms_threshold,
        )
        output = student(concatenate(batch.labeled_weak, batch.labeled_strong, strong))
        labeled, unlabeled = split_output(output, output.logits.shape[0] - strong.pixels.shape[0])
        losses = weighted("sup", student.supervised_losses(labeled, batch.targets))
        learned = student.supervised_losses(unlabeled, targets)
        weights = {"cls": self.cls_weight} | ({"box": self.box_weight, "quality": self.box_weight} if self.box else {})
        losses |= weighted(
            "unsup",
            {name: value for name, value in learned.items() if name in weights},
            {name: value * weight for name, value in weights.items()},
        )
        metrics = {
            "labeled/boxes": boxes_per_image(batch.targets),
            "pseudo/boxes": boxes_per_image(targets),
        }
        return MethodOutput(losses, metrics)
