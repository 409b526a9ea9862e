"""Unbiased Teacher (Liu et al., ICLR 2021) on one-stage detectors: the pseudo-box baseline of the paper."""

from typing import Literal

from pydantic import Field
from torch import Tensor

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import boxes_per_image
from denseteacher.methods.mean_teacher import MeanTeacher
from denseteacher.pseudo_labels.boxes import pseudo_boxes
from denseteacher.structures import DenseOutput, MethodOutput


class UnbiasedTeacher(MeanTeacher):
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

    def unlabeled_losses(
        self, detector: DenseDetector, output: DenseOutput, guess: DenseOutput, sizes: Tensor
    ) -> MethodOutput:
        """See ``MeanTeacher``: ``cls`` against the pseudo-boxes; with ``box`` also ``box`` and ``quality``."""
        targets = pseudo_boxes(
            detector.decode_boxes(guess),
            detector.scores(guess),
            sizes,
            threshold=self.threshold,
            nms_threshold=self.nms_threshold,
        )
        learned = detector.supervised_losses(output, targets)
        weights = {"cls": self.cls_weight} | ({"box": self.box_weight, "quality": self.box_weight} if self.box else {})
        losses = {name: value * weights[name] for name, value in learned.items() if name in weights}
        return MethodOutput(losses, {"pseudo/boxes": boxes_per_image(targets)})
