"""Colors, blur and erased rectangles: the strong view, made from the weak one on the batch's device.

Nothing moves, so the boxes of the weak view hold for the strong one. Everything random is decided on the host
before any pixel is touched. Each image then runs only through the changes that were drawn for it, cut to its
real area: no masks, no padding to care for, and nothing that the other images of the batch could influence.
The device is never waited for.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import permutations
from typing import Annotated, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from denseteacher.config import Config
from denseteacher.data.randomness import Draw, keyed_uniforms
from denseteacher.structures import ImageBatch

Change = Callable[[Tensor], Tensor]
"""Takes a (3, H, W) fp32 image in [0, 255] and gives the changed one; may overwrite what it takes."""

Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0)]

_GRAY = (0.299, 0.587, 0.114)  # luma of ITU-R 601-2, as in PIL and torchvision
_ORDERS = tuple(permutations(range(4)))
_ATTEMPTS = 10  # how often RandomErasing looks for a rectangle that fits
_COLOR_NUMBERS = 9
_ERASING_NUMBERS = 2 * _ATTEMPTS + 5


class Rectangle(NamedTuple):
    """An area of an image, in pixels, to be filled with noise."""

    top: int
    left: int
    height: int
    width: int
    key: int
    """Chooses the noise; 32 bits, signed."""


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

    def draw(self, numbers: Sequence[float], height: int, width: int) -> Rectangle | None:
        """The rectangle to erase, or None where the draw says so or nothing fits in ten attempts.

        Args:
            numbers: 25 uniform numbers in [0, 1).
            height: Height of the image in pixels.
            width: Width of the image in pixels.
        """
        chance, down, right, key_high, key_low, *attempts = numbers
        if chance >= self.probability:
            return None
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for area, ratio in zip(attempts[::2], attempts[1::2], strict=True):
            pixels = _between(*self.area, area) * height * width
            shape = math.exp(_between(low, high, ratio))
            rows, columns = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
            if rows < height and columns < width:
                top, left = int(down * (height - rows + 1)), int(right * (width - columns + 1))
                # one uniform number has only 24 random bits
                key = (int(key_high * 2**16) << 16 | int(key_low * 2**16)) - 2**31
                return Rectangle(top, left, rows, columns, key)
        return None


class _Plan(NamedTuple):
    """What happens to one image."""

    changes: list[Change]
    rectangles: list[Rectangle]


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

    def __call__(
        self,
        images: ImageBatch,
        *,
        seed: int,
        step: int,
        samples: Sequence[int],
        draw: Draw,
        host_sizes: Sequence[Sequence[int]] | None = None,
    ) -> ImageBatch:
        """Strong views of a batch, as new pixels on the same canvas.

        An image's view depends on its pixels and its key alone: not on its batch, not on its canvas.

        Args:
            images: The weak views, on any device; not changed.
            seed: The run's seed.
            step: The optimizer step.
            samples: Positions of the images in the global batch.
            draw: Which view is made; together with seed, step and sample the key of its random numbers.
            host_sizes: ``images.sizes`` as numbers on the host. Without them they are read from the tensor,
                for which a GPU has to be waited for.
        """
        sizes = images.sizes.tolist() if host_sizes is None else host_sizes
        count = _COLOR_NUMBERS + _ERASING_NUMBERS * len(self.erasings)
        numbers = keyed_uniforms(seed, draw, step, samples, count).tolist()
        plans = [self._plan(row, *size) for row, size in zip(numbers, sizes, strict=True)]
        pixels = images.pixels.clone()
        counter = _mixed_counter(plans, pixels.device)
        for canvas, plan, (height, width) in zip(pixels, plans, sizes, strict=True):
            image = canvas[:, :height, :width]
            _change(image, plan.changes)
            for rectangle in plan.rectangles:
                _erase(image, rectangle, counter)
        return ImageBatch(pixels, images.sizes)

    def _plan(self, numbers: Sequence[float], height: int, width: int) -> _Plan:
        """Decides about one image; every decision has its own numbers, whatever the other settings are."""
        jitter, order, *amounts, gray, blur, sigma = numbers[:_COLOR_NUMBERS]
        changes: list[Change] = []
        if jitter < self.jitter_probability:
            colors = self._color_changes(amounts)
            changes = [change for index in _ORDERS[int(order * len(_ORDERS))] for change in colors[index]]
        if gray < self.grayscale_probability:
            changes.append(to_grayscale)
        if blur < self.blur_probability:
            changes.append(partial(gaussian_blur, sigma=_between(*self.blur_sigma, sigma)))
        rectangles = []
        for index, erasing in enumerate(self.erasings):
            start = _COLOR_NUMBERS + index * _ERASING_NUMBERS
            rectangle = erasing.draw(numbers[start : start + _ERASING_NUMBERS], height, width)
            if rectangle is not None:
                rectangles.append(rectangle)
        return _Plan(changes, rectangles)

    def _color_changes(self, amounts: Sequence[float]) -> list[list[Change]]:
        """For brightness, contrast, saturation and hue the change, or nothing where its strength is zero."""
        colors: list[list[Change]] = []
        strengths = (self.brightness, self.contrast, self.saturation)
        for change, strength, amount in zip(
            (adjust_brightness, adjust_contrast, adjust_saturation), strengths, amounts[:3], strict=True
        ):
            factor = _between(max(0.0, 1 - strength), 1 + strength, amount)
            colors.append([partial(change, factor=factor)] if strength else [])
        turns = _between(-self.hue, self.hue, amounts[3])
        colors.append([partial(adjust_hue, turns=turns)] if self.hue else [])
        return colors


def _between(low: float, high: float, share: float) -> float:
    return low + (high - low) * share


def _change(image: Tensor, changes: Sequence[Change]) -> None:
    """Applies changes to a (3, H, W) uint8 image in place."""
    if not changes:
        return
    values = image.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
    for change in changes:
        values = change(values)
    image.copy_(values.add_(0.5))  # the conversion cuts off, so this rounds


def adjust_brightness(image: Tensor, factor: float) -> Tensor:
    """Blends with black."""
    image.mul_(factor)
    return image.clamp_(max=255) if factor > 1 else image


def adjust_contrast(image: Tensor, factor: float) -> Tensor:
    """Blends with the image's mean luma, rounded as PIL does.

    The rounding also hides in which order a device sums.
    """
    mean = _luma(image).mean().round_()
    return image.mul_(factor).add_(mean, alpha=1 - factor).clamp_(0, 255)


def adjust_saturation(image: Tensor, factor: float) -> Tensor:
    """Blends with the grayscale image."""
    gray = _luma(image)
    return image.mul_(factor).add_(gray, alpha=1 - factor).clamp_(0, 255)


def to_grayscale(image: Tensor) -> Tensor:
    """The (1, H, W) luma, which stands for three equal channels."""
    return _luma(image)[None]


def _luma(image: Tensor) -> Tensor:
    """(H, W) gray value of a (3, H, W) image."""
    red, green, blue = image.unbind()
    luma: Tensor = (red * _GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2])
    return luma


def adjust_hue(image: Tensor, turns: float) -> Tensor:
    """Turns the hue in HSV, value and saturation kept, without going through HSV.

    With the smallest and largest channel of a pixel mapped to 0 and 1, a channel is a trapezoid of the hue,
    and so is what a turn by d sixths (0 <= d <= 1) makes of it. In terms of the three mapped channels this
    is ``clamp(own - next + (1 - d) + (2 d - 1) previous, 0, 1)``, with red followed by green, blue and red
    again; undoing the mapping gives the lines below. Turning backward exchanges next and previous, and a
    third of a turn only renames the channels.

    Args:
        image: (3, H, W) fp32 in [0, 255].
        turns: Shift of the hue, in turns.
    """
    thirds = round(3 * turns)
    sixths = 6 * turns - 2 * thirds
    step, share = (1 if sixths >= 0 else -1), abs(sixths)
    channels = image.unbind()
    low = torch.minimum(torch.minimum(channels[0], channels[1]), channels[2])
    high = torch.maximum(torch.maximum(channels[0], channels[1]), channels[2])
    ends = (low + high).mul_(1 - share)
    turned = torch.empty_like(image)
    for index, channel in enumerate(turned):
        own = index - thirds
        torch.sub(channels[own % 3], channels[(own + step) % 3], out=channel)
        channel.add_(channels[(own - step) % 3], alpha=2 * share - 1).add_(ends).clamp_(low, high)
    return turned


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur, cut off at three standard deviations; beyond an edge its pixels go on.

    Shifted sums instead of a convolution: on a CPU they take a tenth of the time, and they add up in the
    same order everywhere.

    Args:
        image: (C, H, W) fp32.
        sigma: Standard deviation in pixels.
    """
    radius = math.ceil(3 * sigma)
    weights = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    for dim, padding in ((1, (0, 0, radius, radius)), (2, (radius, radius, 0, 0))):
        length = image.shape[dim]
        padded = functional.pad(image, padding, mode="replicate")
        image = padded.narrow(dim, radius, length) * (weights[0] / total)
        for offset in range(1, radius + 1):
            for start in (radius - offset, radius + offset):
                image.add_(padded.narrow(dim, start, length), alpha=weights[offset] / total)
    return image


def _mixed_counter(plans: Sequence[_Plan], device: torch.device) -> Tensor:
    """(n,) int32: well mixed numbers, enough for the bytes of the largest rectangle.

    The mixing is that of a 32-bit integer hash: multiplications that wrap, and xor with shifted copies.
    """
    areas = [rectangle.height * rectangle.width for plan in plans for rectangle in plan.rectangles]
    words = -(-3 * max(areas, default=0) // 4)
    counter = torch.arange(words, dtype=torch.int32, device=device)
    for shift, factor in ((16, 0x7FEB352D), (15, -0x7B935975)):
        counter.bitwise_xor_(_shift_right(counter, shift)).mul_(factor)
    return counter.bitwise_xor_(_shift_right(counter, 16))


def _erase(image: Tensor, rectangle: Rectangle, counter: Tensor) -> None:
    """Fills a rectangle of a (3, H, W) uint8 image with uniform random bytes, in place.

    The published code fills with normal numbers times 255 and lets them wrap around in uint8: uniform bytes.
    They come from a counter and a key, so that they are the same on every device.
    """
    top, left, height, width, key = rectangle
    count = 3 * height * width
    words = counter[: -(-count // 4)].bitwise_xor(key).mul_(0x2C1B3C6D)
    words.bitwise_xor_(_shift_right(words, 15))
    noise = words.view(torch.uint8)[:count].view(3, height, width)
    image[:, top : top + height, left : left + width] = noise


def _shift_right(words: Tensor, bits: int) -> Tensor:
    # torch shifts signed integers by copies of the sign; mask them, or a bit of the hash would be lost
    return words.bitwise_right_shift(bits).bitwise_and_((1 << (32 - bits)) - 1)
