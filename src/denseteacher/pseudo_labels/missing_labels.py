"""Partly labeled images: objects that nobody drew, and of which the teacher is sure."""

from typing import cast

import torch
from torch import Tensor

from denseteacher.detectors.base import DenseDetector
from denseteacher.ops.assignment import some_boxes
from denseteacher.ops.boxes import pairwise_iou
from denseteacher.structures import DenseOutput, ImageBatch, LabeledBatch, LossDict, LossWeights, Targets, cat, chunk

_SAME_OBJECT = 0.5  # IoU from which a predicted box is that of a labeled object, as in VOC's metric


@torch.no_grad()
def unlabeled_objects(detector: DenseDetector, output: DenseOutput, targets: Targets, sure_score: Tensor) -> Tensor:
    """Where the teacher is sure of an object that no label covers, whatever its class.

    A location next to a labeled object, at which its box is predicted too, is not such a place: that it is
    background keeps detections from coming twice.

    Args:
        detector: Whose predictions they are.
        output: Predictions of the teacher on B images.
        targets: What is labeled on them.
        sure_score: (B,) class score above which the teacher is sure.

    Returns:
        (B, N) bool.
    """
    sure = detector.class_logits(output).sigmoid().amax(-1) > sure_score[:, None]
    boxes, covered = detector.decode_boxes(output), torch.zeros_like(sure)
    for some in some_boxes(targets.mask, boxes.shape[1]):
        overlap = pairwise_iou(boxes, targets.boxes[:, some])
        covered |= ((overlap >= _SAME_OBJECT) & targets.mask[:, None, some]).any(2)
    return sure & ~covered & output.valid


@torch.no_grad()
def missing_labels(
    teacher: DenseDetector, labeled: LabeledBatch, output: DenseOutput | None = None
) -> tuple[LossWeights | None, LossDict]:
    """What the labeled images' locations count in the supervised losses.

    Args:
        teacher: In eval mode.
        labeled: The labeled images of the step.
        output: Predictions of the teacher on the weak views, if there are any yet.

    Returns:
        The weights, None where all labels are there, and what is watched: locations an image where the teacher is
        sure of an object without a label.
    """
    if labeled.sure_score is None:
        return None, {}
    output = teacher(labeled.weak) if output is None else output
    missing = unlabeled_objects(teacher, output, labeled.targets, labeled.sure_score)
    return LossWeights(background=(~missing).float()), {"labeled/left_out": missing.sum() / len(missing)}


class TeacherOfBoth:
    """A teacher that, where labels are missing, looks at a step's labeled weak views in its pass on other views."""

    def __init__(self, teacher: DenseDetector, labeled: LabeledBatch) -> None:
        """Takes both.

        Args:
            teacher: In eval mode.
            labeled: The labeled images of the step.
        """
        self._teacher, self._labeled = teacher, labeled
        self._on_labeled: DenseOutput | None = None

    @property
    def teacher(self) -> DenseDetector:
        """What to call in the teacher's place: the teacher itself where no labels are missing."""
        return self._teacher if self._labeled.sure_score is None else cast("DenseDetector", self)

    def __getattr__(self, name: str) -> object:
        return getattr(self._teacher, name)

    def __call__(self, images: ImageBatch) -> DenseOutput:
        """The teacher's predictions on the images; those on the labeled views are kept."""
        weak = self._labeled.weak
        if self._on_labeled is not None or images.pixels.shape[1:] != weak.pixels.shape[1:]:
            return self._teacher(images)
        output, self._on_labeled = chunk(self._teacher(cat(images, weak)), [len(images.sizes), len(weak.sizes)])
        return output

    def missing_labels(self) -> tuple[LossWeights | None, LossDict]:
        """See the function; without a pass of its own where the teacher has been called."""
        return missing_labels(self._teacher, self._labeled, self._on_labeled)
