"""What the strong view does to pixels: colors, blur, and the noise of erased rectangles.

All work on (n, 3, H, W) fp32 images in [0, 255] with an amount an image, so that images that drew the same change
are changed together, or a strip of one image alone. Every device adds in the same order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from denseteacher.ops.padding import real_area

Amount = Tensor | float
"""(n,) fp32 one an image, or the same for all; of one image a number saves many small tensors."""
Change = Callable[[Tensor, Amount, Tensor], Tensor]
"""Takes (n, 3, H, W) fp32 images in [0, 255], an amount and (n, 2) sizes; gives the changed images."""
Words = TypeVar("Words", Tensor, NDArray[np.int32])


class Drawn(NamedTuple):
    """One change of one image."""

    stage: int
    """Place among the changes of all images: an image's own come by rising stage."""
    change: Change
    amount: float
    """Exact in fp32."""


class Group(NamedTuple):
    """One change and the images that drew it."""

    change: Change
    rows: Tensor
    """(n,) int64 positions in the batch."""
    amounts: Tensor
    """(n,) fp32."""


_GRAY = (0.299, 0.587, 0.114)  # luma of ITU-R 601-2, as in PIL and torchvision


def adjust_brightness(images: Tensor, factor: Amount, sizes: Tensor) -> Tensor:
    """Blends with black."""
    return images.mul_(_per_image(factor)).clamp_(0, 255)


def adjust_contrast(images: Tensor, factor: Amount, sizes: Tensor) -> Tensor:
    """Blends with the image's mean luma, rounded as PIL does.

    The rounding also hides in which order a device sums.
    """
    real = luma(images).where(real_area(sizes, *images.shape[-2:]), 0)
    mean = (real.sum((1, 2, 3)) / sizes.prod(1)).round()
    return blend(images, _per_image(mean), factor)


def adjust_saturation(images: Tensor, factor: Amount, sizes: Tensor) -> Tensor:
    """Blends with the grayscale image."""
    return blend(images, luma(images), factor)


def to_grayscale(images: Tensor, amount: Amount, sizes: Tensor) -> Tensor:
    """Three times the luma; the amount is not used."""
    return images.copy_(luma(images))


def adjust_hue(images: Tensor, turns: Amount, sizes: Tensor) -> Tensor:
    """Turns the hue in HSV, value and saturation kept, without going through HSV.

    With the smallest and largest channel of a pixel mapped to 0 and 1, a channel is a trapezoid of the hue,
    and so is what a turn by d sixths (0 <= d <= 1) makes of it. In terms of the three mapped channels this
    is ``clamp(own - next + (1 - d) + (2 d - 1) previous, 0, 1)``, with red followed by green, blue and red
    again; undoing the mapping gives the lines below. Turning backward exchanges next and previous, and a
    third of a turn only renames the channels.

    Args:
        images: (n, 3, H, W) fp32 in [0, 255].
        turns: (n,) shift of the hue, in turns.
        sizes: Not used.
    """
    if isinstance(turns, float):
        return _adjust_hue_of_one(images, turns)
    shifts, share = _hue_shifts(turns)
    own, following, previous = (_channels(images, order) for order in torch.arange(3, device=turns.device) + shifts)
    return _turn_hue(images, own, following, previous, share)


def _adjust_hue_of_one(images: Tensor, turns: float) -> Tensor:
    """``adjust_hue`` by one number: the shifted channels need not be gathered."""
    turned = np.float32(turns)
    thirds = np.round(3 * turned)
    sixths = 6 * turned - 2 * thirds
    step = 1 if sixths >= 0 else -1
    twice = torch.cat([images, images[:, :2]], dim=1)
    starts = ((shift - int(thirds)) % 3 for shift in (0, step, -step))
    own, following, previous = (twice[:, start : start + 3] for start in starts)
    return _turn_hue(images, own, following, previous, float(abs(sixths)))


def _hue_shifts(turns: Tensor) -> tuple[Tensor, Tensor]:
    """How far off the channels are that a turned one is made of, and the share of a sixth.

    Returns:
        (3, n, 1) int64, of the channel itself, the next one and the previous one; (n, 1, 1, 1) in [0, 1].
    """
    thirds = (3 * turns).round()
    sixths = 6 * turns - 2 * thirds
    step = torch.where(sixths >= 0, 1, -1)
    shifts = torch.stack([torch.zeros_like(step), step, -step]) - thirds.long()
    return shifts[..., None], _per_image(sixths.abs())


def _turn_hue(images: Tensor, own: Tensor, following: Tensor, previous: Tensor, share: Amount) -> Tensor:
    """The arithmetic of ``adjust_hue``: new images from (n, 3, H, W) images and their shifted channels."""
    low, high = images.amin(1, keepdim=True), images.amax(1, keepdim=True)
    turned = _add_product(own - following, previous, 2 * share - 1)
    return turned.add_((low + high).mul_(1 - share)).clamp_(low, high)


def _channels(images: Tensor, order: Tensor) -> Tensor:
    """The images with their channels in a new order: (n, 3) integers, taken modulo 3."""
    first = torch.arange(0, 3 * len(images), 3, device=order.device)[:, None]
    return images.flatten(0, 1).index_select(0, (first + order % 3).flatten()).view_as(images)


@dataclass(frozen=True)
class GaussianBlur:
    """Gaussian blur; beyond an edge its pixels go on. The amounts are standard deviations in pixels."""

    reach: int
    """Where the kernel is cut off, in pixels; three standard deviations, rounded up."""

    def __call__(self, images: Tensor, sigma: Amount, sizes: Tensor) -> Tensor:
        """Blurs (n, C, H, W) images with an (n,) standard deviation and (n, 2) height and width each."""
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=images.device).expand(len(images))
        reach, weights = self.reach, self.weights(sigma).unbind(1)
        images = functional.pad(_extend_edges(images, sizes), (0, 0, reach, reach), mode="replicate")
        images = functional.pad(shifted_sum(images, weights, 2), (reach, reach, 0, 0), mode="replicate")
        return shifted_sum(images, weights, 3)

    def weights(self, sigma: Tensor) -> Tensor:
        """(n, reach + 1): of the middle pixel, and of either neighbor at a distance of 1, 2, ... pixels."""
        weights = (-0.5 * (torch.arange(self.reach + 1, device=sigma.device) / sigma[:, None]) ** 2).exp()
        return weights / (2 * weights.sum(1, keepdim=True) - weights[:, :1])


def shifted_sum(padded: Tensor, weights: Sequence[Amount], dim: int) -> Tensor:
    """Sums neighbors along one direction: as fast as a convolution, and every device adds in the same order.

    Args:
        padded: (n, C, H, W) fp32 with the kernel's reach more at both ends of ``dim`` than the result.
        weights: reach + 1 of ``GaussianBlur``.
        dim: The direction.
    """
    reach = len(weights) - 1
    length = padded.shape[dim] - 2 * reach
    total: Tensor = padded.narrow(dim, reach, length) * _per_image(weights[0])
    for offset in range(1, reach + 1):
        for start in (reach - offset, reach + offset):
            _add_product(total, padded.narrow(dim, start, length), weights[offset])
    return total


def _add_product(total: Tensor, values: Tensor, factor: Amount) -> Tensor:
    """Computes total + values * factor in place, which either way is rounded alike."""
    return total.add_(values, alpha=factor) if isinstance(factor, float) else total.addcmul_(values, _per_image(factor))


def _extend_edges(images: Tensor, sizes: Tensor) -> Tensor:
    """Repeats the last real row and column of every image to the end of the canvas."""
    height, width = sizes[:, :, None, None, None].unbind(1)
    rows = torch.arange(images.shape[2], device=sizes.device)[:, None]
    images = images.where(rows < height, images.take_along_dim(height - 1, dim=2))
    columns = torch.arange(images.shape[3], device=sizes.device)
    return images.where(columns < width, images.take_along_dim(width - 1, dim=3))


def luma(images: Tensor) -> Tensor:
    """(n, 1, H, W) gray value of (n, 3, H, W) images."""
    red, green, blue = images.unbind(1)
    return (red * _GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2]).unsqueeze(1)


def blend(images: Tensor, base: Tensor, factor: Amount) -> Tensor:
    """Blends ``factor`` parts of the images, in place, with 1 - ``factor`` parts of a base that broadcasts to them."""
    return images.mul_(_per_image(factor)).add_(base * (1 - _per_image(factor))).clamp_(0, 255)


def scrambled_places(pixels: Tensor) -> Tensor:
    """(H, W) int32: the part of ``noise`` that is the same for all images of a batch."""
    rows, columns = (torch.arange(side, dtype=torch.int32, device=pixels.device) for side in pixels.shape[-2:])
    return _mix((rows[:, None] << 16) | columns, 16, 0x7FEB352D, 15, -0x7B935975)


@lru_cache(maxsize=8)
def scrambled_places_on_host(height: int, width: int) -> NDArray[np.int32]:
    """``scrambled_places`` of the last canvases; not to be changed."""
    return scrambled_places(torch.empty(height, width)).numpy()


def noise(key: Tensor, places: Tensor) -> Tensor:
    """(n, 3, H, W) uint8 uniform random bytes; a pixel's depend on its place and the image's key alone.

    The published code fills with normal numbers times 255 and lets them wrap around in uint8: uniform bytes.
    These come from a 32-bit integer hash (multiplications that wrap, xor with shifted copies) of row, column
    and key, so that they are the same on every device.

    Args:
        key: (n,) uniform numbers in [0, 1) with 24 random bits each.
        places: (H, W) int32: ``scrambled_places``, or an area of it.
    """
    words = _mix(places ^ (key * 2**24).int()[:, None, None], 16, 0x21F0AAAD, 15, -0x2CA5D269)
    return words[..., None].view(torch.uint8)[..., :3].permute(0, 3, 1, 2)


def noise_on_host(key: float, places: NDArray[np.int32]) -> NDArray[np.uint8]:
    """(3, H, W): ``noise`` of one image, whose small rectangles numpy fills in a third of torch's time."""
    words = _mix(places ^ np.int32(key * 2**24), 16, 0x21F0AAAD, 15, -0x2CA5D269)
    return words[..., None].view(np.uint8)[..., :3].transpose(2, 0, 1)


def _mix(words: Words, first_shift: int, first_factor: int, second_shift: int, second_factor: int) -> Words:
    words = (words ^ _shift_right(words, first_shift)) * first_factor
    words = (words ^ _shift_right(words, second_shift)) * second_factor
    return words ^ _shift_right(words, 16)


def _shift_right(words: Words, bits: int) -> Words:
    # signed integers are shifted by copies of the sign; mask them, or a bit of the hash would be lost
    words = words >> bits
    words &= (1 << (32 - bits)) - 1
    return words


def _per_image(values: Amount) -> Any:
    return values if isinstance(values, float) else values.view(-1, 1, 1, 1)
