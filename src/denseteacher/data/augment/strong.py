"""Colors, blur and erased rectangles: the strong view, made from the weak one on the batch's device.

Nothing moves, so the boxes of the weak view hold for the strong one. What happens to which image is decided on
the host from keyed random numbers. A GPU then makes each change once for all images that drew it, and is never
waited for; a CPU makes one image after the other. The canvas beyond an image's real area is neither seen nor changed.
"""

import math
from collections.abc import Sequence
from itertools import permutations
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator
from torch import Tensor

from denseteacher.config import Config, Share
from denseteacher.data.augment.pixels import (
    Change,
    Drawn,
    GaussianBlur,
    Group,
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
    noise,
    noise_on_host,
    scrambled_places,
    scrambled_places_on_host,
    to_grayscale,
)
from denseteacher.data.augment.strips import recolor
from denseteacher.data.randomness import Draw, keyed_uniforms, to_device
from denseteacher.ops.padding import real_area
from denseteacher.structures import ImageBatch

_ORDERS = np.array(list(permutations(range(4))))
_ATTEMPTS = 10  # how often RandomErasing looks for a rectangle that fits
_COLOR_NUMBERS = 9
_ERASING_NUMBERS = 2 * _ATTEMPTS + 3


class Erasing(Config):
    """One round of random erasing (Zhong et al., 2020), drawn as torchvision's ``RandomErasing`` draws it."""

    probability: Share
    """Probability of erasing a rectangle in this round."""
    area: tuple[Share, Share]
    """Smallest and largest share of the image's area."""
    ratio: tuple[PositiveFloat, PositiveFloat]
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

    Source: the published configuration (docs/sources.md, Dense Teacher), with torchvision's meaning of the
    settings: a strength v of brightness, contrast and saturation draws a factor from [max(0, 1 - v), 1 + v],
    hue draws a turn from [-v, v], and the four come in random order. Two deliberate differences: values are
    rounded once at the end and not after every change, and the Gaussian is a sampled one, as torchvision's,
    where PIL has three box filters of the same standard deviation.
    """

    brightness: NonNegativeFloat = 0.4
    """NonNegativeFloat v: the factor is from 1 - v to 1 + v, and not below 0."""
    contrast: NonNegativeFloat = 0.4
    """Largest change of the factor, as for brightness."""
    saturation: NonNegativeFloat = 0.4
    """Largest change of the factor, as for brightness."""
    hue: float = Field(0.1, ge=0, le=0.5)
    """Largest shift, in turns."""
    jitter_probability: Share = 0.8
    """Probability of changing brightness, contrast, saturation and hue, all four."""
    grayscale_probability: Share = 0.2
    """Probability of taking all color away."""
    blur_probability: Share = 0.5
    """Probability of a Gaussian blur."""
    blur_sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0)
    """Smallest and largest standard deviation in pixels."""
    erasings: tuple[Erasing, ...] = (
        Erasing(probability=0.7, area=(0.05, 0.2), ratio=(0.3, 3.3)),
        Erasing(probability=0.5, area=(0.02, 0.2), ratio=(0.1, 6.0)),
        Erasing(probability=0.3, area=(0.02, 0.2), ratio=(0.05, 8.0)),
    )
    """Rounds of random erasing, one after the other; an empty list erases nothing."""

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
        make = self._one_by_one if images.pixels.device.type == "cpu" else self._all_together
        return images._replace(pixels=make(images, colors, key[:, 0], erasings))

    def drawn(self, numbers: Tensor) -> list[list[Drawn]]:
        """What happens to each image, in this order.

        Args:
            numbers: (B, 9) uniform numbers in [0, 1) on the host. Every decision has its own, so that the
                draws of one change are the same whatever the settings of the others are.
        """
        values = numbers.numpy()  # fp32 stays fp32 there, and small arrays are several times faster than tensors
        jittered = values[:, 0] < self.jitter_probability
        orders = _ORDERS[(values[:, 1] * len(_ORDERS)).astype(np.int64)]
        factors = [
            (adjust_brightness, self.brightness, max(0.0, 1 - self.brightness), 1 + self.brightness),
            (adjust_contrast, self.contrast, max(0.0, 1 - self.contrast), 1 + self.contrast),
            (adjust_saturation, self.saturation, max(0.0, 1 - self.saturation), 1 + self.saturation),
            (adjust_hue, self.hue, -self.hue, self.hue),
        ]
        colors: list[list[tuple[Change, float]] | None] = []
        for index, (change, strength, low, high) in enumerate(factors):
            amounts = _between(low, high, values[:, 2 + index]).tolist()
            colors.append([(change, amount) for amount in amounts] if strength else None)
        grayed = values[:, 6] < self.grayscale_probability
        blurred = values[:, 7] < self.blur_probability
        deviations = _between(*self.blur_sigma, values[:, 8])
        longest = math.ceil(3 * self.blur_sigma[1])
        reaches = np.minimum(np.ceil(3 * deviations), longest).astype(np.int64)  # fp32 may round past it
        drawn: list[list[Drawn]] = []
        for row in range(len(values)):
            own = list[Drawn]()
            if jittered[row]:
                for place, index in enumerate(orders[row].tolist()):
                    color = colors[index]
                    if color is not None:
                        own.append(Drawn(place, *color[row]))
            if grayed[row]:
                own.append(Drawn(4, to_grayscale, float(values[row, 6])))
            if blurred[row]:
                own.append(Drawn(5, GaussianBlur(int(reaches[row])), float(deviations[row])))
            drawn.append(own)
        return drawn

    def groups(self, numbers: Tensor) -> list[Group]:
        """The changes of ``drawn``, each with all images that drew it at the same stage, by rising stage."""
        members: dict[tuple[int, Change], list[tuple[int, float]]] = {}
        for row, changes in enumerate(self.drawn(numbers)):
            for stage, change, amount in changes:
                members.setdefault((stage, change), []).append((row, amount))
        return [
            Group(change, torch.tensor([row for row, _ in chosen]), torch.tensor([amount for _, amount in chosen]))
            for (_, change), chosen in sorted(members.items(), key=lambda item: item[0][0])
        ]

    def _one_by_one(self, images: ImageBatch, colors: Tensor, key: Tensor, erasings: Tensor) -> Tensor:
        """(B, 3, H, W) uint8, for a CPU: every image by itself, and of it only what is changed."""
        pixels = recolor(images, self.drawn(colors))
        if not self.erasings:
            return pixels
        values, keys = pixels.numpy(), key.tolist()
        places = scrambled_places_on_host(*values.shape[-2:])
        for erasing, share in zip(self.erasings, torch.split(erasings, _ERASING_NUMBERS, dim=1), strict=True):
            rectangles = erasing.rectangles(share, images.sizes).tolist()
            for image, own, (top, left, bottom, right) in zip(values, keys, rectangles, strict=True):
                if top < bottom and left < right:
                    image[:, top:bottom, left:right] = noise_on_host(own, places[top:bottom, left:right])
        return pixels

    def _all_together(self, images: ImageBatch, colors: Tensor, key: Tensor, erasings: Tensor) -> Tensor:
        """(B, 3, H, W) uint8, for a GPU: one pass a change over the images that drew it; nothing is read back."""
        device = images.pixels.device
        pixels = self._recolor(images, colors)
        if self.erasings:
            fill = noise(to_device(device, key), scrambled_places(pixels))
            pixels = torch.where(self._erased(images, to_device(device, erasings)), fill, pixels)
        return torch.where(real_area(images.sizes, *pixels.shape[-2:]), pixels, images.pixels)

    def _recolor(self, images: ImageBatch, numbers: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 after all changes but the erasing; the padding holds anything."""
        device = images.pixels.device
        groups = self.groups(numbers)
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


def _between(low: float, high: float, share: Any) -> Any:
    return low + (high - low) * share
