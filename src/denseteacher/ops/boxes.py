"""Box formats, codings and overlaps. Boxes are (x1, y1, x2, y2); everything is computed in fp32."""

import math

import torch
from torch import Tensor

from denseteacher.structures import Targets

_EPSILON = 1e-7  # keeps 0/0 finite for boxes without area; far below the area of a pixel
_MOST_GROWTH = math.log(1000 / 16)  # keeps exp finite: an anchor of 16 px can become a box of 1000

_LEAST_SIDE = 2.0  # pixels; what is left of a thinner box shows nothing of the object


def areas(boxes: Tensor) -> Tensor:
    """(...) areas of (..., 4) xyxy boxes; inverted boxes have area 0."""
    return _areas(*boxes.chunk(2, dim=-1))


def _areas(lower: Tensor, upper: Tensor) -> Tensor:
    width, height = (upper - lower).clamp(min=0).unbind(-1)
    return width * height


def _overlap(lower1: Tensor, upper1: Tensor, lower2: Tensor, upper2: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union areas, elementwise over (..., 2) corners."""
    intersection = _areas(torch.maximum(lower1, lower2), torch.minimum(upper1, upper2))
    return intersection, _areas(lower1, upper1) + _areas(lower2, upper2) - intersection


def iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union, elementwise.

    Args:
        boxes1: (..., 4) xyxy.
        boxes2: (..., 4) xyxy, broadcastable to ``boxes1``.

    Returns:
        (...) fp32 in [0, 1]; 0 where both boxes have no area.
    """
    intersection, union = _overlap(*boxes1.float().chunk(2, dim=-1), *boxes2.float().chunk(2, dim=-1))
    return intersection / union.clamp(min=_EPSILON)


def pairwise_iou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Intersection over union of all pairs of boxes of an image.

    Args:
        boxes1: (B, N, 4) xyxy.
        boxes2: (B, G, 4) xyxy.

    Returns:
        (B, N, G) fp32 in [0, 1]; 0 where both boxes have no area.
    """
    # coordinate by coordinate: an operation along two numbers in memory would be many times slower
    left1, top1, right1, bottom1 = boxes1.float()[:, :, None].unbind(-1)  # (B, N, 1) each
    left2, top2, right2, bottom2 = boxes2.float()[:, None].unbind(-1)  # (B, 1, G) each
    width = (torch.minimum(right1, right2) - torch.maximum(left1, left2)).clamp(min=0)
    height = (torch.minimum(bottom1, bottom2) - torch.maximum(top1, top2)).clamp(min=0)
    intersection = width * height
    union = areas(boxes1.float())[:, :, None] + areas(boxes2.float())[:, None] - intersection
    return intersection / union.clamp(min=_EPSILON)


def giou(boxes1: Tensor, boxes2: Tensor) -> Tensor:
    """Generalized intersection over union (Rezatofighi et al., CVPR 2019), elementwise.

    Args:
        boxes1: (..., 4) xyxy.
        boxes2: (..., 4) xyxy, broadcastable to ``boxes1``.

    Returns:
        (...) fp32 in [-1, 1]: IoU minus the share of the enclosing box that neither covers.
    """
    return giou_and_iou(boxes1, boxes2)[0]


def giou_and_iou(boxes1: Tensor, boxes2: Tensor) -> tuple[Tensor, Tensor]:
    """``giou`` and ``iou`` of the same boxes, for the work of one."""
    # each half is cut out once: the gradient of a slice is a new tensor of zeros
    lower1, upper1 = boxes1.float().chunk(2, dim=-1)
    lower2, upper2 = boxes2.float().chunk(2, dim=-1)
    intersection, union = _overlap(lower1, upper1, lower2, upper2)
    enclosing = _areas(torch.minimum(lower1, lower2), torch.maximum(upper1, upper2))
    outside = (enclosing - union) / enclosing.clamp(min=_EPSILON)
    shared = intersection / union.clamp(min=_EPSILON)
    return shared - outside, shared


def centers(boxes: Tensor) -> Tensor:
    """(..., 2) centers (x, y) of (..., 4) xyxy boxes."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def decode_ltrb(distances: Tensor, anchors: Tensor) -> Tensor:
    """Boxes from distances to their four sides, in units of the anchor's side (FCOS).

    Args:
        distances: (..., N, 4) distances left, top, right, bottom of the anchor's center, in strides.
        anchors: (N, 4) squares of side stride.

    Returns:
        (..., N, 4) xyxy pixels.
    """
    stride = (anchors[:, 2] - anchors[:, 0])[:, None]
    center = centers(anchors)
    before, behind = (distances * stride).chunk(2, dim=-1)
    return torch.cat((center - before, center + behind), dim=-1)


def encode_ltrb(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of ``decode_ltrb``: (..., N, 4) xyxy pixels to distances in strides."""
    stride = (anchors[:, 2] - anchors[:, 0])[:, None]
    center = centers(anchors)
    return torch.cat((center - boxes[..., :2], boxes[..., 2:] - center), dim=-1) / stride


def decode_deltas(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes from shifts of the anchor's center, in its sides, and logarithms of its growth (R-CNN, RetinaNet).

    Args:
        deltas: (..., N, 4) dx, dy, dw, dh; the growth is cut at 1000 / 16.
        anchors: (N, 4) xyxy.

    Returns:
        (..., N, 4) xyxy pixels.
    """
    sides = anchors[:, 2:] - anchors[:, :2]
    shift, growth = deltas.chunk(2, dim=-1)
    center = centers(anchors) + shift * sides
    half = sides * growth.clamp(max=_MOST_GROWTH).exp() / 2
    return torch.cat((center - half, center + half), dim=-1)


def encode_deltas(boxes: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of ``decode_deltas``: (..., N, 4) xyxy pixels to deltas; finite for boxes without area."""
    sides = anchors[:, 2:] - anchors[:, :2]
    shift = (centers(boxes) - centers(anchors)) / sides
    growth = ((boxes[..., 2:] - boxes[..., :2]).clamp(min=_EPSILON) / sides).log()
    return torch.cat((shift, growth), dim=-1)


def clip_boxes(boxes: Tensor, height: float | Tensor, width: float | Tensor) -> Tensor:
    """(..., 4) boxes cut to an image of the given height and width in pixels."""
    x = boxes[..., 0::2].clamp(min=0).clamp(max=width)
    y = boxes[..., 1::2].clamp(min=0).clamp(max=height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1)


def move_boxes(boxes: Tensor, matrix: Tensor) -> Tensor:
    """Boxes in a view with its own geometry: the axis-aligned hulls of their four moved corners.

    A moved coordinate is a sum of one term in x and one in y, and each is least and greatest at a side of the
    box, so the hull needs no corners. Products are elementwise: a matrix product may be rounded to TF32 on a
    GPU, which costs tenths of a pixel.

    Args:
        boxes: (B, G, 4) xyxy pixels.
        matrix: (B, 3, 3) affine maps of homogeneous pixel coordinates (x, y, 1).

    Returns:
        (B, G, 4) fp32, not cut to the image.
    """
    boxes, matrix = boxes.float(), matrix.float()[:, None]
    linear, offset = matrix[..., :2, :2], matrix[..., :2, 2]
    first, second = linear * boxes[..., None, :2], linear * boxes[..., None, 2:]  # (B, G, 2, 2), a row an axis
    lower = torch.minimum(first, second).sum(-1) + offset
    upper = torch.maximum(first, second).sum(-1) + offset
    return torch.cat((lower, upper), dim=-1)


def move_targets(targets: Targets, matrix: Tensor, sizes: Tensor, *, least_visible: float = 0.2) -> Targets:
    """Ground truth in a view with its own geometry: boxes moved, cut to the image, and masked out where lost.

    Rows keep their places, so that what else is known of each box stays beside it. A turned box is larger
    than what it holds; the default keeps even a box of the whole image, whatever ``AffineView`` draws with
    its own defaults and whatever shape up to 3 to 1 the image has. Of a region to ignore all that is on the
    image stays.

    Args:
        targets: Ground truth of B images.
        matrix: (B, 3, 3) affine maps of homogeneous pixel coordinates, from their view to the new one.
        sizes: (B, 2) height and width of the images in the new view.
        least_visible: A box goes if less than this share of its moved area lies on the image, or if less than
            2 pixels of a side do.
    """
    moved = move_boxes(targets.boxes, matrix)
    height, width = sizes.to(moved.dtype)[:, :, None, None].unbind(1)
    boxes = clip_boxes(moved, height, width)
    large = (boxes[..., 2:] - boxes[..., :2]).amin(-1) >= _LEAST_SIDE
    mask = targets.mask & large & (areas(boxes) >= least_visible * areas(moved))
    return with_boxes(targets, boxes, mask)


def with_boxes(targets: Targets, boxes: Tensor, mask: Tensor) -> Targets:
    """Ground truth whose boxes have been cut or moved: what is lost is 0, and a region stays while it has an area.

    Args:
        targets: Ground truth of B images.
        boxes: (B, G, 4) its boxes now, those of regions to ignore too.
        mask: (B, G) bool, which objects are left.
    """
    ignored, kept = targets.ignored, mask
    if ignored is not None:
        ignored = ignored & (areas(boxes) > 0)
        kept = mask | ignored
    return Targets(boxes.masked_fill(~kept[..., None], 0), targets.labels.masked_fill(~mask, 0), mask, ignored)
