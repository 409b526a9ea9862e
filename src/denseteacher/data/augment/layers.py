"""Images as layers of a canvas, resized, mirrored and with erased patches; and mixup and mosaic of such layers.

Source: the code of MixPL (docs/sources.md, MixPL). All is decided by given random numbers and computed for the whole
batch at once, without waiting for the device; in fp64 every device rounds to the same pixels.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from denseteacher.data.augment.affine import above_mean_color, as_pixels, sampled
from denseteacher.ops.boxes import areas, move_targets, with_boxes
from denseteacher.ops.padding import real_area
from denseteacher.structures import ImageBatch, Targets

TILES = 4


class PatchRule(NamedTuple):
    """How patches of an image are erased."""

    most: int
    """Most patches; every number from 1 up to it is as likely."""
    largest_side: float
    """Largest height and width, as a share of the image's; uniform from 0."""
    most_covered: float
    """A box goes if patches cover this share of it; where patches overlap, they count twice."""

    @property
    def numbers(self) -> int:
        """Random numbers an image."""
        return 1 + 3 * self.most


class Places(NamedTuple):
    """Where images lie on a canvas of n, one on each."""

    scale: Tensor
    """(n,) fp64 factor of their size."""
    sides: Tensor
    """(n, 2) fp64 height and width on the canvas, in whole pixels."""
    corner: Tensor
    """(n, 2) fp64 y and x of their upper left corner, in whole pixels."""


class Layer(NamedTuple):
    """Images on canvases that show the mean color elsewhere."""

    values: Tensor
    """(n, 3, H, W) fp32 pixels less the mean color."""
    targets: Targets
    """Boxes that are still seen."""


def fitted(sizes: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """Factor (n,) and new height and width (n, 2), both fp64, with which images just fit.

    Args:
        sizes: (n, 2) height and width of the images; 0 where there is none, which stays so.
        room: (n, 2) or (2,) height and width that they may have.
    """
    scale = (room.double() / sizes.clamp(min=1)).amin(1)
    return scale, (sizes * scale[:, None]).round()


@torch.no_grad()
def layer(
    images: ImageBatch,
    targets: Targets,
    places: Places,
    numbers: Tensor,
    *,
    mirrored: bool,
    canvas: tuple[int, int],
    rule: PatchRule,
) -> Layer:
    """Images at their places, some patches erased.

    Args:
        images: n images; not changed.
        targets: Their ground truth.
        places: Where they shall be.
        numbers: (n, ``rule.numbers``) uniform numbers in [0, 1).
        mirrored: Exchange left and right.
        canvas: Height and width.
        rule: See ``PatchRule``.
    """
    matrix = _matrix(places, mirrored=mirrored)
    start = places.corner.flip(1)
    patches = draw_patches(places.sides, numbers, rule) + start.repeat(1, 2)[:, None]
    area = torch.cat((start, start + places.sides.flip(1)), dim=1)[:, None]
    seen = _inside(area, canvas) & ~_inside(patches, canvas)
    moved = move_targets(targets, matrix, (places.corner + places.sides).long())
    covered = _common(moved.boxes, patches.float()).sum(2)
    kept = moved.mask & (covered < rule.most_covered * areas(moved.boxes))
    return Layer(sampled(above_mean_color(images), matrix, canvas) * seen, with_boxes(moved, moved.boxes, kept))


def draw_patches(sides: Tensor, numbers: Tensor, rule: PatchRule) -> Tensor:
    """(n, ``rule.most``, 4) fp64 xyxy in whole pixels of the image, without area where there is no patch.

    Args:
        sides: (n, 2) fp64 height and width of the images.
        numbers: (n, ``rule.numbers``) uniform numbers in [0, 1): how many, then size and place (x, y) of each.
        rule: See ``PatchRule``.
    """
    count, own = numbers[:, 0].double() * rule.most, numbers[:, 1:].double().view(len(numbers), rule.most, 3)
    there = torch.arange(rule.most, device=numbers.device) <= count.floor()[:, None]
    whole = sides.flip(1)[:, None]
    extent = (whole * own[..., :1] * rule.largest_side).floor() * there[..., None]
    start = (own[..., 1:] * (whole - extent)).floor() * there[..., None]
    return torch.cat((start, start + extent), dim=2)


@torch.no_grad()
def blended(first: Layer, second: Layer, sizes: Tensor, both: Tensor) -> tuple[ImageBatch, Targets]:
    """Half of one and half of the other layer, and the boxes of both.

    Args:
        first: n layers.
        second: n others on the same canvas.
        sizes: (n, 2) height and width of the images that they make.
        both: (n,) bool, where the second one is there at all; elsewhere the first one is shown as it is.
    """
    there = both[:, None, None, None]
    values = torch.where(there, (first.values + second.values) / 2, first.values)
    others = second.targets
    others = with_boxes(others, others.boxes, others.mask & both[:, None])
    fields = (torch.cat(pair, dim=1) for pair in zip(first.targets[:3], others[:3], strict=True))
    return _images(values, sizes), Targets(*fields)


def tiled_places(sizes: Tensor, room: Tensor) -> tuple[Places, Tensor]:
    """Four images around one point of a canvas, each fitted into a tile; and (1, 2) height and width of all.

    Args:
        sizes: (4, 2) their heights and widths: upper left, upper right, lower left, lower right.
        room: (2,) largest height and width of a tile.
    """
    scale, sides = fitted(sizes, room)
    middle = sides.amax(0).clamp(min=1)
    tile = torch.arange(TILES, device=sizes.device)
    before = torch.stack((tile < 2, tile % 2 == 0), dim=1)
    corner = middle - torch.where(before, sides, 0)
    return Places(scale, sides, corner), 2 * middle.long()[None]


@torch.no_grad()
def tiled(tiles: Layer, sizes: Tensor) -> tuple[ImageBatch, Targets]:
    """One image of layers that do not overlap, and all their boxes.

    Args:
        tiles: n layers.
        sizes: (1, 2) height and width of the image that they make.
    """
    fields = (field.flatten(0, 1)[None] for field in tiles.targets[:3])
    return _images(tiles.values.sum(0, keepdim=True), sizes), Targets(*fields)


def _images(values: Tensor, sizes: Tensor) -> ImageBatch:
    return ImageBatch(as_pixels(values) * real_area(sizes, *values.shape[-2:]), sizes)


def _matrix(places: Places, *, mirrored: bool) -> Tensor:
    """(n, 3, 3) fp32 maps of pixel coordinates (x, y, 1) of the images to those of the canvas."""
    scale, zero = places.scale, torch.zeros_like(places.scale)
    y, x = places.corner.unbind(1)
    across = torch.stack((-scale, zero, x + places.sides[:, 1]) if mirrored else (scale, zero, x), dim=1)
    last = torch.stack((zero, zero, zero + 1), dim=1)
    return torch.stack((across, torch.stack((zero, scale, y), dim=1), last), dim=1).float()


def _inside(boxes: Tensor, canvas: tuple[int, int]) -> Tensor:
    """(n, 1, H, W) bool, which pixels lie in one of (n, P, 4) boxes."""
    left, top, right, bottom = boxes[..., None].unbind(2)
    rows = torch.arange(canvas[0], device=boxes.device) + 0.5
    columns = torch.arange(canvas[1], device=boxes.device) + 0.5
    down = ((rows > top) & (rows < bottom)).float()
    across = ((columns > left) & (columns < right)).float()
    return (down.transpose(1, 2) @ across > 0.5)[:, None]  # a sum of products of 0 and 1 is exact in any precision


def _common(boxes: Tensor, patches: Tensor) -> Tensor:
    """(n, G, P) areas that (n, G, 4) boxes and (n, P, 4) patches share."""
    lower = torch.maximum(boxes[:, :, None, :2], patches[:, None, :, :2])
    upper = torch.minimum(boxes[:, :, None, 2:], patches[:, None, :, 2:])
    return (upper - lower).clamp(min=0).prod(3)
