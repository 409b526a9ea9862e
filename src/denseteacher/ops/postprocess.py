"""The detections of an image, made of scores and boxes at every location."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from denseteacher.ops.boxes import clip_boxes
from denseteacher.structures import Detections


def candidates_per_level(
    scores: Tensor, level_sizes: Sequence[int], most: Sequence[int], *, score_floor: float
) -> tuple[Tensor, Tensor]:
    """The highest (location, class) pairs of every pyramid level of one image.

    Args:
        scores: (N, K) class scores.
        level_sizes: Locations of each level; they sum to N.
        most: Most pairs kept of each level.
        score_floor: Pairs must score above this.

    Returns:
        (M,) location indices and (M,) class indices.
    """
    num_classes = scores.shape[1]
    kept, start = [], 0
    for size, top_k in zip(level_sizes, most, strict=True):
        level = scores[start : start + size].reshape(-1)
        best, index = level.topk(min(top_k, level.numel()))
        kept.append(index[best > score_floor] + start * num_classes)
        start += size
    flat = torch.cat(kept)
    return flat // num_classes, flat % num_classes


def non_maximum_suppression(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    size: tuple[int, int],
    iou_threshold: float,
    max_detections: int,
) -> Detections:
    """Class-wise NMS of one image's candidates, and the best of what is left, cut to the image.

    As published, boxes overlap as they are predicted, and are cut to the image at the end: then those of which nothing
    is left go.

    Args:
        boxes: (M, 4) xyxy pixels.
        scores: (M,) final scores.
        labels: (M,) class indices.
        size: Height and width of the image.
        iou_threshold: Of two boxes of a class that overlap more, the lower-scored one goes.
        max_detections: Most detections kept.
    """
    # torchvision keeps classes apart by moving them, which does for boxes from 0 on alone
    before = boxes.amin().clamp(max=0) if len(boxes) else 0
    keep = batched_nms(boxes - before, scores, labels, iou_threshold)[:max_detections]
    boxes = clip_boxes(boxes[keep], *size)
    keep, boxes = (rows[not_empty(boxes)] for rows in (keep, boxes))
    return Detections(boxes, scores[keep], labels[keep])


def not_empty(boxes: Tensor) -> Tensor:
    """(...) bool, which of (..., 4) xyxy boxes have an area."""
    return (boxes[..., 2:] > boxes[..., :2]).all(-1)
