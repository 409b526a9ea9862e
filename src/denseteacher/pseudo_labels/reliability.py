"""How sure the place of a pseudo-box is: whether the locations that see the same object agree on it."""

import torch
from torch import Tensor

from denseteacher.ops.boxes import clip_boxes, iou
from denseteacher.pseudo_labels.boxes import PseudoBoxes

_LEAST_WITNESSES = 1.5  # locations; what only one of them says can't be checked


@torch.no_grad()
def relative_spread(
    found: PseudoBoxes, boxes: Tensor, scores: Tensor, sizes: Tensor, *, least_iou: float = 0.5, candidates: int = 1000
) -> Tensor:
    """How far the predictions that NMS merges into a pseudo-box lie apart, in its own sides.

    Witnesses of a box are all predictions that overlap it by more than ``least_iou``, each with the weight of
    its squared score for the box's class, so that many unsure ones don't outweigh few sure ones. The spread is
    the standard deviation of their x1, y1, x2 and y2, divided by the box's width or height, averaged over the
    four. A box whose witnesses weigh no more than 1.5 equal ones, ``(sum w)^2 / sum w^2``, has an infinite
    spread: agreement with itself says nothing.

    Args:
        found: B images' pseudo-boxes.
        boxes: (B, N, 4) xyxy pixels, the predictions they are from.
        scores: (B, N, K) final scores; 0 in the padding.
        sizes: (B, 2) height and width of the images.
        least_iou: Least IoU of a witness with the box.
        candidates: Best-scored predictions an image that may be witnesses; the weight of all others is small.

    Returns:
        (B, G) fp32; infinite where ``found`` is padded.
    """
    index = scores.amax(-1).topk(min(candidates, scores.shape[1]), dim=1).indices  # (B, M)
    height, width = sizes[:, :, None, None].unbind(1)
    near = clip_boxes(boxes.gather(1, index[..., None].expand(-1, -1, 4)), height, width)[:, None]  # (B, 1, M, 4)
    rows = scores.gather(1, index[..., None].expand(-1, -1, scores.shape[2]))  # (B, M, K)
    weight = rows.gather(2, found.labels[:, None].expand(-1, rows.shape[1], -1)).mT  # (B, G, M)
    own = found.boxes[:, :, None]  # (B, G, 1, 4)
    weight = weight.square() * (iou(near, own) > least_iou)
    total = weight.sum(-1)

    share = (weight / total.clamp(min=torch.finfo(weight.dtype).tiny)[..., None])[..., None]
    off = near - own  # relative to the box, as squares of pixel coordinates would cancel; no matmul, it may be TF32
    variance = (share * (off - (share * off).sum(2, keepdim=True)).square()).sum(2)  # (B, G, 4)
    sides = (found.boxes[..., 2:] - found.boxes[..., :2]).clamp(min=1)
    spread = (variance.sqrt() / sides.repeat(1, 1, 2)).mean(-1)
    confirmed = total.square() > _LEAST_WITNESSES * weight.square().sum(-1)
    return spread.masked_fill(~(confirmed & found.mask), torch.inf)
