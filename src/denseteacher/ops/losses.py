"""Elementwise detection losses, from logits and in fp32 whatever the autocast."""

import torch
from torch import Tensor
from torch.nn import functional as F

from denseteacher.ops.boxes import giou


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, *, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) against hard labels.

    Args:
        logits: (...) class logits.
        targets: (...) 0 or 1.
        alpha: Weight of the positive class; the negative one has ``1 - alpha``.
        gamma: How strongly well-classified elements are played down.

    Returns:
        (...) fp32, unreduced.
    """
    logits, targets = logits.float(), targets.float()
    probability = torch.sigmoid(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    missing = probability + targets - 2 * probability * targets  # 1 - p at positives, p at negatives
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * missing.pow(gamma) * entropy


def quality_focal_loss(logits: Tensor, targets: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Quality focal loss against soft labels (Dense Teacher, eq. 2; Li et al., NeurIPS 2020).

    ``|t - p|^gamma * BCE(p, t)`` with ``p = sigmoid(logits)``.

    Args:
        logits: (...) the student's class logits.
        targets: (...) the teacher's scores in [0, 1].
        gamma: Suppression factor.

    Returns:
        (...) fp32, unreduced.
    """
    logits, targets = logits.float(), targets.float()
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (targets - torch.sigmoid(logits)).abs().pow(gamma) * entropy


def giou_loss(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """(...) fp32 ``1 - GIoU`` of (..., 4) xyxy boxes, unreduced."""
    return 1 - giou(boxes1, boxes2)


def quality_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """(...) fp32 binary cross-entropy of (...) quality logits with quality targets in [0, 1], unreduced."""
    return F.binary_cross_entropy_with_logits(logits.float(), targets.float(), reduction="none")


def bernoulli_divergence(logits: Tensor, targets: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the Bernoulli distributions of logits from known ones.

    The cross-entropy less the entropy of the targets: the same gradient, and 0 where there is nothing to learn.

    Args:
        logits: (...) of the distributions that learn.
        targets: (...) known probabilities in [0, 1].

    Returns:
        (...) fp32, unreduced.
    """
    logits, targets = logits.float(), targets.float()
    negative_entropy = torch.xlogy(targets, targets) + torch.xlogy(1 - targets, 1 - targets)
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none") + negative_entropy
