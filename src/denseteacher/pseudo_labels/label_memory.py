"""Label memory: what was found on each unlabeled image before, in the pixels of its file.

It is a dict of three tensors with a row an image: ``boxes`` (U, M, 4), ``scores`` (U, M) and ``labels`` (U, M).
A score of 0 is a free place. With M = 20 that is 440 bytes an image, 54 MB for COCO's 123,000 unlabeled ones.
"""

import torch
from torch import Tensor
from torch.nn import functional

from denseteacher.ops.boxes import clip_boxes, move_boxes
from denseteacher.ops.distributed import rows_of_all_processes
from denseteacher.pseudo_labels.boxes import PseudoBoxes
from denseteacher.structures import MethodState


def empty_memory(images: int, boxes: int) -> MethodState:
    """A memory without boxes, of so many images with room for so many boxes each."""
    return {
        "boxes": torch.zeros(images, boxes, 4),
        "scores": torch.zeros(images, boxes),
        "labels": torch.zeros(images, boxes, dtype=torch.int16),
    }


@torch.no_grad()
def recall(
    memory: MethodState, positions: Tensor, to_view: Tensor, sizes: Tensor, *, threshold: float, forget: float
) -> PseudoBoxes:
    """What is remembered of images, as it lies on their views now.

    Args:
        memory: See the module.
        positions: (B,) rows of the images.
        to_view: (B, 3, 3) affine maps from file to view pixels.
        sizes: (B, 2) height and width of the views.
        threshold: Boxes whose faded score is no higher are forgotten.
        forget: Factor by which a score fades each time.
    """
    scores = memory["scores"][positions] * forget
    mask = scores > threshold
    height, width = sizes.to(scores.dtype)[:, :, None, None].unbind(1)
    boxes = clip_boxes(move_boxes(memory["boxes"][positions], to_view), height, width)
    labels = memory["labels"][positions].long()
    return PseudoBoxes(
        boxes.masked_fill(~mask[..., None], 0), labels.masked_fill(~mask, 0), mask, scores.masked_fill(~mask, 0)
    )


@torch.no_grad()
def memorize(memory: MethodState, positions: Tensor, to_view: Tensor, found: PseudoBoxes) -> MethodState:
    """A new memory that holds the best of these boxes for their images, of all processes, and else is as before.

    An image that occurs twice is remembered as it was found last.

    Args:
        memory: See the module; not changed.
        positions: (B,) rows of the images.
        to_view: (B, 3, 3) affine maps from file to view pixels.
        found: Boxes on the views, the best first.
    """
    room = memory["scores"].shape[1]
    # without an exception for singular maps, which would wait for the device; resizing and flips have an inverse
    to_file, _ = torch.linalg.inv_ex(to_view)
    boxes = move_boxes(found.boxes, to_file).masked_fill(~found.mask[..., None], 0)
    spare = max(0, room - found.mask.shape[1])
    rows = {
        "boxes": functional.pad(boxes[:, :room], (0, 0, 0, spare)),
        "scores": functional.pad(found.scores[:, :room], (0, spare)),
        "labels": functional.pad(found.labels[:, :room], (0, spare)),
    }
    positions = rows_of_all_processes(positions)
    # all rows of an image are made the same, so that the order of writing doesn't matter
    order = torch.arange(len(positions), device=positions.device)
    last = ((positions[:, None] == positions) * order).amax(1)
    return {
        name: memory[name].index_copy(0, positions, rows_of_all_processes(rows[name])[last].to(memory[name].dtype))
        for name in memory
    }
