"""Pseudo-boxes of one model in the light of what another one predicts."""

import torch
from torch import Tensor

from denseteacher.ops.boxes import clip_boxes, iou
from denseteacher.pseudo_labels.boxes import PseudoBoxes


@torch.no_grad()
def rectify(
    found: PseudoBoxes,
    boxes: Tensor,
    scores: Tensor,
    sizes: Tensor,
    *,
    least_overlap: float = 0.5,
    score_floor: float = 0.05,
    candidates: int = 1000,
) -> PseudoBoxes:
    """Boxes of one model as the means of themselves and of what another model predicts in their places.

    A box is met by that prediction of its class, among the other model's candidates, that overlaps it most.
    Its new score is the mean of both scores, its new corners the mean of both boxes' weighted by score. A box
    that is not met is met by a score of 0, as it were: its own is halved and it stays where it is.

    This stands in for the RoI head of Instant-Teaching's co-rectify, which scores and regresses a given box
    anew; the two means are published (docs/sources.md, Instant-Teaching). Candidates bound the memory to
    B x G x ``candidates`` overlaps, whatever the number of locations: COCO has 22,000, and 200,000 anchors.
    Everything has a fixed shape, so the device is not waited for.

    Args:
        found: G pseudo-boxes of each of B images, cut to them.
        boxes: (B, N, 4) the other model's, xyxy pixels.
        scores: (B, N, K) its final scores; 0 in the padding.
        sizes: (B, 2) height and width of the images.
        least_overlap: A prediction must overlap a box more than this (IoU) to meet it.
        score_floor: And score above this in its class.
        candidates: Locations of the other model that are looked at in each image, those of the highest scores.

    Returns:
        The boxes at their places, no longer in the order of their scores.
    """
    index = scores.amax(2).topk(min(candidates, scores.shape[1]), dim=1).indices[..., None]  # (B, C, 1)
    height, width = sizes.to(boxes.dtype)[:, :, None, None].unbind(1)
    boxes = clip_boxes(boxes.take_along_dim(index, dim=1), height, width)
    in_class = scores.take_along_dim(index, dim=1).transpose(1, 2).take_along_dim(found.labels[..., None], dim=1)

    overlap = iou(found.boxes[:, :, None], boxes[:, None])  # (B, G, C)
    meets = (overlap > least_overlap) & (in_class > score_floor)
    most, which = overlap.masked_fill(~meets, 0.0).max(2, keepdim=True)
    other = in_class.take_along_dim(which, dim=2) * (most > 0)
    own = found.scores[..., None]
    corners = (own * found.boxes + other * boxes.take_along_dim(which, dim=1)) / (own + other)
    return found._replace(
        boxes=corners.masked_fill(~found.mask[..., None], 0),
        scores=(own + other)[..., 0].masked_fill(~found.mask, 0) / 2,
    )
