"""Dense pseudo-labels of mixed images: the dense form of MixPL, this project's own (MixPL has boxes; docs/sources.md).

Two strong views of one canvas have the same locations, so their mixup is taught by the element-wise maximum of both
dense pseudo-labels. Each is selected before the maximum is taken: a share of the maximum would let an image of many
objects crowd out the other one's, which are seen all the same and would be trained as background. The region is the
union of both, up to twice ``ratio``. Box and quality are those of the teacher output that is richer at a location.

At half its size an image shows at level k - 1 what it showed at level k: a location of stride s becomes one of stride
s / 2, exactly, where the tile's offset is a multiple of that stride. So the teacher's maps of four full-size images,
each one level down, are the targets of a mosaic of them. Two levels have no partner. On the mosaic's coarsest level
all is background: what would be found there was too large for the teacher. The teacher's finest level is lost: its
objects are still seen, too small for a level of their own, so the mosaic's finest level ignores in the class loss the
locations in whose place the teacher had selected one there. So that the loss does not blow up where little is left of
the region, the normalizer is at least a quarter of that of the four images, which have four times as many locations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from denseteacher.data.augment.affine import above_mean_color, as_pixels
from denseteacher.data.augment.mix import weighted_sum
from denseteacher.data.randomness import to_device
from denseteacher.detectors.base import DenseDetector
from denseteacher.pseudo_labels.dense import LEAST_MEAN_SCORE, DensePseudoLabels, DenseTargets
from denseteacher.structures import ImageBatch, take

TILES = 4


@torch.no_grad()
def mixed_partners(images: ImageBatch, targets: DenseTargets, random: Tensor) -> tuple[ImageBatch, DenseTargets]:
    """Each image half and half with another one of the batch, on which each image is once.

    Args:
        images: B strong views.
        targets: What they teach.
        random: (B, ``METHOD_RANDOM``) uniform in [0, 1) on the host.
    """
    order = random[:, 0].argsort(stable=True)
    on_host = torch.empty_like(order).index_copy_(0, order, order.roll(-1))  # never itself, unless alone
    partners = to_device(images.sizes.device, on_host)
    half = torch.full((len(random),), 0.5, device=images.sizes.device)
    mixed = weighted_sum(images, take(images, partners), half)
    if images.canvases is not None:
        own = images.canvases
        pairs = ((own[row], own[other]) for row, other in enumerate(on_host.tolist()))
        mixed = mixed._replace(canvases=tuple((max(a[0], b[0]), max(a[1], b[1])) for a, b in pairs))
    return mixed, maximum(targets, partners)


def maximum(targets: DenseTargets, partners: Tensor) -> DenseTargets:
    """What images teach that are mixed with others of the batch.

    Args:
        targets: What B images teach.
        partners: (B,) int64 the image that each is mixed with.
    """
    own = targets.labels
    others, selected = own.targets[partners], own.selected[partners]
    other_is_richer = others.amax(-1) > own.targets.amax(-1)
    quality = targets.quality
    if quality is not None:
        quality = torch.where(other_is_richer, quality[partners], quality)
    ignored = targets.ignored
    if ignored is not None:  # what one of them teaches is learned, and background only where both show it
        taught = own.selected & ~ignored
        ignored = (ignored | ignored[partners]) & ~(taught | taught[partners])
    true, deltas = targets.true, targets.deltas
    if true is not None:
        true = torch.where(other_is_richer, true[partners], true)
    if deltas is not None:
        deltas = torch.where(other_is_richer[..., None], deltas[partners], deltas)
    scores = torch.maximum(own.targets, others)
    labels = _labels(scores, own.selected | selected, groups=len(own.normalizer))
    boxes = torch.where(other_is_richer[..., None], targets.boxes[partners], targets.boxes)
    return DenseTargets(labels, boxes, quality, ignored, true, deltas)


@torch.no_grad()
def mixed_tiles(
    detector: DenseDetector, images: ImageBatch, targets: DenseTargets, random: Tensor
) -> tuple[ImageBatch, DenseTargets]:
    """Mosaics of four images at half size on a canvas of the same size; each image is in one, as far as they go.

    The middle is the last point up to that of the canvas at which all strides meet, so that of the upper and left
    tiles less than a stride is cut off, of the padding first.

    Args:
        detector: For the shapes of its levels.
        images: B strong views. There are B / 4 mosaics, rounded down; or one, with images that are there again.
        targets: What they teach.
        random: (B, ``METHOD_RANDOM``) uniform in [0, 1) on the host.
    """
    count = max(1, len(random) // TILES)
    order = random[:, 1].argsort(stable=True)
    rows = order[torch.arange(count * TILES) % len(order)].view(TILES, count)
    chosen = [to_device(images.sizes.device, one) for one in rows]
    canvas = (images.pixels.shape[-2], images.pixels.shape[-1])
    middle = _middle(canvas, detector.strides)
    values = above_mean_color(ImageBatch(images.pixels, images.sizes))
    values = F.avg_pool2d(values, 2)  # a pixel of half size covers four
    pixels = as_pixels(_tiled([values[one].movedim(1, 3) for one in chosen], middle, canvas).movedim(3, 1).contiguous())
    sizes = torch.stack([images.sizes.new_full((count,), side) for side in canvas], dim=1)
    mosaics = ImageBatch(pixels, sizes, None if images.canvases is None else (canvas,) * count)
    return mosaics, shifted(detector, targets, chosen, canvas)


def shifted(
    detector: DenseDetector, targets: DenseTargets, rows: Sequence[Tensor], canvas: tuple[int, int]
) -> DenseTargets:
    """What mosaics teach: the maps of their four images, one level down.

    Args:
        detector: For the shapes of its levels.
        targets: What B images teach.
        rows: Four times (n,) int64, the images in the upper left, upper right, lower left and lower right tile.
        canvas: Height and width of images and mosaics.
    """
    labels, (down, across) = targets.labels, _middle(canvas, detector.strides)

    def shift(values: Tensor) -> Tensor:
        return _one_level_down(detector, [values[one] for one in rows], canvas)

    halves = [targets.boxes[one] / 2 for one in rows]
    for tile, boxes in enumerate(halves):
        boxes[..., 0::2] += across * (tile % 2)
        boxes[..., 1::2] += down * (tile // 2)
    scores, selected = shift(labels.targets), shift(labels.selected[..., None])[..., 0]
    ignored = _lost(detector, [labels.selected[one] for one in rows], canvas) & ~selected
    if targets.ignored is not None:
        ignored = ignored | shift(targets.ignored[..., None])[..., 0]
    quality, true = (None if one is None else shift(one[..., None])[..., 0] for one in (targets.quality, targets.true))
    boxes = _one_level_down(detector, halves, canvas)
    richness = torch.stack([labels.targets[one].amax(-1).sum() for one in rows]).sum()
    made = _labels(scores, selected, groups=1)
    made = made._replace(normalizer=made.normalizer.clamp(min=richness / TILES))
    deltas = None if targets.deltas is None else shift(targets.deltas)  # they count in strides, which are halved too
    return DenseTargets(made, boxes, quality, ignored, true, deltas)


def _labels(scores: Tensor, selected: Tensor, *, groups: int) -> DensePseudoLabels:
    """Dense pseudo-labels with the normalizers of their groups; see ``dense_pseudo_labels``."""
    richness = scores.amax(-1).view(groups, -1).sum(1)  # 0 where nothing is selected
    floor = LEAST_MEAN_SCORE * selected.view(groups, -1).sum(1).clamp(min=1)
    return DensePseudoLabels(scores, selected, richness.clamp(min=floor))


def _middle(canvas: tuple[int, int], strides: Sequence[int]) -> tuple[int, int]:
    """Y and x of the point where the tiles meet: a multiple of the strides of all levels that are taught."""
    stride = max(strides[:-1], default=1)
    return canvas[0] // 2 // stride * stride, canvas[1] // 2 // stride * stride


def _one_level_down(detector: DenseDetector, maps: Sequence[Tensor], canvas: tuple[int, int]) -> Tensor:
    """(n, N, C) values of mosaics from four (n, N, C) of their images; 0 on the coarsest level and beyond images."""
    shapes, (down, across) = detector.shapes(canvas), _middle(canvas, detector.strides)
    tiles = [_by_level(one, shapes) for one in maps]
    levels = []
    for level, (shape, stride) in enumerate(zip(shapes, detector.strides, strict=True)):
        if level + 1 < len(shapes):
            grid = _tiled([tile[level + 1] for tile in tiles], (down // stride, across // stride), shape)
        else:
            grid = torch.zeros_like(tiles[0][level])
        levels.append(grid.reshape(len(grid), -1, maps[0].shape[2]))
    return torch.cat(levels, 1)


def _lost(detector: DenseDetector, selected: Sequence[Tensor], canvas: tuple[int, int]) -> Tensor:
    """(n, N) bool, where on the finest level of mosaics the four (n, N) images had selected a location of theirs."""
    shapes, (down, across) = detector.shapes(canvas), _middle(canvas, detector.strides)
    stride = detector.strides[0]
    grids = [_by_level(one[..., None], shapes)[0].any(3).float() for one in selected]
    halves = [F.max_pool2d(grid[:, None], 2, ceil_mode=True)[:, 0, ..., None] for grid in grids]
    finest = _tiled(halves, (down // stride, across // stride), shapes[0]).bool()
    anchors = selected[0].shape[1] // sum(height * width for height, width in shapes)
    own = finest.expand(-1, -1, -1, anchors).reshape(len(finest), -1)
    return F.pad(own, (0, selected[0].shape[1] - own.shape[1]))


def _by_level(values: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """(n, N, C) values as one (n, h, w, A * C) a level, A being the anchors of a location."""
    anchors = values.shape[1] // sum(height * width for height, width in shapes)
    parts = torch.split(values, [height * width * anchors for height, width in shapes], 1)
    return [part.reshape(len(part), *shape, -1) for part, shape in zip(parts, shapes, strict=True)]


def _tiled(tiles: Sequence[Tensor], middle: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """(n, H, W, C) of four (n, h, w, C) that meet in one point, cut off or 0 beyond."""
    heights, widths = ((middle[axis], shape[axis] - middle[axis]) for axis in (0, 1))
    rows = []
    for row, height in enumerate(heights):
        pair = zip(tiles[2 * row : 2 * row + 2], widths, strict=True)
        rows.append(torch.cat([_cut(tile, height, width) for tile, width in pair], 2))
    return torch.cat(rows, 1)


def _cut(grid: Tensor, height: int, width: int) -> Tensor:
    grid = grid[:, :height, :width]
    return F.pad(grid, (0, 0, 0, width - grid.shape[2], 0, height - grid.shape[1]))
