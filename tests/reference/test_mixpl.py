"""MixPL: which images are mixed, where they lie, what is erased and remembered, and what each part's loss is."""

import numpy as np
import pytest
import torch

from denseteacher.data.augment.layers import PatchRule, draw_patches
from denseteacher.data.randomness import further_uniforms
from denseteacher.detectors import FCOS, RetinaNet
from denseteacher.methods import MixPL
from denseteacher.pseudo_labels.image_cache import empty_cache, with_images
from denseteacher.structures import METHOD_RANDOM, ImageBatch, Targets, chunk, take
from support import image_batch, semi_batch, student_and_teacher
from support.closeness import assert_close_to_scale

HOST = torch.device("cpu")
MEAN = np.array([124.0, 116.0, 104.0])[:, None, None]
HEIGHT, WIDTH = 64, 96
METHOD = MixPL(cache_side=96, cache_boxes=4)


def numbers(count, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random((count, METHOD_RANDOM), dtype=np.float32))


def sized_images(seed, count, height=HEIGHT, width=WIDTH):
    """Images of many sizes in the upper left of one canvas."""
    rng = np.random.default_rng(seed)
    sizes = np.stack([rng.integers(20, height + 1, count), rng.integers(20, width + 1, count)], axis=1)
    images = image_batch(seed, batch=count, height=height, width=width, sizes=sizes.tolist())
    for pixels, (rows, columns) in zip(images.pixels, sizes, strict=True):
        pixels[:, rows:] = 0
        pixels[:, :, columns:] = 0
    return images


def boxes_on(images, seed, boxes=3):
    """Boxes inside of the images, some missing."""
    rng = np.random.default_rng(seed)
    sides = images.sizes.numpy()[:, None, ::-1]
    corner = rng.uniform(0, 0.7, (len(sides), boxes, 2)) * sides
    extent = rng.uniform(0.2, 1.0, (len(sides), boxes, 2)) * (sides - corner)
    mask = rng.random((len(sides), boxes)) < 0.8
    xyxy = np.concatenate([corner, corner + extent], axis=2) * mask[..., None]
    labels = rng.integers(0, 3, mask.shape) * mask
    return Targets(torch.from_numpy(xyxy).float(), torch.from_numpy(labels), torch.from_numpy(mask))


def full_cache(seed=5, side=96):
    images = sized_images(seed, 8, 64, side)
    return with_images(empty_cache(8, side, 4), images, boxes_on(images, seed, 4))


# --- the transcription -----------------------------------------------------------------------------------


def patches_by_hand(sides, drawn, most, largest):
    height, width = sides
    patches = []
    for index in range(1 + int(drawn[0] * most)):
        size, across, down = (float(value) for value in drawn[1 + 3 * index : 4 + 3 * index])
        rows, columns = int(height * (size * largest)), int(width * (size * largest))
        left, top = int(across * (width - columns)), int(down * (height - rows))
        patches.append((left, top, left + columns, top + rows))
    return patches


def resized(image, scale, sides):
    """An image above the mean color, sampled bilinearly, with the mean color around it."""
    ringed = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    result = np.zeros((3, *sides))
    for row in range(sides[0]):
        y = (row + 0.5) / scale + 0.5
        for column in range(sides[1]):
            x = (column + 0.5) / scale + 0.5
            top, left = int(np.floor(y)), int(np.floor(x))
            for j, down in ((top, 1 - (y - top)), (top + 1, y - top)):
                for i, across in ((left, 1 - (x - left)), (left + 1, x - left)):
                    if j < ringed.shape[1] and i < ringed.shape[2]:
                        result[:, row, column] += down * across * ringed[:, j, i]
    return result


def rounded(value):
    return int(np.round(value))


def layer_by_hand(image, boxes, room, place, drawn, *, mirrored, rule):
    """One image fitted into ``room`` if mirrored, at a place, on a canvas; and its boxes that are still seen."""
    height, width = image.shape[1:]
    scale = min(room[0] / height, room[1] / width) if mirrored else 1.0
    sides = rounded(height * scale), rounded(width * scale)
    top, left = place(sides)
    small = resized(image - MEAN, scale, sides) if mirrored else image - MEAN
    if mirrored:
        small = small[:, :, ::-1].copy()
    patches = patches_by_hand(sides, drawn, rule.most, rule.largest_side)
    for x1, y1, x2, y2 in patches:
        small[:, y1:y2, x1:x2] = 0
    canvas = np.zeros((3, HEIGHT, WIDTH))
    canvas[:, top : top + sides[0], left : left + sides[1]] = small
    seen = []
    for box, label in boxes:
        x1, y1, x2, y2 = (value * scale for value in box)
        if mirrored:
            x1, x2 = sides[1] - x2, sides[1] - x1
        x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, sides[1]), min(y2, sides[0])
        hidden = sum(
            max(0, min(x2, right) - max(x1, start)) * max(0, min(y2, bottom) - max(y1, upper))
            for start, upper, right, bottom in patches
        )
        if min(x2 - x1, y2 - y1) >= 2 and hidden < rule.most_covered * (x2 - x1) * (y2 - y1):
            seen.append(([x1 + left, y1 + top, x2 + left, y2 + top], label))
    return canvas, seen, sides, (top, left)


def one_image(images, targets, row):
    height, width = images.sizes[row].tolist()
    pixels = images.pixels[row, :, :height, :width].double().numpy()
    boxes = [
        (box.tolist(), int(label))
        for box, label, there in zip(targets.boxes[row], targets.labels[row], targets.mask[row], strict=True)
        if there
    ]
    return pixels, boxes


def of_cache(state, place):
    images = ImageBatch(state["pixels"], state["sizes"])
    return one_image(images, Targets(state["boxes"], state["labels"], state["mask"]), place)


def assert_image(images, targets, row, values, seen, size):
    assert images.sizes[row].tolist() == list(size)
    expected = np.floor(values + MEAN + 0.5)
    expected[:, size[0] :] = 0
    expected[:, :, size[1] :] = 0
    assert np.abs(images.pixels[row].double().numpy() - expected).max() <= 1
    mask = targets.mask[row]
    assert targets.labels[row, mask].tolist() == [label for _, label in seen]
    np.testing.assert_allclose(
        targets.boxes[row, mask].numpy(), np.array([box for box, _ in seen]).reshape(-1, 4), atol=1e-3
    )
    assert not targets.boxes[row, ~mask].any()


# --- what is mixed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 19])
def test_patches_are_drawn_as_published(most):
    rule = PatchRule(most, 0.1, 0.7)
    rng = np.random.default_rng(most)
    drawn = rng.random((200, rule.numbers), dtype=np.float32)
    drawn[0], drawn[1] = 0, 1 - 2**-24
    sides = rng.integers(1, 900, (200, 2))
    found = draw_patches(torch.from_numpy(sides).double(), torch.from_numpy(drawn), rule).numpy()
    counts = []
    for row in range(200):
        expected = patches_by_hand(sides[row].tolist(), drawn[row].astype(np.float64), most, 0.1)
        counts.append(len(expected))
        assert found[row, : len(expected)].tolist() == [list(patch) for patch in expected]
        assert not found[row, len(expected) :].any()
    assert (min(counts), max(counts)) == (1, most)


@pytest.mark.parametrize("seed", range(2))
def test_mixup_is_half_of_each_at_places_of_their_own(seed):
    strong = sized_images(seed + 20, 5)
    targets, state = boxes_on(strong, seed), full_cache(seed)
    rule = METHOD.rule._replace(largest_side=0.6)
    method = METHOD.model_copy(update={"patch_side": 0.6})
    chance = method.chance(numbers(5, seed), HOST)
    images, joined = method.mixup(strong, targets, state, chance)
    lost = 0
    for row in range(5):
        own, boxes = one_image(strong, targets, row)
        other, their_boxes = of_cache(state, int(chance.partners[row]))
        offsets = chance.offsets[row].double().tolist()
        scale = min(HEIGHT / other.shape[1], WIDTH / other.shape[2])
        fitted = [rounded(other.shape[1] * scale), rounded(other.shape[2] * scale)]
        whole = [max(own.shape[1], fitted[0]), max(own.shape[2], fitted[1])]

        def somewhere(shares, whole=whole):
            return lambda sides: [int(s * (w - side + 1)) for s, w, side in zip(shares, whole, sides, strict=True)]

        drawn = chance.patches[:, row].double().numpy()
        room = (HEIGHT, WIDTH)
        first = layer_by_hand(own, boxes, room, somewhere(offsets[:2]), drawn[0], mirrored=False, rule=rule)
        second = layer_by_hand(other, their_boxes, room, somewhere(offsets[2:]), drawn[1], mirrored=True, rule=rule)
        assert_image(images, joined, row, (first[0] + second[0]) / 2, first[1] + second[1], whole)
        lost += len(boxes) + len(their_boxes) - len(first[1]) - len(second[1])
    assert lost > 0


@pytest.mark.parametrize("seed", range(4))
def test_a_mosaic_is_four_images_around_one_point(seed):
    state = full_cache(seed)
    chance = METHOD.chance(numbers(5, seed), HOST)
    images, joined = METHOD.mosaic(sized_images(0, 5), state, chance)
    shares = [(0.5 + 0.5 * float(share)) / 2 for share in chance.tile_sides]
    room = (int(shares[0] * HEIGHT), int(shares[1] * WIDTH))
    parts = [of_cache(state, int(place)) for place in chance.tiles]
    scales = [min(room[0] / pixels.shape[1], room[1] / pixels.shape[2]) for pixels, _ in parts]
    sides = [
        (rounded(pixels.shape[1] * scale), rounded(pixels.shape[2] * scale))
        for (pixels, _), scale in zip(parts, scales, strict=True)
    ]
    middle = max(side[0] for side in sides), max(side[1] for side in sides)
    values, seen = np.zeros((3, HEIGHT, WIDTH)), []
    for tile, ((pixels, boxes), side) in enumerate(zip(parts, sides, strict=True)):
        corner = middle[0] - side[0] * (tile < 2), middle[1] - side[1] * (tile % 2 == 0)
        drawn = chance.tile_patches[tile].double().numpy()
        found = layer_by_hand(
            pixels, boxes, room, lambda _, corner=corner: corner, drawn, mirrored=True, rule=METHOD.rule
        )
        values += found[0]
        seen += found[1]
    assert len(seen) > 2
    assert_image(images, joined, 0, values, seen, (2 * middle[0], 2 * middle[1]))


def test_partners_are_the_oldest_and_tiles_the_newest_of_the_cache():
    seen = set()
    for seed in range(40):
        chance = MixPL().chance(numbers(4, seed), HOST)
        assert sorted(chance.partners.tolist()) == [0, 1, 2, 3]
        assert sorted(chance.tiles.tolist()) == [4, 5, 6, 7]
        seen.add((tuple(chance.partners.tolist()), tuple(chance.tiles.tolist())))
    assert len(seen) > 35
    counts = MixPL().chance(numbers(16, 1), HOST).partners.bincount(minlength=8)
    assert counts.tolist() == [2] * 8


def test_further_numbers_are_uniform_and_of_their_row_alone():
    given = numbers(50)
    found = further_uniforms(given, 400)
    assert torch.equal(further_uniforms(given[7:9], 400), found[7:9])
    assert abs(float(found.mean()) - 0.5) < 0.01
    assert abs(float(found.var()) - 1 / 12) < 0.002
    assert found.min() >= 0
    assert found.max() < 1
    assert abs(np.corrcoef(found.numpy()[:2])[0, 1]) < 0.2


# --- what is remembered ----------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [2, 3, 8, 16])
def test_the_cache_holds_the_latest_images_in_their_order(batch):
    cache, expected = empty_cache(8, 96, 4), []
    for seed in range(6):
        images = sized_images(seed, batch)
        targets = boxes_on(images, seed, 3)
        before = {name: value.clone() for name, value in cache.items()}
        after = with_images(cache, images, targets)
        assert all(torch.equal(cache[name], before[name]) for name in cache)
        cache = after
        for row in range(0, batch, max(1, batch // 8)):
            expected.append((images.pixels[row], images.sizes[row], targets.boxes[row], targets.mask[row]))
        for place, one in enumerate(expected[-8:], start=8 - len(expected[-8:])):
            assert torch.equal(cache["pixels"][place, :, :HEIGHT, :WIDTH], one[0])
            assert torch.equal(cache["sizes"][place], one[1])
            assert torch.equal(cache["boxes"][place, :3], one[2])
            assert torch.equal(cache["mask"][place, :3], one[3])
            assert not cache["mask"][place, 3:].any()
        assert not cache["sizes"][: max(0, 8 - len(expected))].any()


def test_larger_images_are_shrunk_with_their_boxes():
    images = sized_images(3, 8)
    targets = boxes_on(images, 3)
    cache = with_images(empty_cache(8, 40, 2), images, targets)
    assert cache["sizes"].amax() == 40
    for row in range(8):
        pixels, _ = one_image(images, targets, row)
        scale = min(1, 40 / max(pixels.shape[1:]))
        sides = rounded(pixels.shape[1] * scale), rounded(pixels.shape[2] * scale)
        assert cache["sizes"][row].tolist() == list(sides)
        expected = np.floor(resized(pixels - MEAN, scale, sides) + MEAN + 0.5)
        found = cache["pixels"][row].double().numpy()
        assert np.abs(found[:, : sides[0], : sides[1]] - expected).max() <= 1
        assert not found[:, sides[0] :].any()
        assert not found[:, :, sides[1] :].any()
        best = [box for place, box in enumerate(targets.boxes[row]) if targets.mask[row, place] and place < 2]
        kept = cache["boxes"][row][cache["mask"][row]]
        assert len(kept) == len(best)
        for one, box in zip(kept, best, strict=True):
            assert_close_to_scale(one, box * scale)


# --- what is learned -------------------------------------------------------------------------------------


@pytest.fixture(params=[FCOS, RetinaNet])
def pair(request):
    student, teacher = student_and_teacher(request.param)
    with torch.no_grad():
        teacher.head.cls.bias += 3
        teacher.head.cls.weight *= 2 / teacher(image_batch(5, batch=2, height=64, width=64)).logits.std()
    return student, teacher


def task_of(method, pair, batch, state):
    with torch.no_grad():
        output = pair[1](batch.unlabeled.weak)
        return method.student_task(pair[0], output, batch.labeled, batch.unlabeled, state)


def test_until_the_cache_is_full_strong_views_are_shown_as_they_are(pair):
    method = MixPL(burn_in=1, threshold=0.3, cache=4, cache_side=64, patch_side=0.0)
    batch, state = semi_batch(unlabeled=3), method.initial_state(classes=3, unlabeled=20)
    task = task_of(method, pair, batch, state)
    assert torch.equal(task.images.pixels[:3], batch.unlabeled.strong.pixels)
    on_mixed, on_mosaic = task.loss.args[1:]
    assert on_mixed.mask.any()
    assert not on_mosaic.mask.any()
    expected = method.box_losses(pair[0], on_mixed, None, pair[0](batch.unlabeled.strong))
    assert_close_to_scale(task.loss(pair[0](task.images)), expected)
    second = task_of(method, pair, semi_batch(1, unlabeled=3), task.state)  # it has three images before
    again = task_of(method, pair, semi_batch(2, unlabeled=3), second.state)
    assert again.loss.args[2].mask.any()
    assert not torch.equal(again.images.pixels[:3], batch.unlabeled.strong.pixels)


def test_each_part_has_a_normalizer_of_its_own(pair):
    method = MixPL(burn_in=1, threshold=0.3, cache=4, cache_side=64)
    batch = semi_batch(unlabeled=4)
    state = task_of(method, pair, batch, method.initial_state(classes=3, unlabeled=20)).state
    task = task_of(method, pair, batch, state)
    assert len(task.images.sizes) == 5
    output = pair[0](task.images)
    mixed, mosaic = chunk(output, [4, 1])
    on_mixed, on_mosaic = task.loss.args[1:]
    own, its = pair[0].supervised_losses(mixed, on_mixed), pair[0].supervised_losses(mosaic, on_mosaic)
    assert_close_to_scale(task.loss(output), {name: 2 * own[name] + 2 * 0.5 * its[name] for name in own})


def test_a_part_without_boxes_has_no_loss(pair):
    method = MixPL()
    targets = boxes_on(image_batch(0, batch=3, height=64, width=64), 3)
    assert targets.mask[0].any()
    none = targets._replace(mask=torch.zeros_like(targets.mask))
    output = pair[0](image_batch(0, batch=4, height=64, width=64))
    one, last = chunk(output, [3, 1])
    first = method.part_losses(pair[0], targets, take(none, slice(0, 1)), output)
    second = method.part_losses(pair[0], none, take(targets, slice(0, 1)), output)
    assert_close_to_scale(first, method.box_losses(pair[0], targets, None, one))
    expected = method.box_losses(pair[0], take(targets, slice(0, 1)), None, last)
    assert_close_to_scale(second, {name: value / 2 for name, value in expected.items()})
    assert not sum(method.part_losses(pair[0], none, take(none, slice(0, 1)), output).values())


def test_canvases_of_their_own_hold_what_is_mixed():
    strong = sized_images(1, 4)
    sizes = torch.tensor([[32, 60], [30, 64], [60, 90], [50, 96]])
    strong = strong._replace(sizes=sizes, canvases=((32, 64), (32, 64), (64, 96), (64, 96)))
    chance = METHOD.chance(numbers(4), HOST)
    images, _ = METHOD.mixup(strong, boxes_on(strong, 0), full_cache(), chance)
    assert images.canvases == strong.canvases
    assert (images.sizes <= torch.tensor(images.canvases)).all()
    mosaic, _ = METHOD.mosaic(strong._replace(canvases=strong.canvases[::-1]), full_cache(), chance)
    assert mosaic.canvases == ((32, 64),)
    assert (mosaic.sizes <= torch.tensor([32, 64])).all()


def test_tiles_are_two_shares():
    with pytest.raises(ValueError, match="mosaic_tile must be two shares above 0"):
        MixPL(mosaic_tile=(0.9, 0.5))
