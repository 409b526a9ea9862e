"""Pseudo-boxes: the teacher's confident detections, as if they were ground truth."""

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from denseteacher.ops.boxes import clip_boxes
from denseteacher.structures import Targets


@torch.no_grad()
def pseudo_boxes(
    boxes: Tensor, scores: Tensor, sizes: Tensor, *, threshold: float, nms_threshold: float, max_boxes: int = 100
) -> Targets:
    """Thresholds the teacher's predictions, removes duplicates and pads what is left, for all images at once.

    The threshold comes before NMS: a box below it never suppresses one above, so the result is that of
    thresholding final detections, from far fewer candidates. NMS has no fixed output size, so a GPU is
    waited for, which dense pseudo-labels never need.

    Args:
        boxes: (B, N, 4) xyxy pixels.
        scores: (B, N, K) final scores; 0 in the padding.
        sizes: (B, 2) height and width of the images.
        threshold: Only higher scores are kept (the paper's sigma_t).
        nms_threshold: Of two boxes of a class that overlap more, the lower-scored one goes (sigma_nms).
        max_boxes: Most boxes kept an image, the best ones.

    Returns:
        Pseudo ground truth of B images.
    """
    batch, _, classes = scores.shape
    image, location, label = (scores > threshold).nonzero().unbind(1)
    height, width = sizes[image].to(boxes.dtype)[:, :, None].unbind(1)
    candidates = clip_boxes(boxes[image, location], height, width)
    keep = batched_nms(candidates, scores[image, location, label], image * classes + label, nms_threshold)
    image, label, candidates = image[keep], label[keep], candidates[keep]  # by falling score

    membership = image[:, None] == torch.arange(batch, device=image.device)
    place = membership.cumsum(0).gather(1, image[:, None])[:, 0] - 1  # rank of the box in its image
    fits = place < max_boxes
    image, place, label, candidates = image[fits], place[fits], label[fits], candidates[fits]
    most = max(1, int(membership.sum(0).max().clamp(max=max_boxes)))
    targets = Targets(
        boxes.new_zeros(batch, most, 4),
        torch.zeros(batch, most, dtype=torch.int64, device=boxes.device),
        torch.zeros(batch, most, dtype=torch.bool, device=boxes.device),
    )
    targets.boxes[image, place] = candidates
    targets.labels[image, place] = label
    targets.mask[image, place] = True
    return targets
