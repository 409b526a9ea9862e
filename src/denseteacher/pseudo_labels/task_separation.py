"""Task-separated pseudo-labels: which locations teach the class, and which of them a box too (ARSL)."""

from typing import NamedTuple

import torch
from torch import Tensor

from denseteacher.ops.boxes import centers, pairwise_iou
from denseteacher.structures import DenseOutput

_UNCHOSEN = -1.0  # a score below all others: it ranks last and reaches no threshold


class TaskSeparation(NamedTuple):
    """What the teacher says, as training targets of classes, boxes and quality."""

    targets: Tensor
    """(B, N, K) joint scores in [0, 1]; 0 where the location is background."""
    positive: Tensor
    """(B, N) bool, locations that are sure of one class."""
    hard: Tensor
    """(B, N) bool, locations whose whole score vector is learned, since the teacher is not sure."""
    localized: Tensor
    """(B, N) bool, locations whose box and quality are learned: the positive ones and the promoted hard ones."""
    promoted: Tensor
    """(B, N) bool, hard locations that agree with positive ones on an object."""
    boxes: Tensor
    """(B, N, 4) xyxy pixels, the box that each learns; meaningless where ``localized`` is False."""
    quality: Tensor | None
    """(B, N) quality in [0, 1] that each learns; None where there is no such branch."""
    threshold: Tensor
    """(B,) score from which on a location of the image is positive."""


class _Ranked(NamedTuple):
    """The M locations of each image with the highest scores among some of them; padded where there are fewer."""

    place: Tensor
    """(B, M) where they are among all."""
    score: Tensor
    """(B, M), ``_UNCHOSEN`` in the padding."""
    boxes: Tensor
    """(B, M, 4)."""
    label: Tensor
    """(B, M)."""
    level: Tensor
    """(B, M)."""
    center: Tensor
    """(B, M, 2)."""


def joint_scores(output: DenseOutput) -> Tensor:
    """(B, N, K) class score times quality, in [0, 1] (JCE); without a quality branch the class score alone."""
    scores = output.logits.float().sigmoid()
    return scores if output.quality is None else scores * output.quality.float().sigmoid()[..., None]


@torch.no_grad()
def task_separation(
    output: DenseOutput,
    boxes: Tensor,
    levels: Tensor,
    *,
    score_floor: float = 0.1,
    most_threshold: float = 0.4,
    fallback: int = 10,
    least_iou: float = 0.6,
    most_mined: int = 256,
) -> TaskSeparation:
    """Selects and mines (Liu et al., CVPR 2023, TSA; docs/sources.md, ARSL). Shapes depend on no data.

    Of each image the locations from ``score_floor`` on are candidates; those from mean + standard deviation of the
    candidates' scores on are positive, the others hard. Where none reaches that, which two candidates of different
    scores never do, the richest are positive, the hard ones among them remaining hard too, as published. Locations
    in the padding are never selected.

    Args:
        output: The teacher's predictions.
        boxes: (B, N, 4) its boxes in pixels.
        levels: (N,) pyramid level of each anchor.
        score_floor: Highest joint score from which on a location is a candidate.
        most_threshold: Upper limit of the threshold.
        fallback: Locations that are positive where none reaches the threshold.
        least_iou: IoU of a hard location's box with that of a positive one from which on they can agree.
        most_mined: Of an image, the hard locations that can be promoted and the positive ones that can promote: so
            many with the highest scores of each kind.
    """
    scores = joint_scores(output)
    best, label = scores.max(-1)
    best = best.masked_fill(~output.valid, _UNCHOSEN)
    candidate = best >= score_floor
    # the mean of candidates is above the floor: the lower limit is for images that have none
    threshold = _mean_and_deviation(best, candidate).clamp(min=score_floor, max=most_threshold)
    positive = candidate & (best >= threshold[:, None])
    hard = candidate & ~positive
    positive = positive | (_richest(best, fallback) & ~positive.any(1, keepdim=True))
    sure = torch.zeros_like(scores).scatter_(2, label[..., None], best.masked_fill(~positive, 0)[..., None])
    targets = torch.where(hard[..., None], scores, sure)
    center = centers(output.anchors)
    mined, promoting = (
        _ranked(best.masked_fill(~kind, _UNCHOSEN), boxes, label, levels, center, most_mined)
        for kind in (hard, positive)
    )
    agreed, boxes_agreed = _agreement(mined, promoting, least_iou)
    promoted = torch.zeros_like(hard).scatter_(1, mined.place, agreed)
    new = torch.where(agreed[..., None], boxes_agreed, mined.boxes)
    boxes = boxes.scatter(1, mined.place[..., None].expand_as(new), new)
    quality = None if output.quality is None else output.quality.float().sigmoid()
    return TaskSeparation(targets, positive, hard, positive | promoted, promoted, boxes, quality, threshold)


def _mean_and_deviation(scores: Tensor, candidate: Tensor) -> Tensor:
    """(B,) mean plus standard deviation of an image's candidates, 0 of none.

    The deviation is that of a sample (over n - 1, at least 1), which is the default of the published code's framework.
    """
    count = candidate.sum(1)
    mean = scores.masked_fill(~candidate, 0).sum(1) / count.clamp(min=1)
    squares = (scores - mean[:, None]).square().masked_fill(~candidate, 0).sum(1)
    return mean + (squares / (count - 1).clamp(min=1)).sqrt()


def _richest(best: Tensor, count: int) -> Tensor:
    """(B, N) bool, so many locations of each image with the highest scores, none of them in the padding."""
    value, index = best.topk(min(count, best.shape[1]), dim=1)
    return torch.zeros_like(best, dtype=torch.bool).scatter_(1, index, value > _UNCHOSEN)


def _ranked(score: Tensor, boxes: Tensor, label: Tensor, levels: Tensor, center: Tensor, most: int) -> _Ranked:
    value, index = score.topk(min(most, score.shape[1]), dim=1)
    own = boxes.gather(1, index[..., None].expand(-1, -1, 4))
    # int32: half the memory of (B, H, P) comparisons
    return _Ranked(index, value, own, label.gather(1, index).int(), levels.int()[index], center[index])


def _agreement(hard: _Ranked, positive: _Ranked, least_iou: float) -> tuple[Tensor, Tensor]:
    """Which hard locations lie on an object of positive ones, and the mean box of all those, weighted by their scores.

    Returns:
        (B, H) bool and (B, H, 4) xyxy.
    """
    # what only fills up lies nowhere, and holds nothing: cheaper than two more masks of (B, H, P)
    center = hard.center.masked_fill((hard.score == _UNCHOSEN)[..., None], torch.inf)
    boxes = positive.boxes.masked_fill((positive.score == _UNCHOSEN)[..., None], 0)
    x, y = center[:, :, None].unbind(-1)  # (B, H, 1) each
    left, top, right, bottom = sides = boxes[:, None].unbind(-1)  # (B, 1, P) each
    agrees = (x > left) & (y > top) & (x < right) & (y < bottom)
    agrees &= hard.label[:, :, None] == positive.label[:, None]
    agrees &= (hard.level[:, :, None] - positive.level[:, None]).abs_() <= 1
    agrees &= pairwise_iou(hard.boxes, boxes) >= least_iou
    weight = agrees * positive.score[:, None]
    # side by side: a matrix product may be rounded to TF32 or bf16, which costs pixels
    sums = torch.stack([(weight * side).sum(2) for side in sides], dim=-1)
    return agrees.any(2), sums / weight.sum(2).clamp(min=torch.finfo(sums.dtype).tiny)[..., None]
