"""The forms of the class loss: what each wants of the scores, and what a location then counts in the box loss."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from denseteacher.ops.assignment import BACKGROUND, IGNORED, Assignment
from denseteacher.ops.losses import joint_focal_loss, quality_focal_loss, sigmoid_focal_loss
from denseteacher.structures import DenseOutput

ClassLoss = Literal["focal", "quality_focal", "joint"]
JOINT_QUALITY_WEIGHT = 0.5
"""Weight of the quality loss beside a joint class loss, as published."""


class Fit(NamedTuple):
    """How the predictions on B images fit what they are trained on; (B, N) each, meaningless but at foreground."""

    giou: Tensor
    iou: Tensor
    centerness: Tensor


def class_loss(form: ClassLoss, output: DenseOutput, assignment: Assignment, targets: Tensor | None) -> Tensor:
    """The class loss of every location and class; 0 where a location is ignored.

    Args:
        form: Which one.
        output: Predictions on B images.
        assignment: Of the same B images.
        targets: (B, N) what a score should be at foreground; None for 1. A focal loss takes hard labels whatever it is.

    Returns:
        (B, N, K) fp32, unreduced.
    """
    labels = assignment.labels
    foreground = labels > BACKGROUND
    wanted = torch.zeros_like(output.logits)
    at_class = foreground.to(wanted.dtype) if targets is None or form == "focal" else targets * foreground
    wanted.scatter_(2, labels.clamp(min=0)[..., None], at_class[..., None])
    if form == "joint" and output.quality is not None:
        entropy = joint_focal_loss(output.logits, output.quality, wanted)
    elif form == "quality_focal":
        entropy = quality_focal_loss(output.logits, wanted)
    else:
        entropy = sigmoid_focal_loss(output.logits, wanted)
    return entropy * (labels != IGNORED)[..., None]
