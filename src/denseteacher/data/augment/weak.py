"""Sizes and flips: the weak view, the evaluation view, and images put on one canvas."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torchvision.transforms.v2 import functional

from denseteacher.config import Config, MaxSide, ShortSide
from denseteacher.data.randomness import Draw, keyed_generator
from denseteacher.data.sizes import common_canvas, few_canvases, resized_size
from denseteacher.structures import Canvases, ImageBatch, Targets

Boxes = npt.NDArray[np.float32]
"""(n, 4) xyxy in pixels."""


class Geometry(NamedTuple):
    """What one draw of the weak view does to an image."""

    height: int
    """Height after resizing, in pixels."""
    width: int
    flip: bool
    """Whether left and right are exchanged after resizing."""

    def matrix(self, height: int, width: int) -> Tensor:
        """(3, 3) fp32: homogeneous pixel coordinates (x, y, 1) of a file of this size to those of the view."""
        x, y = self.width / width, self.height / height
        row = [-x, 0.0, float(self.width)] if self.flip else [x, 0.0, 0.0]
        return torch.tensor([row, [0.0, y, 0.0], [0.0, 0.0, 1.0]])


class WeakView(Config):
    """The weak view: a random short side and a random horizontal flip.

    Source: the published configuration (docs/sources.md, Dense Teacher); its variant with large scale jitter
    is ``sampling="range"`` with a short side of 400 to 1200.
    """

    short_side: tuple[ShortSide, ...] | Literal["auto"] = (640, 672, 704, 736, 768, 800)
    """Lengths of the shorter side in pixels: the ones to choose from, or the two ends of a range. ``auto`` is a range
    that follows images and objects (``recipes.view_sizes``)."""
    sampling: Literal["choice", "range"] = "choice"
    """``choice`` takes one of the lengths in ``short_side``, ``range`` any whole number between its two."""
    max_side: MaxSide | Literal["auto"] = 1333
    """Bound of the longer side in pixels; ``auto`` follows the short side."""
    flip: float = Field(0.5, ge=0, le=1)
    """Probability."""
    scale_per: Literal["image", "batch"] = "image"
    """Whether every image draws its short side, as published, or a step one for all its images, in all processes:
    then a batch has less padding and its steps less variety of scale."""
    canvas: Literal["smallest", "bucket"] = "smallest"
    """``smallest`` is what holds a step's images; ``bucket`` what holds any image of the step's orientation and short
    side, which pads more, but a run then has few canvases: two for each short side with ``scale_per: batch``, else
    two, and what batches of both orientations need."""

    canvases: int = Field(1, gt=0, le=16)
    """Most canvases that a process's images of a step are computed on, each a forward of its own: images of like shapes
    share one, so that there is less padding. There is no more than one for two images; 1 has one for all."""

    @model_validator(mode="after")
    def _check_short_side(self) -> Self:
        if isinstance(self.short_side, str):
            if self.sampling != "range":
                raise ValueError('short_side "auto" becomes a range: set sampling to "range" too')
        elif min(self.short_side, default=0) <= 0:
            raise ValueError("short_side must hold positive lengths in pixels")
        elif self.sampling == "range" and (len(self.short_side) != 2 or self.short_side[0] > self.short_side[1]):
            raise ValueError('sampling "range" needs a short_side of two values, the smaller one first')
        return self

    @property
    def sides(self) -> tuple[int, ...]:
        """``short_side`` in pixels.

        Raises:
            ValueError: If it is still ``auto``.
        """
        if isinstance(self.short_side, str):
            raise ValueError("short_side is still 'auto': give lengths, or train through a recipe, which sets them")
        return self.short_side

    @property
    def bound(self) -> int:
        """``max_side`` in pixels.

        Raises:
            ValueError: If it is still ``auto``.
        """
        if isinstance(self.max_side, str):
            raise ValueError("max_side is still 'auto': give a length, or train through a recipe, which sets it")
        return self.max_side

    def draw(self, height: int, width: int, *, seed: int, draw: Draw, step: int, sample: int) -> Geometry:
        """What to do to an image of this size.

        Args:
            height: Height of the image in pixels.
            width: Width of the image in pixels.
            seed: The run's seed.
            draw: Which of a step's images are drawn for.
            step: The optimizer step.
            sample: Position of the image in the global batch; with the others the key of its random numbers.
        """
        rng = keyed_generator(seed, draw, step, sample)
        short = self._short_side(rng)  # drawn in any case, so that settings do not shift each other
        flip = bool(rng.random() < self.flip)
        if self.scale_per == "batch":
            short = self.step_side(seed, step)
        return Geometry(*resized_size(height, width, short, self.bound), flip)

    def step_side(self, seed: int, step: int) -> int:
        """The short side that a step's views share, or the longest that they may have where each draws its own."""
        if self.scale_per == "image":
            return max(self.sides)
        return self._short_side(keyed_generator(seed, Draw.SCALE, step))

    def canvas_for(self, sizes: Sequence[Sequence[int]], short: int) -> tuple[int, int]:
        """Height and width of the canvas for a batch.

        Args:
            sizes: Height and width of its views.
            short: Their ``step_side``.
        """
        if self.canvas == "smallest":
            return common_canvas(sizes)
        tall = any(height > width for height, width in sizes)
        wide = any(width > height for height, width in sizes)
        return common_canvas([(self.bound if tall else short, self.bound if wide else short)])

    def canvases_for(self, sizes: Sequence[Sequence[int]], short: int) -> Canvases | None:
        """Height and width of the canvas that each view of a batch is computed on; None where one holds all.

        Args:
            sizes: Height and width of the views.
            short: Their ``step_side``.
        """
        most = min(self.canvases, len(sizes) // 2)
        if most < 2:
            return None
        chosen = tuple(few_canvases(sizes, most, lambda some: self.canvas_for(some, short)))
        return chosen if len(set(chosen)) > 1 else None

    def _short_side(self, rng: np.random.Generator) -> int:
        if self.sampling == "range":
            low, high = self.sides
            return int(rng.integers(low, high, endpoint=True))
        return self.sides[int(rng.integers(len(self.sides)))]


class AutoSizes(Config):
    """Bounds of what sizes of ``auto`` become."""

    usual: ShortSide = 800
    """Largest short side in pixels, unless small objects would get lost by it."""
    most: ShortSide = 1333
    """Largest side in pixels, whatever the objects are."""
    smallest: float = Field(0.6, gt=0, le=1)
    """Short side of the smallest training view, as a share of the largest one's."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.usual > self.most:
            raise ValueError(f"usual is {self.usual}, above most, the bound of all sides, which is {self.most}")
        return self


class EvalView(Config):
    """The view for evaluation and use: one size, no flip."""

    short_side: int = Field(800, gt=0)
    """Length of the shorter side in pixels."""
    max_side: int = Field(1333, gt=0)
    """Bound of the longer side in pixels."""

    def apply(self, image: Tensor) -> Tensor:
        """The (3, H', W') uint8 view of a (3, H, W) uint8 image."""
        return _resize(image, *resized_size(image.shape[1], image.shape[2], self.short_side, self.max_side))


def transform(image: Tensor, boxes: Boxes, geometry: Geometry) -> tuple[Tensor, Boxes]:
    """Resizes and flips an image together with its boxes.

    Args:
        image: (3, H, W) uint8.
        boxes: (n, 4) xyxy in its pixels.
        geometry: What to do.
    """
    return resize_and_flip(image, geometry), move_boxes(boxes, image.shape[1], image.shape[2], geometry)


def resize_and_flip(image: Tensor, geometry: Geometry) -> Tensor:
    """The (3, height, width) uint8 view of a (3, H, W) uint8 image."""
    resized = _resize(image, geometry.height, geometry.width)
    return resized.flip(-1) if geometry.flip else resized


def move_boxes(boxes: Boxes, height: int, width: int, geometry: Geometry) -> Boxes:
    """The (n, 4) boxes of an image of this size in the pixels of its view."""
    # the ratios of the rounded sizes, which differ between the axes: boxes follow the pixels
    ratio_x, ratio_y = geometry.width / width, geometry.height / height
    moved = boxes.astype(np.float32).reshape(-1, 4) * np.array([ratio_x, ratio_y] * 2, dtype=np.float32)
    if geometry.flip:
        moved[:, [0, 2]] = geometry.width - moved[:, [2, 0]]
    return moved


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    if image.shape[1:] == (height, width):
        return image
    resized: Tensor = functional.resize(image, [height, width], antialias=True)
    return resized


def pad_batch(images: Sequence[Tensor]) -> ImageBatch:
    """Puts (3, H_i, W_i) uint8 images on the smallest common canvas."""
    sizes = [image.shape[1:] for image in images]
    return ImageBatch(fill_canvas(images, len(images), common_canvas(sizes)), torch.tensor(sizes))


def fill_canvas(images: Iterable[Tensor], count: int, canvas: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) uint8 with the images at the upper left and 0 beside them.

    Args:
        images: (3, H_i, W_i) uint8 each, not larger than the canvas.
        count: How many they are; they may be made one by one.
        canvas: Height and width.
    """
    pixels = torch.zeros(count, 3, *canvas, dtype=torch.uint8)
    for row, image in zip(pixels, images, strict=True):
        # decoders put the colors of a pixel together; NumPy takes them apart in half of torch's time
        np.copyto(row[:, : image.shape[1], : image.shape[2]].numpy(), image.numpy())
    return pixels


def pad_targets(
    boxes: Sequence[Boxes], labels: Sequence[npt.NDArray[Any]], regions: Sequence[Boxes] | None = None
) -> Targets:
    """Ground truth of a batch as padded tensors, with room for at least one box an image.

    Args:
        boxes: (n_i, 4) xyxy of each image.
        labels: (n_i,) class indices of each image.
        regions: (m_i, 4) xyxy of each image's regions to ignore, which come after its objects.
    """
    more = [0] * len(boxes) if regions is None else [len(rows) for rows in regions]
    room = max([1, *(len(rows) + count for rows, count in zip(boxes, more, strict=True))])
    targets = Targets(
        torch.zeros(len(boxes), room, 4),
        torch.zeros(len(boxes), room, dtype=torch.int64),
        torch.zeros(len(boxes), room, dtype=torch.bool),
        None if regions is None else torch.zeros(len(boxes), room, dtype=torch.bool),
    )
    for index, (rows, classes) in enumerate(zip(boxes, labels, strict=True)):
        count = len(rows)
        targets.boxes[index, :count] = torch.from_numpy(np.asarray(rows, dtype=np.float32).reshape(-1, 4))
        targets.labels[index, :count] = torch.from_numpy(np.asarray(classes, dtype=np.int64))
        targets.mask[index, :count] = True
        if regions is not None and targets.ignored is not None:
            places = slice(count, count + len(regions[index]))
            targets.boxes[index, places] = torch.from_numpy(regions[index].astype(np.float32))
            targets.ignored[index, places] = True
    return targets
