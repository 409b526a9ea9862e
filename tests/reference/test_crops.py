"""ACRST's crop bank and its pastes against plain NumPy, pixel by pixel and box by box."""

import math
from collections import deque

import numpy as np
import pytest
import torch

from denseteacher.data.augment.copy_paste import (
    Collage,
    Crops,
    PasteRule,
    cut_out,
    deposit,
    draw,
    empty_bank,
    paste,
)
from denseteacher.structures import ImageBatch, Targets
from support import image_batch, random_targets

PLAIN = PasteRule(zoom=(1.0, 1.0), largest_side=1.0, most_covered=0.7)


def _bilinear(image, x, y):
    """(3,) the value of a (3, H, W) image at a point, pixel centers at half-integers, edges going on."""
    height, width = image.shape[1:]
    x, y = np.clip(x - 0.5, 0, width - 1), np.clip(y - 0.5, 0, height - 1)
    left, top = int(x), int(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    a, b = x - left, y - top
    upper = (1 - a) * image[:, top, left] + a * image[:, top, right]
    lower = (1 - a) * image[:, bottom, left] + a * image[:, bottom, right]
    return (1 - b) * upper + b * lower


def _cut(image, box, side):
    """The (3, side, side) resized content of a box: each pixel the mean of a grid of samples."""
    left, top, right, bottom = np.minimum(box, [image.shape[2] - 0.5, image.shape[1] - 0.5] * 2)
    width, height = (right - left) / side, (bottom - top) / side
    samples = [math.ceil(width), math.ceil(height)]
    result = np.zeros((3, side, side))
    for row in range(side):
        for column in range(side):
            values = [
                _bilinear(
                    image,
                    left + (column + (i + 0.5) / samples[0]) * width,
                    top + (row + (j + 0.5) / samples[1]) * height,
                )
                for i in range(samples[0])
                for j in range(samples[1])
            ]
            result[:, row, column] = np.mean(values, axis=0)
    return result


def _targets(boxes, labels):
    """One image's boxes."""
    boxes = torch.tensor(boxes, dtype=torch.float32)[None]
    return Targets(boxes, torch.tensor([labels]), torch.ones(1, len(labels), dtype=torch.bool))


def _crops(seed, count, side, *, classes=3, sides=(6, 30)):
    rng = torch.Generator().manual_seed(seed)
    return Crops(
        torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=rng),
        torch.randint(*sides, (count, 2), generator=rng).float(),
        torch.randint(0, classes, (count,), generator=rng),
        torch.rand(count, generator=rng) < 0.5,
        torch.rand(count, generator=rng) < 0.8,
    )


def test_what_is_cut_out_agrees_with_numpy():
    images = image_batch(0, batch=2, height=64, width=64, sizes=[(40, 64), (64, 50)])
    inside = torch.zeros(2, 1, 64, 64, dtype=torch.bool)
    inside[0, :, :40], inside[1, :, :, :50] = True, True
    images = ImageBatch(images.pixels * inside, images.sizes)
    boxes = torch.tensor(
        [
            [[3.0, 4, 11, 12], [0.7, 1.2, 30.9, 39.5], [33, 20, 64, 40], [10, 10, 12, 30]],
            [[20.4, 30.3, 26.1, 60.2], [10, 8, 50, 64], [0, 0, 0, 0], [1, 1, 9, 6]],
        ]
    )
    labels = torch.tensor([[1, 0, 1, 2], [1, 2, 0, 2]])
    mask = torch.tensor([[True, True, True, True], [True, True, False, True]])
    true = torch.tensor([[True], [False]]).expand(2, 4)
    crops = cut_out(images, Targets(boxes, labels, mask), true, classes=3, count=10, side=8)

    assert crops.mask.tolist() == [True] * 6 + [False] * 4
    # the first of each class in order of their images, then the second ones; the box of 2 pixels is too thin
    order = [(0, 0), (0, 1), (1, 1), (0, 2), (1, 3), (1, 0)]
    assert crops.labels[:6].tolist() == [int(labels[place]) for place in order]
    assert crops.true[:6].tolist() == [image == 0 for image, _ in order]
    for index, (image, place) in enumerate(order):
        box = boxes[image, place].double().numpy()
        assert crops.sides[index].tolist() == pytest.approx([box[3] - box[1], box[2] - box[0]], abs=1e-3)
        height, width = images.sizes[image].tolist()
        real = images.pixels[image, :, :height, :width].double().numpy()
        difference = crops.pixels[index].double().numpy() - _cut(real, box, 8)
        assert np.abs(difference).max() <= 0.51, (image, place)
    assert torch.equal(crops.pixels[0], images.pixels[0, :, 4:12, 3:11])  # 8 pixels to 8 pixels: the same bytes
    assert not crops.sides[6:].any()
    few = cut_out(images, Targets(boxes, labels, mask), true, classes=3, count=4, side=8)
    assert torch.equal(few.pixels, crops.pixels[:4])


def test_nothing_to_cut_out():
    images = image_batch(0, batch=1, height=32, width=32)
    empty = Targets(torch.zeros(1, 1, 4), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1, dtype=torch.bool))
    crops = cut_out(images, empty, empty.mask, classes=2, count=3, side=8)
    assert not crops.mask.any()
    bank = empty_bank(2, 4, 8)
    after = deposit(bank, crops)
    assert all(torch.equal(after[name], bank[name]) for name in bank)
    assert not draw(bank, torch.ones(2), torch.rand(5, 2)).mask.any()


def test_the_bank_is_a_ring_for_each_class():
    bank, room = empty_bank(3, 4, 8), 4
    rings = [deque(maxlen=room) for _ in range(3)]
    for seed in range(12):
        crops = _crops(seed, 9, 8)
        before = {name: value.clone() for name, value in bank.items()}
        after = deposit(bank, crops)
        assert all(torch.equal(bank[name], before[name]) for name in bank)
        taken = [0, 0, 0]
        for pixels, sides, label, true, real in zip(*crops, strict=True):
            if real and taken[label] < room:  # more than the ring has room for are left out
                taken[label] += 1
                rings[label].append((pixels, sides, true))
        bank = after
        for label, ring in enumerate(rings):
            stored = bank["sides"][label, :, 0] > 0
            assert int(stored.sum()) == len(ring)
            start = int(bank["next"][label]) if len(ring) == room else 0
            for number, (pixels, sides, true) in enumerate(ring):
                place = (start + number) % room
                assert torch.equal(bank["pixels"][label, place], pixels)
                assert torch.equal(bank["sides"][label, place], sides)
                assert bool(bank["true"][label, place]) == bool(true)


def test_rare_classes_are_drawn_by_their_odds():
    bank = empty_bank(4, 5, 8)
    for label, count in enumerate([5, 0, 2, 1]):  # none of class 1
        bank["sides"][label, :count] = 10.0
        bank["pixels"][label, :count] = torch.arange(count, dtype=torch.uint8)[:, None, None, None]
    odds = torch.tensor([1.0, 50.0, 3.0, 6.0])
    numbers = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(0))
    drawn = draw(bank, odds, numbers)
    assert drawn.mask.all()
    counts = np.bincount(drawn.labels.numpy(), minlength=4) / len(numbers)
    np.testing.assert_allclose(counts, [0.1, 0, 0.3, 0.6], atol=0.02)
    places = drawn.pixels[:, 0, 0, 0]
    for label, stored in ((0, 5), (2, 2), (3, 1)):
        share = np.bincount(places[drawn.labels == label].numpy(), minlength=5) / int((drawn.labels == label).sum())
        np.testing.assert_allclose(share, [1 / stored] * stored + [0] * (5 - stored), atol=0.03)
    again = draw(bank, odds, numbers)
    assert all(torch.equal(one, other) for one, other in zip(drawn, again, strict=True))
    edge = draw(bank, odds, torch.tensor([[0.0, 0.0], [1 - 2**-24, 1 - 2**-24]]))
    assert edge.labels.tolist() == [0, 3]
    assert edge.mask.all()


def _blank(images, targets=None):
    empty = Targets(
        torch.zeros(len(images.sizes), 0, 4),
        torch.zeros(len(images.sizes), 0, dtype=torch.int64),
        torch.zeros(len(images.sizes), 0, dtype=torch.bool),
    )
    targets = targets or empty
    return Collage(images, targets, torch.zeros_like(targets.mask))


def test_pasted_pixels_and_boxes_agree_with_numpy():
    sizes = [(64, 64), (40, 64), (64, 33), (64, 64)]
    images = image_batch(0, batch=4, height=64, width=64, sizes=sizes)
    for image, (height, width) in enumerate(sizes):
        images.pixels[image, :, height:] = 0
        images.pixels[image, :, :, width:] = 0
    untouched = images.pixels.clone()
    crops = _crops(3, 4, 16, sides=(6, 60))._replace(mask=torch.tensor([True, True, True, False]))
    rule = PasteRule(zoom=(0.8, 1.25), largest_side=0.5, most_covered=0.7)
    numbers = torch.rand(4, 3, generator=torch.Generator().manual_seed(1))
    pasted = paste(_blank(images), crops, numbers, rule)
    assert torch.equal(images.pixels, untouched)
    assert torch.equal(pasted.images.sizes, images.sizes)
    assert pasted.targets.mask[:, 0].tolist() == [True, True, True, False]
    assert torch.equal(pasted.targets.labels[:3, 0], crops.labels[:3])
    assert torch.equal(pasted.true[:, 0], crops.true & crops.mask)
    for image, (height, width) in enumerate(sizes[:3]):
        zoom, down, across = numbers[image].double().tolist()
        factor = 0.8 * (1.25 / 0.8) ** zoom
        h, w = (factor * side for side in crops.sides[image].tolist())
        shrink = min(1.0, 0.5 * height / h, 0.5 * width / w)
        h, w = (max(1, round(shrink * side)) for side in (h, w))
        top, left = int(down * (height - h + 1)), int(across * (width - w + 1))
        assert pasted.targets.boxes[image, 0].tolist() == [left, top, left + w, top + h]
        assert left + w <= width
        assert top + h <= height
        expected = untouched[image].double().numpy()
        source = crops.pixels[image].double().numpy()
        for row in range(h):
            for column in range(w):
                expected[:, top + row, left + column] = _bilinear(source, (column + 0.5) / w * 16, (row + 0.5) / h * 16)
        assert np.abs(pasted.images.pixels[image].double().numpy() - expected).max() <= 0.51
        assert not pasted.images.pixels[image, :, height:].any()
        assert not pasted.images.pixels[image, :, :, width:].any()
    assert torch.equal(pasted.images.pixels[3], untouched[3])
    assert not pasted.targets.boxes[3].any()


def test_a_crop_comes_back_as_it_was_cut_out():
    images = image_batch(5, batch=1, height=48, width=48)
    crops = cut_out(
        images, _targets([[7, 9, 23, 25]], [2]), torch.ones(1, 1, dtype=torch.bool), classes=3, count=1, side=16
    )
    bank = deposit(empty_bank(3, 2, 16), crops)
    drawn = draw(bank, torch.ones(3), torch.tensor([[0.3, 0.9]]))
    pasted = paste(
        _blank(image_batch(6, batch=1, height=48, width=48)), drawn, torch.tensor([[0.5, 0.0, 1 - 2**-24]]), PLAIN
    )
    assert pasted.targets.boxes[0, 0].tolist() == [32, 0, 48, 16]
    assert torch.equal(pasted.images.pixels[0, :, :16, 32:], images.pixels[0, :, 9:25, 7:23])


@pytest.mark.parametrize("seed", range(4))
def test_covered_boxes_are_no_longer_learned(seed):
    images = image_batch(seed, batch=6, height=64, width=64)
    targets = random_targets(seed, batch=6, boxes=5, classes=3, extent=60)
    targets = targets._replace(boxes=targets.boxes.round().clamp(0, 64))
    start = Collage(images, targets, torch.rand(6, 5, generator=torch.Generator().manual_seed(seed)) < 0.5)
    rng = torch.Generator().manual_seed(seed)
    collage, areas = start, []
    for number in range(3):
        crops = _crops(10 * seed + number, 6, 8, sides=(20, 50))
        collage = paste(collage, crops, torch.rand(6, 3, generator=rng), PLAIN)
        areas.append(collage.targets.boxes[:, -1])
    assert collage.targets.mask.shape == (6, 8)
    boxes = torch.cat([targets.boxes, torch.stack(areas, dim=1)], dim=1).long().numpy()
    lost = 0
    for image in range(6):
        for row in range(8):
            left, top, right, bottom = boxes[image, row]
            was = bool(targets.mask[image, row]) if row < 5 else right > left
            total = max(0, right - left) * max(0, bottom - top)
            kept = was
            for later in range(max(5, row + 1), 8):
                over = np.zeros((64, 64), dtype=bool)
                x1, y1, x2, y2 = boxes[image, later]
                over[y1:y2, x1:x2] = True
                kept = kept and over[top:bottom, left:right].sum() <= 0.7 * total
            lost += was and not kept
            assert bool(collage.targets.mask[image, row]) == kept
            if not kept:
                assert not collage.targets.boxes[image, row].any()
                assert not collage.true[image, row]
            elif row < 5:
                assert bool(collage.true[image, row]) == bool(start.true[image, row])
                assert torch.equal(collage.targets.boxes[image, row], targets.boxes[image, row])
    assert lost > 0
