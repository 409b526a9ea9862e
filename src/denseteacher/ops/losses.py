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


def distribution_focal_loss(logits: Tensor, distances: Tensor) -> Tensor:
    """Distribution focal loss (Li et al., NeurIPS 2020, eq. 6): the bins beside a distance share the probability.

    Args:
        logits: (..., bins) of a distribution over the distances 0, 1, 2, ...
        distances: (...) the true one; cut to [0, bins - 1.1], as in the published code.

    Returns:
        (...) fp32, unreduced.
    """
    last = logits.shape[-1] - 1
    wanted = distances.float().clamp(0, last - 0.1)
    below = wanted.long()
    logs = logits.float().log_softmax(-1)
    share = wanted - below
    lower, upper = (logs.gather(-1, one[..., None])[..., 0] for one in (below, below + 1))
    return -(lower * (1 - share) + upper * share)


def joint_log_scores(logits: Tensor, quality: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logarithms of the joint confidence ``s = sigmoid(logits) * sigmoid(quality)`` and of ``1 - s``.

    ``1 - s`` is what the class lacks, and what the quality lacks of the rest: as a sum of two logarithms it keeps its
    digits and its gradient however near to 0 or 1 the scores are.

    Args:
        logits: (..., K) class logits.
        quality: (...) quality logits; None where there is no such branch, whose factor is then 1.

    Returns:
        (..., K) fp32 each.
    """
    has, lacks = F.logsigmoid(logits.float()), F.logsigmoid(-logits.float())
    if quality is None:
        return has, lacks
    quality = quality.float()[..., None]
    return has + F.logsigmoid(quality), torch.logaddexp(lacks, has + F.logsigmoid(-quality))


def joint_focal_loss(
    logits: Tensor, quality: Tensor | None, targets: Tensor, *, gamma: float = 2.0, background_weight: float = 0.75
) -> Tensor:
    """Focal loss of the joint confidence against soft labels (Liu et al., CVPR 2023, JCE; docs/sources.md, ARSL).

    ``w |t - s|^gamma * BCE(s, t)`` with ``s = sigmoid(logits) * sigmoid(quality)`` and w 1 where t > 0: the gradient
    reaches both branches.

    Args:
        logits: (..., K) class logits.
        quality: (...) quality logits; None where there is no such branch, whose factor is then 1.
        targets: (..., K) joint scores in [0, 1].
        gamma: Suppression factor.
        background_weight: w where the target is 0.

    Returns:
        (..., K) fp32, unreduced.
    """
    targets = targets.float()
    positive, negative = joint_log_scores(logits, quality)
    entropy = -(targets * positive + (1 - targets) * negative)
    weight = torch.where(targets > 0, 1.0, background_weight)
    return (positive.exp() - targets).abs().pow(gamma) * weight * entropy


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
