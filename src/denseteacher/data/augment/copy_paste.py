"""Crop bank: pictures of single objects, a ring of the latest ones for each class, and pasting them into images.

The bank is a dict of tensors: ``pixels`` (K, R, 3, S, S) uint8, all objects resized to one square; ``sides`` (K, R, 2)
fp32 their height and width where they were cut out, 0 in a free place; ``true`` (K, R) bool, whether the box was
ground truth; ``next`` (K,) int64, the place that is written next.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

from denseteacher.ops.boxes import areas, with_boxes
from denseteacher.ops.distributed import rows_of_all_processes
from denseteacher.structures import ImageBatch, MethodState, Targets

NUMBERS_PER_PASTE = 5
_LEAST_SIDE = 4.0  # pixels; a thinner object shows nothing


class Crops(NamedTuple):
    """Objects cut out of images."""

    pixels: Tensor
    """(n, 3, S, S) uint8."""
    sides: Tensor
    """(n, 2) fp32 height and width of the object's box, in pixels."""
    labels: Tensor
    """(n,) int64 class indices."""
    true: Tensor
    """(n,) bool, whether the box is ground truth."""
    mask: Tensor
    """(n,) bool, False where there is no object."""


class Collage(NamedTuple):
    """Images with objects pasted into them."""

    images: ImageBatch
    targets: Targets
    """Boxes that are still seen, those of pasted objects last."""
    true: Tensor
    """(B, G) bool, whether a box is known to be right."""


class PasteRule(NamedTuple):
    """How objects are pasted."""

    zoom: tuple[float, float]
    """Smallest and largest factor of the size, log-uniform."""
    largest_side: float
    """Larger objects are shrunk until no side is above this share of the image's."""
    most_covered: float
    """A box goes once a pasted object covers more than this share of it."""


def empty_bank(classes: int, room: int, side: int) -> MethodState:
    """A bank with room for so many square crops of this side for each class."""
    return {
        "pixels": torch.zeros(classes, room, 3, side, side, dtype=torch.uint8),
        "sides": torch.zeros(classes, room, 2),
        "true": torch.zeros(classes, room, dtype=torch.bool),
        "next": torch.zeros(classes, dtype=torch.int64),
    }


@torch.no_grad()
def cut_out(images: ImageBatch, targets: Targets, true: Tensor, *, classes: int, count: int, side: int) -> Crops:
    """Some of a batch's objects: the first one of every class, then the second ones, and so on.

    Args:
        images: The B images that the boxes lie on.
        targets: Boxes of the objects.
        true: (B, G) bool, whether a box is ground truth.
        classes: Number of classes.
        count: How many to cut out; where there are fewer, the rest is masked out.
        side: Side of the square that they are resized to, in pixels.
    """
    batch, room = targets.mask.shape
    image = torch.arange(batch, device=targets.mask.device).repeat_interleave(room)
    boxes, labels, mask = targets.boxes.flatten(0, 1), targets.labels.flatten(), targets.mask.flatten()
    mask = mask & ((boxes[:, 2:] - boxes[:, :2]).amin(1) >= _LEAST_SIDE)
    chosen = _ranks(labels, mask, classes).argsort(stable=True)[:count]
    image, boxes, labels, mask = image[chosen], boxes[chosen], labels[chosen], mask[chosen]

    # between the last pixel's center and its edge, bilinear sampling would mix in the padding
    inside = boxes.minimum((images.sizes[image].flip(1) - 0.5).repeat(1, 2).to(boxes.dtype))
    regions = torch.cat((image[:, None].to(boxes.dtype), inside), dim=1)
    pixels = roi_align(images.pixels.float(), regions, side, aligned=True)
    sides = (boxes[:, 2:] - boxes[:, :2]).flip(1).masked_fill(~mask[:, None], 0)
    crops = Crops(pixels.add_(0.5).byte(), sides, labels, true.flatten()[chosen], mask)
    spare = count - len(chosen)
    return Crops(*(torch.cat((value, value.new_zeros(spare, *value.shape[1:]))) for value in crops))


@torch.no_grad()
def deposit(bank: MethodState, crops: Crops) -> MethodState:
    """A new bank that has the crops of all processes too, in the places of each class's oldest ones.

    Args:
        bank: See the module; not changed.
        crops: As many in every process.
    """
    classes, room = bank["true"].shape
    # collectives know no bool
    pixels, sides, labels, true, mask = (
        rows_of_all_processes(value.byte() if value.dtype == torch.bool else value) for value in crops
    )
    rank = _ranks(labels, mask.bool(), classes)
    new = rank < room
    place = (bank["next"][labels] + rank.clamp(max=room)) % room
    # what is not new goes into a place behind all others, so that shapes are known without waiting for the device
    index = torch.where(new, labels * room + place, classes * room)
    added = (new[:, None] & (labels[:, None] == torch.arange(classes, device=labels.device))).sum(0)
    values = {"pixels": pixels, "sides": sides, "true": true.bool()}
    after = {name: _with_rows(bank[name], index, value) for name, value in values.items()}
    return after | {"next": (bank["next"] + added) % room}


def _with_rows(values: Tensor, index: Tensor, rows: Tensor) -> Tensor:
    """(K, R, ...) values with rows (n, ...) at places (n,) of the first two axes; place K * R is nowhere."""
    spare = values.new_zeros(1, *values.shape[2:])
    return torch.cat((values.flatten(0, 1), spare)).index_copy_(0, index, rows)[:-1].view_as(values)


@torch.no_grad()
def draw(bank: MethodState, odds: Tensor, numbers: Tensor) -> Crops:
    """One crop an image: a class of those that the bank has, by its odds, then any of the class's crops.

    Args:
        bank: See the module.
        odds: (K,) positive; how likely a class is, up to a factor.
        numbers: (B, 2) uniform numbers in [0, 1).
    """
    stored = (bank["sides"][..., 0] > 0).sum(1)
    reach = (odds * (stored > 0)).cumsum(0)
    label = torch.searchsorted(reach, numbers[:, 0] * reach[-1], right=True).clamp(max=len(odds) - 1)
    place = (numbers[:, 1] * stored[label]).long()
    pixels, sides, true = (bank[name][label, place] for name in ("pixels", "sides", "true"))
    return Crops(pixels, sides, label, true, mask=place < stored[label])  # there is none where the bank is empty


@torch.no_grad()
def paste(collage: Collage, crops: Crops, numbers: Tensor, rule: PasteRule) -> Collage:
    """Pastes one object into each image, wholly inside of it, at about its own size.

    Args:
        collage: B images; not changed.
        crops: B objects; nothing is pasted where there is none.
        numbers: (B, 3) uniform numbers in [0, 1): zoom, and the place from top to bottom and from left to right.
        rule: See ``PasteRule``.
    """
    images, targets = collage.images, collage.targets
    area = _places(images.sizes, crops, numbers, rule)
    pixels = torch.where(*_rendered(images, crops, area), images.pixels)
    box = area.to(targets.boxes.dtype)[:, None]
    lower = torch.maximum(targets.boxes[..., :2], box[..., :2])
    upper = torch.minimum(targets.boxes[..., 2:], box[..., 2:])
    covered = areas(torch.cat((lower, upper), dim=2))
    seen = targets.mask & (covered <= rule.most_covered * areas(targets.boxes))
    kept = with_boxes(targets, targets.boxes, seen)
    return Collage(
        images._replace(pixels=pixels),
        Targets(
            torch.cat((kept.boxes, box), dim=1),
            torch.cat((kept.labels, crops.labels.masked_fill(~crops.mask, 0)[:, None]), dim=1),
            torch.cat((seen, crops.mask[:, None]), dim=1),
            None if kept.ignored is None else functional.pad(kept.ignored, (0, 1)),
        ),
        torch.cat((collage.true & seen, (crops.true & crops.mask)[:, None]), dim=1),
    )


def _places(sizes: Tensor, crops: Crops, numbers: Tensor, rule: PasteRule) -> Tensor:
    """(B, 4) fp64 xyxy in whole pixels, where the objects go; 0 where there is none."""
    # in fp64 every device rounds to the same pixels
    numbers, sizes = numbers.double(), sizes.double()
    smallest, largest = rule.zoom
    sides = crops.sides.double() * (smallest * (largest / smallest) ** numbers[:, :1])
    shrink = (rule.largest_side * sizes / sides.clamp(min=1)).amin(1, keepdim=True).clamp(max=1)
    sides = (sides * shrink).round().clamp(min=1)
    start = (numbers[:, 1:] * (sizes - sides + 1)).floor()
    return torch.cat((start.flip(1), (start + sides).flip(1)), dim=1) * crops.mask[:, None]


def _rendered(images: ImageBatch, crops: Crops, area: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 1, H, W) bool where the objects lie, and (B, 3, H, W) uint8 with the objects there."""
    height, width = images.pixels.shape[-2:]
    left, top, right, bottom = area[:, :, None].unbind(1)
    rows = torch.arange(height, device=area.device) + 0.5
    columns = torch.arange(width, device=area.device) + 0.5
    inside = ((rows > top) & (rows < bottom))[:, :, None] & ((columns > left) & (columns < right))[:, None]
    # in units in which the crop is [-1, 1]
    down = ((rows - top) / (bottom - top).clamp(min=1) * 2 - 1)[:, :, None].expand(-1, -1, width)
    across = ((columns - left) / (right - left).clamp(min=1) * 2 - 1)[:, None].expand(-1, height, -1)
    grid = torch.stack((across, down), dim=3).float()
    sampled = functional.grid_sample(crops.pixels.float(), grid, padding_mode="border", align_corners=False)
    return inside[:, None], (sampled + 0.5).byte()


def _ranks(labels: Tensor, mask: Tensor, classes: int) -> Tensor:
    """(n,) int64 how many objects of the same class come before each; larger than any such number if masked out."""
    of_class = (labels[:, None] == torch.arange(classes, device=labels.device)) & mask[:, None]
    rank = of_class.cumsum(0).gather(1, labels[:, None])[:, 0] - 1
    return rank.masked_fill(~mask, torch.iinfo(torch.int64).max)
