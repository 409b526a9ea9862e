"""What the methods have in common whose teacher's detections are taken for ground truth."""

from functools import partial
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import Shown, boxes_per_image
from denseteacher.methods.mean_teacher import MeanTeacher, StudentTask
from denseteacher.ops.boxes import move_targets
from denseteacher.pseudo_labels.boxes import PseudoBoxes, pseudo_boxes
from denseteacher.structures import (
    DenseOutput,
    Detections,
    ImageBatch,
    LabeledBatch,
    LossDict,
    LossWeights,
    MethodState,
    Targets,
    UnlabeledBatch,
)


class PseudoBoxTeacher(MeanTeacher):
    """Threshold, NMS, label assignment, then the detector's own supervised losses.

    Methods of this family differ in which boxes they believe and in how much each counts: in their ``student_task``.
    The boxes follow a strong view that has its own geometry.
    """

    moves_labels: ClassVar[bool] = True

    threshold: float = Field(0.5, ge=0, lt=1)
    """Detections must score above this to become pseudo-boxes."""
    nms_threshold: float = Field(0.6, gt=0, le=1)
    """IoU above which, of two boxes of a class, the one with the lower score is dropped."""
    cls_weight: float = Field(4.0, ge=0)
    """Weight of the class loss on unlabeled images."""
    box_weight: float = Field(1.0, ge=0)
    """Weight of the box and the quality loss."""
    box: bool = False
    """Learn boxes and their quality too."""

    @property
    def believed_above(self) -> float:
        """See ``Method``."""
        return self.threshold

    def pseudo_boxes(
        self, detector: DenseDetector, teacher_output: DenseOutput, weak: ImageBatch, threshold: float | Tensor
    ) -> PseudoBoxes:
        """Boxes of the weak views that score above a threshold: one number, or (K,) one a class."""
        decoded = detector.decode(teacher_output)
        return pseudo_boxes(
            decoded.boxes,
            decoded.scores,
            weak.sizes,
            threshold=threshold,
            nms_threshold=self.nms_threshold,
        )

    def show(self, detector: DenseDetector, teacher_output: DenseOutput, weak: ImageBatch) -> Shown:
        """See ``Method``: what is kept at the threshold of the recipe."""
        found = self.pseudo_boxes(detector, teacher_output, weak, self.threshold)
        kept = [
            Detections(boxes[mask], scores[mask], labels[mask])
            for boxes, labels, mask, scores in zip(*found, strict=True)
        ]
        return Shown(pseudo_boxes=kept)

    def legend(self) -> str:
        """See ``Method``."""
        return (
            f"Pseudo-boxes are the teacher's detections above {self.threshold}, which the student takes for ground "
            "truth. What it doubts, the student never learns of: compare with the scores."
        )

    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        """See ``MeanTeacher``: ``cls`` against the pseudo-boxes; with ``box`` also ``box`` and ``quality``."""
        found = self.pseudo_boxes(detector, teacher_output, unlabeled.weak, self.threshold)
        return self.box_task(detector, unlabeled, to_strong_view(found.targets, unlabeled))

    def box_task(
        self,
        detector: DenseDetector,
        unlabeled: UnlabeledBatch,
        targets: Targets,
        *,
        images: ImageBatch | None = None,
        weights: LossWeights | None = None,
        state: MethodState | None = None,
    ) -> StudentTask:
        """What the student learns from pseudo ground truth.

        Args:
            detector: For its losses.
            unlabeled: The unlabeled images of the step.
            targets: On the images that are shown.
            images: What is shown, the strong views if not given.
            weights: Of boxes and background locations.
            state: For the next step.
        """
        shown = unlabeled.strong if images is None else images
        losses = partial(self.box_losses, detector, targets, weights)
        return StudentTask(shown, losses, {"pseudo/boxes": boxes_per_image(targets)}, state)

    def box_losses(
        self, detector: DenseDetector, targets: Targets, weights: LossWeights | None, output: DenseOutput
    ) -> LossDict:
        """The detector's losses against pseudo ground truth, times the method's weights."""
        learned = detector.supervised_losses(output, targets, weights)
        factors = {"cls": self.cls_weight} | ({"box": self.box_weight, "quality": self.box_weight} if self.box else {})
        return {name: value * factors[name] for name, value in learned.items() if name in factors}


def to_strong_view(targets: Targets, unlabeled: UnlabeledBatch) -> Targets:
    """Boxes of the weak views as they lie on the strong ones."""
    matrix = unlabeled.to_strong
    if matrix is None:
        return targets
    assert unlabeled.strong is not None
    return move_targets(targets, matrix, unlabeled.strong.sizes)
