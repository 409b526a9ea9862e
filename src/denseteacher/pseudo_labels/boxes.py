"""Pseudo-boxes: the teacher's confident detections, as if they were ground truth."""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from denseteacher.ops.boxes import clip_boxes
from denseteacher.structures import Targets


class PseudoBoxes(NamedTuple):
    """Pseudo ground truth of a batch, padded, the best box of an image first; what is padded is 0."""

    boxes: Tensor
    """(B, G, 4) fp32 xyxy."""
    labels: Tensor
    """(B, G) int64."""
    mask: Tensor
    """(B, G) bool, True where there is a box."""
    scores: Tensor
    """(B, G) fp32."""

    @property
    def targets(self) -> Targets:
        """The boxes without their scores."""
        return Targets(self.boxes, self.labels, self.mask)

    def only(self, which: Tensor) -> "PseudoBoxes":
        """The boxes that are among ``which``, (B, G) bool; they keep their places."""
        mask = self.mask & which
        return PseudoBoxes(
            self.boxes.masked_fill(~mask[..., None], 0),
            self.labels.masked_fill(~mask, 0),
            mask,
            self.scores.masked_fill(~mask, 0),
        )


@torch.no_grad()
def pseudo_boxes(
    boxes: Tensor,
    scores: Tensor,
    sizes: Tensor,
    *,
    threshold: float | Tensor,
    nms_threshold: float,
    max_boxes: int = 100,
) -> PseudoBoxes:
    """Thresholds the teacher's predictions, removes duplicates and pads what is left, for all images at once.

    The threshold comes before NMS: a box below it never suppresses one above, so the result is that of
    thresholding final detections, from far fewer candidates; only that boxes are cut to the image before NMS here, and
    detections after it. NMS has no fixed output size, so a GPU is
    waited for, which dense pseudo-labels never need.

    Args:
        boxes: (B, N, 4) xyxy pixels.
        scores: (B, N, K) final scores; 0 in the padding.
        sizes: (B, 2) height and width of the images.
        threshold: Only higher scores are kept (the paper's sigma_t); one number, or (K,) one a class.
        nms_threshold: Of two boxes of a class that overlap more, the lower-scored one goes (sigma_nms).
        max_boxes: Most boxes kept an image, the best ones.

    Returns:
        Pseudo ground truth of B images.
    """
    image, location, label = (scores > threshold).nonzero().unbind(1)
    height, width = sizes[image].to(boxes.dtype)[:, :, None].unbind(1)
    return padded_nms(
        image,
        clip_boxes(boxes[image, location], height, width),
        scores[image, location, label],
        label,
        batch=scores.shape[0],
        classes=scores.shape[2],
        nms_threshold=nms_threshold,
        max_boxes=max_boxes,
    )


@torch.no_grad()
def padded_nms(
    image: Tensor,
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    batch: int,
    classes: int,
    nms_threshold: float,
    max_boxes: int = 100,
) -> PseudoBoxes:
    """Class-wise NMS of candidates from many images, and what is left padded to one tensor.

    Args:
        image: (M,) int64 which image each candidate is from.
        boxes: (M, 4) xyxy.
        scores: (M,).
        labels: (M,) int64 class indices.
        batch: Number of images.
        classes: Number of classes.
        nms_threshold: Of two boxes of an image and class that overlap more, the lower-scored one goes.
        max_boxes: Most boxes kept an image, the best ones.
    """
    keep = batched_nms(boxes, scores, image * classes + labels, nms_threshold)
    image, labels, boxes, scores = image[keep], labels[keep], boxes[keep], scores[keep]  # by falling score

    membership = image[:, None] == torch.arange(batch, device=image.device)
    place = membership.cumsum(0).gather(1, image[:, None])[:, 0] - 1  # rank of the box in its image
    fits = place < max_boxes
    image, place, labels, boxes, scores = image[fits], place[fits], labels[fits], boxes[fits], scores[fits]
    most = max(1, int(membership.sum(0).max().clamp(max=max_boxes)))
    found = PseudoBoxes(
        boxes.new_zeros(batch, most, 4),
        torch.zeros(batch, most, dtype=torch.int64, device=boxes.device),
        torch.zeros(batch, most, dtype=torch.bool, device=boxes.device),
        scores.new_zeros(batch, most),
    )
    found.boxes[image, place] = boxes
    found.labels[image, place] = labels
    found.mask[image, place] = True
    found.scores[image, place] = scores
    return found


@torch.no_grad()
def fuse(
    first: PseudoBoxes, second: PseudoBoxes, *, classes: int, nms_threshold: float, max_boxes: int = 100
) -> PseudoBoxes:
    """Two sets of boxes of the same images as one, by class-wise NMS; of equal scores the first set's wins."""
    boxes, labels, mask, scores = (torch.cat(pair, dim=1) for pair in zip(first, second, strict=True))
    image, place = mask.nonzero().unbind(1)
    return padded_nms(
        image,
        boxes[image, place],
        scores[image, place],
        labels[image, place],
        batch=len(mask),
        classes=classes,
        nms_threshold=nms_threshold,
        max_boxes=max_boxes,
    )
