"""Image cache: the last strong views of all processes with their pseudo-boxes, the oldest first.

It is a dict of tensors of C places: ``pixels`` (C, 3, S, S) uint8, ``sizes`` (C, 2) int64 height and width in them,
0 in a free place; ``boxes`` (C, M, 4) fp32, ``labels`` (C, M) int64 and ``mask`` (C, M) bool as in ``Targets``.
"""

import torch
from torch import Tensor
from torch.nn import functional

from denseteacher.data.augment.affine import above_mean_color, as_pixels, sampled
from denseteacher.ops.boxes import move_targets
from denseteacher.ops.distributed import processes, rows_of_all_processes
from denseteacher.ops.padding import real_area
from denseteacher.structures import ImageBatch, MethodState, Targets, take


def empty_cache(images: int, side: int, boxes: int) -> MethodState:
    """A cache with room for so many images, in squares of this side, with so many boxes each."""
    return {
        "pixels": torch.zeros(images, 3, side, side, dtype=torch.uint8),
        "sizes": torch.zeros(images, 2, dtype=torch.int64),
        "boxes": torch.zeros(images, boxes, 4),
        "labels": torch.zeros(images, boxes, dtype=torch.int64),
        "mask": torch.zeros(images, boxes, dtype=torch.bool),
    }


def cached(cache: MethodState, places: Tensor) -> tuple[ImageBatch, Targets]:
    """The images at (n,) int64 places, and their boxes; without any size where the place is free."""
    images = ImageBatch(cache["pixels"], cache["sizes"])
    return take(images, places), take(Targets(cache["boxes"], cache["labels"], cache["mask"]), places)


@torch.no_grad()
def with_images(cache: MethodState, images: ImageBatch, targets: Targets) -> MethodState:
    """A new cache that holds these images of all processes too, in place of the oldest ones.

    Where all processes together have more images than there are places, every n-th of them is kept, as many of each
    process. So the cache does not depend on how many processes share the batch, as long as their number divides C.

    Args:
        cache: See the module; not changed.
        images: B images in each process.
        targets: Their boxes, the best first; those beyond the M-th are lost.
    """
    room, side = len(cache["sizes"]), cache["pixels"].shape[-1]
    batch, most = len(images.sizes), cache["mask"].shape[1]
    count = max(1, min(batch, room // processes()))
    chosen = slice(0, count * (batch // count), batch // count)
    small, boxes = _shrunk(take(images, chosen), take(targets, chosen), side)
    spare = max(0, most - boxes.mask.shape[1])
    new = {
        "pixels": small.pixels,
        "sizes": small.sizes,
        "boxes": functional.pad(boxes.boxes[:, :most], (0, 0, 0, spare)),
        "labels": functional.pad(boxes.labels[:, :most], (0, spare)),
        "mask": functional.pad(boxes.mask[:, :most].byte(), (0, spare)),  # collectives know no bool
    }
    return {
        name: torch.cat((old, rows_of_all_processes(new[name]).to(old.dtype)))[-room:] for name, old in cache.items()
    }


def _shrunk(images: ImageBatch, targets: Targets, side: int) -> tuple[ImageBatch, Targets]:
    """Images in squares of a side; one that is larger is resized, bilinearly, until its longer side fits."""
    height, width = images.pixels.shape[-2:]
    if max(height, width) <= side:
        pixels = functional.pad(images.pixels, (0, side - width, 0, side - height))
        return ImageBatch(pixels, images.sizes), targets
    scale = (side / images.sizes.double()).amin(1).clamp(max=1)
    sizes = (images.sizes * scale[:, None]).round().clamp(min=1).long()
    matrix = torch.diag_embed(torch.stack((scale, scale, torch.ones_like(scale)), dim=1)).float()
    pixels = as_pixels(sampled(above_mean_color(images), matrix, (side, side))) * real_area(sizes, side, side)
    return ImageBatch(pixels, sizes), move_targets(targets, matrix, sizes)
