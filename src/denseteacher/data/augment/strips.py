"""Changes of one image on a CPU, in strips of rows that stay in the processor's cache.

A change of a whole batch waits for memory most of its time. Here a strip goes through one change after the other;
only contrast, which must have seen the whole image, and blur, which needs the rows around, begin another pass.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from denseteacher.data.augment.pixels import (
    Amount,
    Change,
    Drawn,
    GaussianBlur,
    adjust_contrast,
    blend,
    luma,
    shifted_sum,
)
from denseteacher.structures import ImageBatch

_STRIP_VALUES = 2**18  # a thread: 1 MB; less and the calls take longer than the work, more and memory does


def recolor(images: ImageBatch, drawn: Sequence[Sequence[Drawn]]) -> Tensor:
    """(B, 3, H, W) uint8, new: each image after the changes that it drew.

    Args:
        images: On the CPU.
        drawn: Of each image the changes in their order; a blur is the last.
    """
    pixels = images.pixels.clone(memory_format=torch.contiguous_format)
    room = torch.empty(pixels[0].numel())
    for image, (height, width), changes in zip(pixels[:, None], images.sizes.tolist(), drawn, strict=True):
        if changes:
            _recolor_one(image[..., :height, :width], changes, room[: 3 * height * width].view(1, 3, height, width))
    return pixels


def _recolor_one(pixels: Tensor, changes: Sequence[Drawn], values: Tensor) -> None:
    """Changes (1, 3, H, W) uint8 pixels; as many fp32 values hold what is between two passes."""
    source = pixels
    ready: list[tuple[Change, float]] = []
    for _, change, amount in changes:
        if isinstance(change, GaussianBlur):
            _blur(_apply(ready, source, values), pixels, change, amount)
            return
        if change is adjust_contrast:
            source = _apply(ready, source, values)
            change, ready = partial(_blend, _mean_luma(source)), []
        ready.append((change, amount))
    _apply(ready, source, pixels)


def _strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    rows = max(1, _STRIP_VALUES * torch.get_num_threads() // (3 * width))
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def _apply(changes: Sequence[tuple[Change, float]], source: Tensor, target: Tensor) -> Tensor:
    """Changes that see one pixel at a time; fp32 values are changed where they are."""
    sizes = torch.empty(0)
    for top, bottom in _strips(*source.shape[-2:]):
        strip = source[:, :, top:bottom].float()
        for change, amount in changes:
            strip = change(strip, amount, sizes)
        _store(strip, target[:, :, top:bottom])
    return target


def _store(values: Tensor, target: Tensor) -> None:
    if target.dtype is torch.uint8:
        values = values.add_(0.5).short()  # cuts off, so this rounds; a direct conversion to bytes is many times slower
    target.copy_(values)


def _mean_luma(values: Tensor) -> Tensor:
    sums = [luma(values[:, :, top:bottom]).sum() for top, bottom in _strips(*values.shape[-2:])]
    return ((sums[0] if len(sums) == 1 else torch.stack(sums).sum()) / values[0, 0].numel()).round()


def _blend(base: Tensor, images: Tensor, factor: Amount, sizes: Tensor) -> Tensor:
    return blend(images, base, factor)


def _blur(values: Tensor, pixels: Tensor, blur: GaussianBlur, sigma: float) -> None:
    height, width = values.shape[-2:]
    reach, weights = blur.reach, blur.weights(torch.tensor([sigma]))[0].tolist()
    for top, bottom in _strips(height, width):
        above, below = max(0, reach - top), max(0, bottom + reach - height)
        strip = values[:, :, top - reach + above : bottom + reach - below]
        for dim, padding in ((2, (0, 0, above, below)), (3, (reach, reach, 0, 0))):
            strip = shifted_sum(functional.pad(strip, padding, mode="replicate"), weights, dim)
        _store(strip, pixels[:, :, top:bottom])
