"""Shifts, turns, shears and flips: a strong view with its own geometry, and the matrix that carries boxes to it.

As in ``strong``, what happens to which image is decided on the host from keyed random numbers, and the
device is never waited for. Coordinates are continuous, as those of boxes: pixel i covers [i, i + 1).
"""

import math
from collections.abc import Sequence
from typing import Self

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor
from torch.nn import functional

from denseteacher.config import Config, Share
from denseteacher.data.randomness import Draw, keyed_uniforms, to_device
from denseteacher.ops.padding import MEAN_COLOR, real_area
from denseteacher.structures import ImageBatch

_NUMBERS = 9
# the changes one of which is drawn, as columns: shift in x, shift in y, turn, shear in x, shear in y
_KINDS = torch.tensor([[1, 0, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 1]], dtype=torch.float64)


class AffineView(Config):
    """A horizontal or a vertical shift, a turn or a shear in both directions, each as likely; zoom and flip on top.

    Source: the global geometric stage of STAC and Soft Teacher (docs/sources.md, STAC and Soft Teacher), which
    has neither zoom nor flip. A kind of change with range 0 is not among those that are drawn from. Differences:
    everything happens about the image's center, where Soft Teacher shears about its corner; a shear of an angle
    moves a pixel by its tangent, where Soft Teacher has a hyperbolic one; what comes from outside the image
    has the ImageNet mean color and not gray 125.
    """

    probability: Share = 1.0
    """Probability of a change other than the flip, which has its own."""
    rotation: float = Field(30.0, ge=0, le=180)
    """Largest angle either way, in degrees."""
    translation: float = Field(0.1, ge=0, le=1)
    """Largest shift either way, as a share of the image's side."""
    shear: float = Field(30.0, ge=0, le=60)
    """Largest angle either way, in degrees; one is drawn for each direction."""
    scale: tuple[PositiveFloat, PositiveFloat] = (1.0, 1.0)
    """Smallest and largest factor of the zoom; its logarithm is uniform."""
    flip: Share = 0.0
    """Probability of exchanging left and right."""

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise ValueError("scale must be two positive factors, the smaller one first")
        return self

    def __call__(
        self, images: ImageBatch, *, seed: int, step: int, samples: Sequence[int]
    ) -> tuple[ImageBatch, Tensor]:
        """Moves the views of a batch: new pixels on the same canvas, and how boxes get there.

        An image's view depends on its pixels and its key alone: not on its batch and, but for rounding, not on
        its canvas.

        Args:
            images: The weak views, on any device; not changed.
            seed: The run's seed.
            step: The optimizer step.
            samples: Positions of the images in the global batch.

        Returns:
            The views, and (B, 3, 3) fp32 maps of homogeneous pixel coordinates (x, y, 1) of the weak views to
            those of the new ones.
        """
        motions = self.motions(keyed_uniforms(seed, Draw.GEOMETRY, step, samples, _NUMBERS)).float()
        matrix = about_center(to_device(images.pixels.device, motions), images.sizes)
        return warp(images, matrix), matrix

    def motions(self, numbers: Tensor) -> Tensor:
        """What to do to each image, whatever its size.

        Args:
            numbers: (B, 9) uniform numbers in [0, 1) on the host. Every decision has its own.

        Returns:
            (B, 2, 3) fp64: a linear map of the vector from the image's center to a point, and a shift, as a
            share of width and height.
        """
        gate, kind, amounts, zoom, flip = torch.split(numbers.double(), [1, 1, 5, 1, 1], dim=1)
        turn, shear = math.radians(self.rotation), math.radians(self.shear)
        kinds = _KINDS * torch.tensor([self.translation, self.translation, turn, shear, shear], dtype=torch.float64)
        kinds = kinds[kinds.any(1)] if kinds.any() else kinds
        limits = kinds[(kind[:, 0] * len(kinds)).long()] * (gate < self.probability)
        shift_x, shift_y, angle, shear_x, shear_y = ((2 * amounts - 1) * limits).unbind(1)
        smallest, largest = (math.log(factor) for factor in self.scale)
        factor = ((smallest + (largest - smallest) * zoom) * (gate < self.probability)).exp()[:, 0]
        mirrored = 1 - 2 * (flip < self.flip).double()[:, 0]
        # of turn and shear only one differs from the identity, so that this sum is their product
        right = (angle.cos(), shear_y.tan() + angle.sin())
        down = (shear_x.tan() - angle.sin(), angle.cos() + shear_x.tan() * shear_y.tan())
        row_x = torch.stack([factor * mirrored * right[0], factor * down[0], shift_x], dim=1)
        row_y = torch.stack([factor * mirrored * right[1], factor * down[1], shift_y], dim=1)
        return torch.stack([row_x, row_y], dim=1)


def about_center(motions: Tensor, sizes: Tensor) -> Tensor:
    """Motions about the center, in shares of the image, as (B, 3, 3) maps of its pixel coordinates.

    Args:
        motions: (B, 2, 3) fp32, see ``AffineView.motions``.
        sizes: (B, 2) height and width of the images.
    """
    sides = sizes.flip(1).to(motions.dtype)  # width and height, as x and y
    center = sides / 2
    linear, shift = motions[..., :2], motions[..., 2]
    # elementwise, since a matrix product may be rounded to TF32 on a GPU
    offset = center - (linear * center[:, None]).sum(2) + shift * sides
    last = torch.eye(3, dtype=motions.dtype, device=motions.device)[2:].expand(len(sizes), 1, 3)
    return torch.cat([torch.cat([linear, offset[..., None]], dim=2), last], dim=1)


def warp(images: ImageBatch, matrix: Tensor) -> ImageBatch:
    """Images moved by affine maps, bilinearly; under the identity they keep every bit.

    Args:
        images: (B, 3, H, W) uint8; not changed.
        matrix: (B, 3, 3) fp32 maps of homogeneous pixel coordinates (x, y, 1), from old to new; invertible.

    Returns:
        New pixels on the same canvas with the same sizes. What comes from outside an image has the fill color.
    """
    height, width = images.pixels.shape[-2:]
    pixels = as_pixels(sampled(above_mean_color(images), matrix, (height, width)))
    moved = (matrix != torch.eye(3, device=matrix.device)).any(2).any(1)
    inside = real_area(images.sizes, height, width)
    return images._replace(pixels=torch.where(inside & moved[:, None, None, None], pixels, images.pixels))


def above_mean_color(images: ImageBatch) -> Tensor:
    """(B, 3, H, W) fp32 pixels less the mean color; 0 in the padding, so that the mean color stands there."""
    values = images.pixels.to(torch.float32, memory_format=torch.contiguous_format)
    for channel, fill in zip(values.unbind(1), MEAN_COLOR, strict=True):
        channel.sub_(fill)
    return values.mul_(real_area(images.sizes, *values.shape[-2:]))


def sampled(values: Tensor, matrix: Tensor, canvas: tuple[int, int]) -> Tensor:
    """Images moved by affine maps onto a canvas, bilinearly; 0 beyond them.

    Args:
        values: (B, C, h, w) fp32.
        matrix: (B, 3, 3) fp32 maps of homogeneous pixel coordinates (x, y, 1), from old to new; invertible.
        canvas: Height and width of the new canvas.
    """
    sources = _sources(matrix, canvas, (values.shape[-2], values.shape[-1]))
    return functional.grid_sample(values, sources, align_corners=False)


def as_pixels(values: Tensor) -> Tensor:
    """(B, 3, H, W) uint8 from what ``above_mean_color`` gives, which is changed."""
    for channel, fill in zip(values.unbind(1), MEAN_COLOR, strict=True):
        channel.add_(fill + 0.5)  # the conversion cuts off, so this rounds
    return values.byte()


def _sources(matrix: Tensor, canvas: tuple[int, int], old: tuple[int, int]) -> Tensor:
    """(B, H, W, 2) where each pixel of the moved images comes from, in units in which the old canvas is [-1, 1].

    Elementwise and not ``affine_grid``, whose matrix product may be rounded to TF32 on a GPU.
    """
    xx, xy, x0, yx, yy, y0 = matrix[:, :2].flatten(1)[..., None, None].unbind(1)  # (B, 1, 1) each
    columns = torch.arange(canvas[1], device=matrix.device) + 0.5 - x0  # (B, 1, W), from the moved origin
    rows = (torch.arange(canvas[0], device=matrix.device) + 0.5)[:, None] - y0
    determinant = xx * yy - xy * yx
    x = (yy * columns - xy * rows) / determinant
    y = (xx * rows - yx * columns) / determinant
    return torch.stack([x.mul_(2 / old[1]), y.mul_(2 / old[0])], dim=3).sub_(1)
