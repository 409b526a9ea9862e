"""Mixup and the two-tile mosaic against loops over images, pixels and boxes."""

import numpy as np
import pytest
import torch

from denseteacher.data.augment.mix import mixup, mosaic, unmixed, with_rows
from denseteacher.structures import ImageBatch, Targets, take
from support import random_targets, tensors_of
from support.closeness import assert_close_to_scale

MEAN = (124, 116, 104)
CANVAS = (16, 20)
FIRST_SIZES = [(16, 20), (10, 20), (12, 17), (15, 9), (8, 8)]
SECOND_SIZES = [(16, 20), (16, 11), (6, 20), (12, 17), (16, 19)]


def batch(seed, sizes):
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.zeros(len(sizes), 3, *CANVAS, dtype=torch.uint8)
    for row, (height, width) in zip(pixels, sizes, strict=True):
        row[:, :height, :width] = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=rng)
    return ImageBatch(pixels, torch.tensor(sizes))


def targets_in(seed, sizes, boxes):
    """Random ground truth, cut to the images; boxes without area are among it."""
    found = random_targets(seed, batch=len(sizes), boxes=boxes, classes=3, extent=16)
    limits = torch.tensor(sizes, dtype=torch.float32).flip(1).repeat(1, 2)[:, None]
    return found._replace(boxes=found.boxes.clamp(min=0).minimum(limits))


def pairs(seed=0, first=3, second=5):
    return (
        batch(seed, FIRST_SIZES),
        targets_in(seed, FIRST_SIZES, first),
        batch(seed + 1, SECOND_SIZES),
        targets_in(seed + 1, SECOND_SIZES, second),
    )


def color(images, index, channel, row, column):
    """What an image shows at a pixel: the mean color outside of it."""
    height, width = images.sizes[index].tolist()
    inside = row < height and column < width
    return float(images.pixels[index, channel, row, column]) if inside else MEAN[channel]


def assert_targets(found, index, expected):
    """The rows of one image, in order; what is masked is 0."""
    mask = found.mask[index]
    assert found.labels[index][mask].tolist() == [label for label, _ in expected]
    boxes = np.array([box for _, box in expected]).reshape(-1, 4)
    assert_close_to_scale(found.boxes[index][mask], boxes)
    assert not found.boxes[index][~mask].any()


def listed(targets, index):
    mask = targets.mask[index]
    return list(zip(targets.labels[index][mask].tolist(), targets.boxes[index][mask].tolist(), strict=True))


def test_mixup_agrees_with_a_loop_over_pixels():
    first, first_targets, second, second_targets = pairs()
    share = torch.tensor([0.3, 0.5, 0.9, 0.0, 1.0])
    mixed = mixup(first, first_targets, second, second_targets, share)
    assert mixed.images.pixels.dtype == torch.uint8
    for index, (one, other) in enumerate(zip(FIRST_SIZES, SECOND_SIZES, strict=True)):
        height, width = max(one[0], other[0]), max(one[1], other[1])
        assert mixed.images.sizes[index].tolist() == [height, width]
        weight = float(share[index])
        for row in range(CANVAS[0]):
            for column in range(CANVAS[1]):
                for channel in range(3):
                    found = float(mixed.images.pixels[index, channel, row, column])
                    if row >= height or column >= width:
                        assert found == 0
                        continue
                    place = (index, channel, row, column)
                    expected = weight * color(first, *place) + (1 - weight) * color(second, *place)
                    assert abs(found - expected) <= 0.5001
        assert_targets(mixed.targets, index, listed(first_targets, index) + listed(second_targets, index))


def test_mixup_weighs_each_box_by_the_share_of_its_image():
    first, first_targets, second, second_targets = pairs(first=3, second=5)
    share = torch.tensor([0.3, 0.5, 0.9, 0.0, 1.0])
    weights = mixup(first, first_targets, second, second_targets, share).weights
    assert weights.shape == (5, 8)
    for index, weight in enumerate(share.tolist()):
        assert_close_to_scale(weights[index], [weight] * 3 + [1 - weight] * 5)


def test_with_all_of_the_share_an_image_keeps_every_bit():
    first, first_targets, second, second_targets = pairs()
    alone = mixup(first, first_targets, second, second_targets, torch.ones(5)).images
    for index, (height, width) in enumerate(FIRST_SIZES):
        assert torch.equal(alone.pixels[index, :, :height, :width], first.pixels[index, :, :height, :width])


def half_of(boxes, tile):
    """Boxes cut to a tile, without those that lose three quarters of a side."""
    left, top, right, bottom = tile
    kept = []
    for label, (x1, y1, x2, y2) in boxes:
        cut = [max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)]
        if cut[2] - cut[0] > (x2 - x1) / 4 and cut[3] - cut[1] > (y2 - y1) / 4:
            kept.append((label, cut))
    return kept


@pytest.mark.parametrize("seed", range(6))
def test_mosaic_agrees_with_a_loop_over_pixels_and_boxes(seed):
    first, first_targets, second, second_targets = pairs(10 * seed, first=6, second=4)
    rng = torch.Generator().manual_seed(seed)
    share = 0.25 + torch.rand(5, generator=rng) / 2
    beside = torch.rand(5, generator=rng) < 0.5
    mixed = mosaic(first, first_targets, second, second_targets, share, beside)
    assert mixed.images.pixels.dtype == torch.uint8
    assert torch.equal(mixed.weights, torch.ones(5, 10))
    for index, (one, other) in enumerate(zip(FIRST_SIZES, SECOND_SIZES, strict=True)):
        horizontal = bool(beside[index])
        cut = int(float(share[index]) * min(one[horizontal], other[horizontal]))
        height = max(one[0], other[0]) if horizontal else other[0]
        width = other[1] if horizontal else max(one[1], other[1])
        assert mixed.images.sizes[index].tolist() == [height, width]
        for row in range(CANVAS[0]):
            for column in range(CANVAS[1]):
                source = first if (column if horizontal else row) < cut else second
                for channel in range(3):
                    inside = row < height and column < width
                    expected = color(source, index, channel, row, column) if inside else 0
                    assert int(mixed.images.pixels[index, channel, row, column]) == expected
        tiles = [(0, 0, cut, height), (cut, 0, width, height)]
        if not horizontal:
            tiles = [(0, 0, width, cut), (0, cut, width, height)]
        kept = half_of(listed(first_targets, index), tiles[0]) + half_of(listed(second_targets, index), tiles[1])
        assert_targets(mixed.targets, index, kept)


def test_mosaic_shows_part_of_both_whatever_their_sizes():
    first, first_targets, second, second_targets = pairs()
    for share in (0.25, 0.7499):
        for beside in (False, True):
            turns = torch.full((5,), beside)
            mixed = mosaic(first, first_targets, second, second_targets, torch.full((5,), share), turns)
            for index, (one, other) in enumerate(zip(FIRST_SIZES, SECOND_SIZES, strict=True)):
                cut = int(share * min(one[beside], other[beside]))
                end = int(mixed.images.sizes[index, int(beside)])
                assert 0 < cut < one[beside]
                assert cut < end == other[beside]


@pytest.mark.parametrize(("remains", "kept"), [(2.49, False), (2.51, True)])
def test_a_quarter_of_a_side_must_remain(remains, kept):
    images = ImageBatch(torch.zeros(1, 3, 32, 40, dtype=torch.uint8), torch.tensor([(32, 40)]))
    box = torch.tensor([[[20 - remains, 3.0, 30 - remains, 9.0]]])  # 10 px wide, the cut at 20
    targets = Targets(box, torch.tensor([[2]]), torch.tensor([[True]]))
    nothing = Targets(torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.bool))
    mixed = mosaic(images, targets, images, nothing, torch.tensor([0.5]), torch.tensor([True]))
    assert mixed.targets.mask.tolist() == [[kept, False]]
    if kept:
        assert_close_to_scale(mixed.targets.boxes[0, 0], torch.tensor([20 - remains, 3.0, 20.0, 9.0]))
        assert mixed.targets.labels[0, 0] == 2


def test_some_rows_are_replaced_and_the_others_keep_every_bit():
    first, first_targets, second, second_targets = pairs()
    rows = torch.tensor([3, 1])
    chosen = [take(images, rows) for images in (first, second)]
    boxes = [take(targets, rows) for targets in (first_targets, second_targets)]
    others = mixup(chosen[0], boxes[0], chosen[1], boxes[1], torch.tensor([0.4, 0.6]))
    before = unmixed(first, first_targets, room=5)
    mixed = with_rows(before, rows, others)
    kept = [0, 2, 4]
    assert torch.equal(mixed.images.pixels[kept], first.pixels[kept])
    assert torch.equal(mixed.images.sizes[kept], first.sizes[kept])
    assert torch.equal(mixed.weights[kept], torch.ones(3, 8))
    for index in kept:
        assert listed(mixed.targets, index) == listed(first_targets, index)
    for place, row in enumerate(rows.tolist()):
        for whole, part in zip(tensors_of(mixed), tensors_of(others), strict=True):
            assert torch.equal(whole[row], part[place])
    assert torch.equal(before.images.pixels, first.pixels)  # nothing given is changed
