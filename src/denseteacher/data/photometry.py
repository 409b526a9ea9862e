"""Colors, blur and erased rectangles: the strong view, made from the weak one on the batch's device.

Nothing moves, so the boxes of the weak view hold for the strong one. What happens to which image is decided on
the host from keyed random numbers; each change then runs once over all images that drew it. The canvas beyond
an image's real area is neither seen nor changed, and the device is never waited for.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import permutations
from typing import Annotated, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from denseteacher.config import Config
from denseteacher.data.randomness import Draw, keyed_uniforms, to_device
from denseteacher.ops.canvas import real_area
from denseteacher.structures import ImageBatch

Change = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Takes (n, 3, H, W) fp32 images in [0, 255], an (n,) amount and (n, 2) sizes; gives the changed images."""

Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0)]

_GRAY = (0.299, 0.587, 0.114)  # luma of ITU-R 601-2, as in PIL and torchvision
_ORDERS = torch.tensor(list(permutations(range(4))))
_ATTEMPTS = 10  # how often RandomErasing looks for a rectangle that fits
_COLOR_NUMBERS = 9
_ERASING_NUMBERS = 2 * _ATTEMPTS + 3


class Group(NamedTuple):
    """One change and the images that drew it."""

    change: Change
    rows: Tensor
    """(n,) int64 positions in the batch."""
    amounts: Tensor
    """(n,) fp32."""


class Erasing(Config):
    """One round of random erasing (Zhong et al., 2020), drawn as torchvision's ``RandomErasing`` draws it."""

    probability: Probability
    area: tuple[float, float]
    """Smallest and largest share of the image's area."""
    ratio: tuple[float, float]
    """Smallest and largest height over width; its logarithm is uniform."""

    @model_validator(mode="after")
    def _check_ranges(self) -> Self:
        if not 0 <= self.area[0] <= self.area[1] <= 1:
            raise ValueError("area must be two shares of the image in [0, 1], the smaller one first")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError("ratio must be two positive numbers, the smaller one first")
        return self

    def rectangles(self, numbers: Tensor, sizes: Tensor) -> Tensor:
        """The areas to erase: empty where the draw says so or nothing fits in ten attempts.

        Args:
            numbers: (B, 23) fp32 uniform numbers in [0, 1).
            sizes: (B, 2) height and width of the images.

        Returns:
            (B, 4) int64 top, left, bottom and right, in pixels.
        """
        # in fp64 every device rounds to the same pixels
        chance, place, attempts = torch.split(numbers.double(), [1, 2, 2 * _ATTEMPTS], dim=1)
        sizes = sizes.double()
        pixels = _between(*self.area, attempts[:, ::2]) * sizes.prod(1, keepdim=True)
        shape = _between(math.log(self.ratio[0]), math.log(self.ratio[1]), attempts[:, 1::2]).exp()
        extents = torch.stack([(pixels * shape).sqrt(), (pixels / shape).sqrt()], dim=2).round()
        fits = (extents < sizes[:, None]).all(2)
        first = fits.int().argmax(1, keepdim=True)  # of several the first
        extent = extents.take_along_dim(first[:, :, None], dim=1)[:, 0]
        extent = extent * (fits.any(1, keepdim=True) & (chance < self.probability))
        start = (place * (sizes - extent + 1)).floor()
        return torch.cat([start, start + extent], dim=1).long()


class StrongView(Config):
    """The strong view: color jitter, grayscale, Gaussian blur, then erased rectangles.

    Source: the published configuration (ssod_systems.md, section 3.1), with torchvision's meaning of the
    settings: a strength v of brightness, contrast and saturation draws a factor from [max(0, 1 - v), 1 + v],
    hue draws a turn from [-v, v], and the four come in random order. Two deliberate differences: values are
    rounded once at the end and not after every change, and the Gaussian is a sampled one, as torchvision's,
    where PIL has three box filters of the same standard deviation.
    """

    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.4
    hue: float = Field(0.1, ge=0, le=0.5)
    """Largest shift, in turns."""
    jitter_probability: Probability = 0.8
    grayscale_probability: Probability = 0.2
    blur_probability: Probability = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """Smallest and largest standard deviation in pixels."""
    erasings: tuple[Erasing, ...] = (
        Erasing(probability=0.7, area=(0.05, 0.2), ratio=(0.3, 3.3)),
        Erasing(probability=0.5, area=(0.02, 0.2), ratio=(0.1, 6.0)),
        Erasing(probability=0.3, area=(0.02, 0.2), ratio=(0.05, 8.0)),
    )

    @model_validator(mode="after")
    def _check_sigma(self) -> Self:
        if not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError("blur_sigma must be two positive numbers in pixels, the smaller one first")
        return self

    def __call__(self, images: ImageBatch, *, seed: int, step: int, samples: Sequence[int], draw: Draw) -> ImageBatch:
        """Strong views of a batch, as new pixels on the same canvas.

        An image's view depends on its pixels and its key alone: not on its batch, not on its canvas.

        Args:
            images: The weak views, on any device; not changed.
            seed: The run's seed.
            step: The optimizer step.
            samples: Positions of the images in the global batch.
            draw: Which view is made; together with seed, step and sample the key of its random numbers.
        """
        count = _COLOR_NUMBERS + 1 + _ERASING_NUMBERS * len(self.erasings)
        numbers = keyed_uniforms(seed, draw, step, samples, count)
        colors, key, erasings = torch.split(numbers, [_COLOR_NUMBERS, 1, count - _COLOR_NUMBERS - 1], dim=1)
        inside = real_area(images.sizes, *images.pixels.shape[-2:])
        pixels = self._recolor(images, colors)
        if self.erasings:
            erased = self._erased(images, to_device(images.pixels.device, erasings))
            noise = _noise(to_device(images.pixels.device, key[:, 0]), *images.pixels.shape[-2:])
            pixels = torch.where(erased, noise, pixels)
        return ImageBatch(torch.where(inside, pixels, images.pixels), images.sizes)

    def groups(self, numbers: Tensor) -> Iterator[Group]:
        """Which changes are applied to which images, in the order in which they are to be made.

        Args:
            numbers: (B, 9) uniform numbers in [0, 1) on the host. Every decision has its own, so that the
                draws of one change are the same whatever the settings of the others are.
        """
        jitter, order, amounts, gray, blur, sigma = torch.split(numbers, [1, 1, 4, 1, 1, 1], dim=1)
        jittered = (jitter < self.jitter_probability)[:, 0]
        orders = _ORDERS[(order[:, 0] * len(_ORDERS)).long()]
        colors: list[tuple[Change, float, float, float]] = [
            (adjust_brightness, self.brightness, max(0.0, 1 - self.brightness), 1 + self.brightness),
            (adjust_contrast, self.contrast, max(0.0, 1 - self.contrast), 1 + self.contrast),
            (adjust_saturation, self.saturation, max(0.0, 1 - self.saturation), 1 + self.saturation),
            (adjust_hue, self.hue, -self.hue, self.hue),
        ]
        for place in orders.unbind(1):
            for index, (change, strength, low, high) in enumerate(colors):
                if strength:
                    yield _group(change, jittered & (place == index), _between(low, high, amounts[:, index]))
        yield _group(to_grayscale, gray[:, 0] < self.grayscale_probability, gray[:, 0])
        blurred = blur[:, 0] < self.blur_probability
        deviations = _between(*self.blur_sigma, sigma[:, 0])
        longest = math.ceil(3 * self.blur_sigma[1])
        reaches = (3 * deviations).ceil().clamp(max=longest)  # fp32 may round past it
        for reach in range(1, longest + 1):
            yield _group(partial(gaussian_blur, reach=reach), blurred & (reaches == reach), deviations)

    def _recolor(self, images: ImageBatch, numbers: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 after all changes but the erasing; the padding holds anything."""
        device = images.pixels.device
        groups = [group for group in self.groups(numbers) if len(group.rows)]
        if not groups:
            return images.pixels
        # one transfer for all groups
        lengths = [len(group.rows) for group in groups]
        rows = torch.split(to_device(device, torch.cat([group.rows for group in groups])), lengths)
        amounts = torch.split(to_device(device, torch.cat([group.amounts for group in groups])), lengths)
        values = images.pixels.to(torch.float32, memory_format=torch.contiguous_format)
        for group, row, amount in zip(groups, rows, amounts, strict=True):
            values.index_copy_(0, row, group.change(values.index_select(0, row), amount, images.sizes[row]))
        return values.add_(0.5).byte()  # the conversion cuts off, so this rounds

    def _erased(self, images: ImageBatch, numbers: Tensor) -> Tensor:
        """(B, 1, H, W) bool, True where one of the rectangles lies."""
        height, width = images.pixels.shape[-2:]
        erased = torch.zeros(len(numbers), height, width, dtype=torch.bool, device=numbers.device)
        rows, columns = torch.arange(height, device=numbers.device), torch.arange(width, device=numbers.device)
        for erasing, share in zip(self.erasings, torch.split(numbers, _ERASING_NUMBERS, dim=1), strict=True):
            top, left, bottom, right = erasing.rectangles(share, images.sizes)[:, :, None].unbind(1)
            erased |= ((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None]
        return erased[:, None]


def _group(change: Change, chosen: Tensor, amounts: Tensor) -> Group:
    rows = chosen.nonzero()[:, 0]
    return Group(change, rows, amounts[rows])


def _between(low: float, high: float, share: Tensor) -> Tensor:
    return low + (high - low) * share


def adjust_brightness(images: Tensor, factor: Tensor, sizes: Tensor) -> Tensor:
    """Blends with black."""
    return images.mul_(_per_image(factor)).clamp_(0, 255)


def adjust_contrast(images: Tensor, factor: Tensor, sizes: Tensor) -> Tensor:
    """Blends with the image's mean luma, rounded as PIL does.

    The rounding also hides in which order a device sums.
    """
    luma = _luma(images).where(real_area(sizes, *images.shape[-2:]), 0)
    mean = (luma.sum((1, 2, 3)) / sizes.prod(1)).round()
    return _blend(images, _per_image(mean), factor)


def adjust_saturation(images: Tensor, factor: Tensor, sizes: Tensor) -> Tensor:
    """Blends with the grayscale image."""
    return _blend(images, _luma(images), factor)


def to_grayscale(images: Tensor, amount: Tensor, sizes: Tensor) -> Tensor:
    """Three times the luma; the amount is not used."""
    return _luma(images).expand_as(images)


def adjust_hue(images: Tensor, turns: Tensor, sizes: Tensor) -> Tensor:
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
    thirds = (3 * turns).round()
    sixths = 6 * turns - 2 * thirds
    step = torch.where(sixths >= 0, 1, -1)[:, None]
    share = _per_image(sixths.abs())
    own = torch.arange(3, device=turns.device) - thirds.long()[:, None]
    low, high = images.amin(1, keepdim=True), images.amax(1, keepdim=True)
    turned = _channels(images, own).sub_(_channels(images, own + step))
    turned.addcmul_(_channels(images, own - step), 2 * share - 1)
    return turned.add_((low + high).mul_(1 - share)).clamp_(low, high)


def _channels(images: Tensor, order: Tensor) -> Tensor:
    """The images with their channels in a new order: (n, 3) integers, taken modulo 3."""
    first = torch.arange(0, 3 * len(images), 3, device=order.device)[:, None]
    return images.flatten(0, 1).index_select(0, (first + order % 3).flatten()).view_as(images)


def gaussian_blur(images: Tensor, sigma: Tensor, sizes: Tensor, *, reach: int) -> Tensor:
    """Gaussian blur; beyond an edge its pixels go on.

    Shifted sums instead of a convolution: as fast, and every device adds in the same order.

    Args:
        images: (n, C, H, W) fp32.
        sigma: (n,) standard deviations in pixels.
        sizes: (n, 2) height and width of the images.
        reach: Where the kernel is cut off, in pixels; three standard deviations, rounded up.
    """
    offsets = torch.arange(reach + 1, device=sigma.device)
    weights = (-0.5 * (offsets / sigma[:, None]) ** 2).exp()
    weights = weights / (2 * weights.sum(1, keepdim=True) - weights[:, :1])
    images = _extend_edges(images, sizes)
    for dim, padding in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
        length = images.shape[dim]
        padded = functional.pad(images, padding, mode="replicate")
        images = padded.narrow(dim, reach, length) * _per_image(weights[:, 0])
        for offset in range(1, reach + 1):
            weight = _per_image(weights[:, offset])
            for start in (reach - offset, reach + offset):
                images.addcmul_(padded.narrow(dim, start, length), weight)
    return images


def _extend_edges(images: Tensor, sizes: Tensor) -> Tensor:
    """Repeats the last real row and column of every image to the end of the canvas."""
    height, width = sizes[:, :, None, None, None].unbind(1)
    rows = torch.arange(images.shape[2], device=sizes.device)[:, None]
    images = images.where(rows < height, images.take_along_dim(height - 1, dim=2))
    columns = torch.arange(images.shape[3], device=sizes.device)
    return images.where(columns < width, images.take_along_dim(width - 1, dim=3))


def _per_image(values: Tensor) -> Tensor:
    return values[:, None, None, None]


def _luma(images: Tensor) -> Tensor:
    """(n, 1, H, W) gray value of (n, 3, H, W) images."""
    red, green, blue = torch.split(images, 1, dim=1)
    luma: Tensor = (red * _GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2])
    return luma


def _blend(images: Tensor, base: Tensor, factor: Tensor) -> Tensor:
    return images.mul_(_per_image(factor)).add_(base * (1 - _per_image(factor))).clamp_(0, 255)


def _noise(key: Tensor, height: int, width: int) -> Tensor:
    """(B, 3, H, W) uint8 uniform random bytes; a pixel's depend on its place and the image's key alone.

    The published code fills with normal numbers times 255 and lets them wrap around in uint8: uniform bytes.
    These come from a 32-bit integer hash (multiplications that wrap, xor with shifted copies) of row, column
    and key, so that they are the same on every device.

    Args:
        key: (B,) uniform numbers in [0, 1) with 24 random bits each.
        height: Of the canvas, in pixels.
        width: Of the canvas, in pixels.
    """
    rows = torch.arange(height, dtype=torch.int32, device=key.device)
    columns = torch.arange(width, dtype=torch.int32, device=key.device)
    words = _mix((rows[:, None] << 16) | columns, 16, 0x7FEB352D, 15, -0x7B935975)
    words = words ^ (key * 2**24).int()[:, None, None]
    words = _mix(words, 16, 0x21F0AAAD, 15, -0x2CA5D269)
    return words[..., None].view(torch.uint8)[..., :3].permute(0, 3, 1, 2)


def _mix(words: Tensor, first_shift: int, first_factor: int, second_shift: int, second_factor: int) -> Tensor:
    words = (words ^ _shift_right(words, first_shift)) * first_factor
    words = (words ^ _shift_right(words, second_shift)) * second_factor
    return words ^ _shift_right(words, 16)


def _shift_right(words: Tensor, bits: int) -> Tensor:
    # torch shifts signed integers by copies of the sign; mask them, or a bit of the hash would be lost
    return words.bitwise_right_shift(bits).bitwise_and_((1 << (32 - bits)) - 1)
