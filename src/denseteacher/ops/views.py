"""Ground truth of one view as that of another."""

from torch import Tensor

from denseteacher.ops.boxes import areas, clip_boxes, move_boxes
from denseteacher.structures import Targets

_LEAST_SIDE = 2.0  # pixels; what is left of a thinner box shows nothing of the object


def move_targets(targets: Targets, matrix: Tensor, sizes: Tensor, *, least_visible: float = 0.2) -> Targets:
    """Ground truth in a view with its own geometry: boxes moved, cut to the image, and masked out where lost.

    Rows keep their places, so that what else is known of each box stays beside it. A turned box is larger
    than what it holds; the default keeps even a box of the whole image, whatever ``AffineView`` draws with
    its own defaults and whatever shape up to 3 to 1 the image has.

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
    return Targets(boxes.masked_fill(~mask[..., None], 0), targets.labels.masked_fill(~mask, 0), mask)
