"""Soft Teacher (Xu et al., ICCV 2021) on one-stage detectors."""

from functools import partial
from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import boxes_per_image
from denseteacher.methods.mean_teacher import StudentTask
from denseteacher.methods.pseudo_box import PseudoBoxTeacher
from denseteacher.pseudo_labels.reliability import relative_spread
from denseteacher.structures import (
    DenseOutput,
    LabeledBatch,
    LossDict,
    LossWeights,
    MethodState,
    Targets,
    UnlabeledBatch,
)


class SoftTeacher(PseudoBoxTeacher):
    """Classes are learned from sure boxes against a softened background, places from boxes that are agreed on.

    Published (paper and code, docs/sources.md, Soft Teacher) and kept: candidates are detections above 0.5 after
    NMS. Those above a high threshold are ground truth of the class loss, in which what the student has as
    background counts as much as the teacher believes it to be background, and foreground counts fully. The box
    loss has a second set of ground truth and an assignment of its own: the candidates whose place is reliable,
    whatever their score. The weight of the class loss on COCO-Standard is 4.

    Adapted to one-stage detectors: (1) The reliability of a box is published as the spread of what the second
    stage makes of ten jittered copies of it, which must be below 0.02. A one-stage detector has no head to put a
    box through, but many locations that predict the same object from slightly different places, so that
    the spread of the predictions that NMS merges into the box stands in (``pseudo_labels.reliability``). (2)
    Background is published as what the second stage samples, with the teacher's softmax probability of it, and
    the loss is divided by the sum of the weights. Here it is every location that the assigner gives no box,
    with 1 minus the teacher's highest class probability at the same location, and the detector's own
    normalizer, the number of foreground locations. That number is 0 where no box is sure, so images without one
    teach no class; else a young teacher that is sure of nothing would have everything unlearned. Since weights
    belong to locations, teacher and student must see one geometry. (3) ``threshold`` below, and ``box_weight``,
    which is 1 as in the rest of the family; published is 4 for all losses on unlabeled images. Burn-in, ramp, EMA
    and views are those of the other methods here; the original has no burn-in.
    """

    moves_labels: ClassVar[bool] = False  # the background weights belong to locations, which don't move along

    name: Literal["soft_teacher"] = "soft_teacher"
    threshold: float = Field(0.6, ge=0, lt=1)
    """Detections must score above this to be ground truth of the class loss. Published: 0.9 on softmax scores of
    a second stage. A sigmoid that is trained by focal loss (alpha 0.25, gamma 2) says 0.60 where a class is 0.9
    likely; with pseudo-boxes above 0.7 FCOS does not converge, the paper of Dense Teacher reports (Fig. 2a)."""
    candidate_threshold: float = Field(0.5, ge=0, lt=1)
    """Detections must score above this to be ground truth of the box loss."""
    box_spread: float = Field(0.06, gt=0)
    """... and the spread of their witnesses, in sides of the box, must be below this. On Digits, after 1,000 steps
    on labels alone, this keeps 42 % of the candidates, whose IoU with the truth is 0.81; that of the others is
    0.72, and that of as many by score 0.78. Not measured on COCO."""
    box: bool = True

    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        """See ``MeanTeacher``: ``cls`` against the sure boxes, ``box`` and ``quality`` against the reliable ones."""
        found = self.pseudo_boxes(
            detector, teacher_output, unlabeled.weak, min(self.threshold, self.candidate_threshold)
        )
        decoded = detector.decode(teacher_output)
        spread = relative_spread(found, decoded.boxes, decoded.scores, unlabeled.weak.sizes)
        sure = found.only(found.scores > self.threshold).targets
        reliable = found.only((found.scores > self.candidate_threshold) & (spread < self.box_spread)).targets
        background = (1 - detector.class_logits(teacher_output).sigmoid().amax(-1)) * sure.mask.any(1, keepdim=True)
        metrics = {"pseudo/boxes": boxes_per_image(sure), "pseudo/reliable_boxes": boxes_per_image(reliable)}
        return StudentTask(unlabeled.strong, partial(self._losses, detector, sure, reliable, background), metrics)

    def _losses(
        self, detector: DenseDetector, sure: Targets, reliable: Targets, background: Tensor, output: DenseOutput
    ) -> LossDict:
        losses: LossDict = {"cls": self.box_losses(detector, sure, LossWeights(background=background), output)["cls"]}
        if self.box:
            placed = self.box_losses(detector, reliable, None, output)
            losses |= {name: value for name, value in placed.items() if name != "cls"}
        return losses
