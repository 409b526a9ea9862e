import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torchvision.transforms.v2 import functional

from denseteacher.data.augment.weak import (
    EvalView,
    Geometry,
    WeakView,
    fill_canvas,
    pad_batch,
    pad_targets,
    resize_and_flip,
    transform,
)
from denseteacher.data.randomness import Draw
from denseteacher.data.sizes import resized_size


def _noise(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def draws(view, height, width, count, seed=1):
    """What many steps do to the first image of a batch."""
    key = {"seed": seed, "draw": Draw.LABELED_WEAK, "sample": 0}
    return [view.draw(height, width, step=step, **key) for step in range(count)]


@pytest.mark.parametrize(
    ("size", "short", "bound", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1067)),  # 1066.67 is rounded, not cut off
        ((640, 480), 800, 1333, (1067, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((300, 900), 800, 1333, (444, 1333)),  # the long side is at its bound
        ((900, 300), 800, 1333, (1333, 444)),
        ((500, 500), 96, 128, (96, 96)),
        ((4, 2000), 800, 1000, (2, 1000)),
        ((1, 5000), 800, 1000, (1, 1000)),  # no side vanishes
        ((3, 2), 5, 100, (8, 5)),  # halves go up
    ],
)
def test_resized_size(size, short, bound, expected):
    assert resized_size(*size, short, bound) == expected


def test_resized_size_agrees_with_torchvision_up_to_its_cutting_off():
    rng = np.random.default_rng(0)
    for height, width in rng.integers(50, 900, (300, 2)):
        ours = resized_size(int(height), int(width), 400, 600)
        theirs = functional.resize(torch.empty(1, height, width), [400], max_size=600).shape[1:]
        assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= 1
        assert max(ours) <= 600


def test_choice_takes_every_listed_side_equally_often_and_flips_half():
    view = WeakView(short_side=(40, 50, 60), max_side=1000)
    drawn = draws(view, 80, 100, 3000)
    sides, counts = np.unique([geometry.height for geometry in drawn], return_counts=True)
    assert sides.tolist() == [40, 50, 60]
    assert np.abs(counts - 1000).max() < 4 * np.sqrt(3000 * 2 / 9)
    assert abs(sum(geometry.flip for geometry in drawn) - 1500) < 4 * np.sqrt(750)


def test_range_takes_every_integer_between_its_ends():
    view = WeakView(short_side=(80, 112), sampling="range", max_side=1000, flip=0)
    drawn = draws(view, 200, 200, 3000)
    assert {geometry.height for geometry in drawn} == set(range(80, 113))
    assert abs(np.mean([geometry.height for geometry in drawn]) - 96) < 4 * 9.6 / np.sqrt(3000)
    assert not any(geometry.flip for geometry in drawn)


def test_flip_probability_one_always_flips():
    assert all(geometry.flip for geometry in draws(WeakView(flip=1), 10, 10, 100))


def test_settings_do_not_shift_each_others_numbers():
    views = [WeakView(), WeakView(max_side=60), WeakView(short_side=(50, 60), sampling="range", scale_per="batch")]
    flips = [[geometry.flip for geometry in draws(view, 100, 100, 50)] for view in views]
    assert flips[0] == flips[1] == flips[2]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("target", [(150, 201), (61, 83), (100, 133)])
def test_boxes_follow_the_pixels(target, flip):
    image = torch.zeros(3, 100, 133, dtype=torch.uint8)
    boxes = np.array([[11, 20, 61, 53], [80, 60, 130, 97]], dtype=np.float32)
    for channel, (left, top, right, bottom) in enumerate(boxes.astype(int)):
        image[channel, top:bottom, left:right] = 255
    view, moved = transform(image, boxes, Geometry(*target, flip))
    assert view.shape == (3, *target)
    assert view.dtype == torch.uint8
    assert moved.dtype == np.float32
    for channel, box in enumerate(moved):
        mass = view[channel].double() / 255
        # the seen box: as wide as the middle row's mass, centered where the mass is
        center_y, center_x = (
            (mass.sum(dim) * (torch.arange(mass.shape[1 - dim]) + 0.5)).sum() / mass.sum() for dim in (1, 0)
        )
        width = mass[int(center_y)].sum()
        height = mass[:, int(center_x)].sum()
        seen = np.array([center_x - width / 2, center_y - height / 2, center_x + width / 2, center_y + height / 2])
        assert _iou(seen, box) > 0.95


def _iou(one, other):
    sides = np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])
    inside = sides.clip(0).prod()
    return inside / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - inside)


def test_boxes_scale_by_the_real_ratio_of_each_axis():
    _, moved = transform(_noise(30, 70), np.array([[7, 3, 70, 30]], np.float32), Geometry(10, 24, False))
    np.testing.assert_allclose(moved, [[7 * 24 / 70, 1, 24, 10]], rtol=1e-6)


def test_flip_is_exact_and_twice_is_nothing():
    image, boxes = _noise(20, 31), np.array([[1, 2, 10, 12]], np.float32)
    flipped, moved = transform(image, boxes, Geometry(20, 31, True))
    assert torch.equal(flipped, image.flip(2))
    np.testing.assert_array_equal(moved, [[21, 2, 30, 12]])
    again, back = transform(flipped, moved, Geometry(20, 31, True))
    assert torch.equal(again, image)
    np.testing.assert_array_equal(back, boxes)


def test_resize_is_skipped_at_the_right_size():
    image = _noise(40, 60)
    view, _ = transform(image, np.zeros((0, 4), np.float32), Geometry(40, 60, False))
    assert view is image


def apply(view, image, boxes, seed):
    return transform(image, boxes, draws(view, *image.shape[1:], 1, seed)[0])


def test_a_view_is_a_pure_function_of_image_and_generator():
    view = WeakView(short_side=(30, 40, 50), max_side=70)
    image, boxes = _noise(60, 80), np.array([[5, 6, 50, 40]], np.float32)
    image_before, boxes_before = image.clone(), boxes.copy()
    first, second = apply(view, image, boxes, 5), apply(view, image, boxes, 5)
    assert torch.equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert torch.equal(image, image_before)
    np.testing.assert_array_equal(boxes, boxes_before)


def test_no_boxes_stay_no_boxes():
    _, boxes = apply(WeakView(short_side=(30,)), _noise(60, 80), np.zeros((0, 4), np.float32), 0)
    assert boxes.shape == (0, 4)


@pytest.mark.parametrize("flip", [False, True])
def test_the_matrix_says_where_boxes_go(flip):
    boxes = np.array([[5, 6, 50, 40], [0, 0, 80, 60]], np.float32)
    geometry = Geometry(33, 47, flip)
    _, moved = transform(_noise(60, 80), boxes, geometry)
    matrix = geometry.matrix(60, 80).numpy()
    corners = np.stack([boxes[:, [0, 2]], boxes[:, [1, 3]], np.ones((2, 2))], axis=1)  # (n, 3, 2 corners)
    x, y = np.moveaxis(np.einsum("ij,njc->nic", matrix, corners), 1, 0)[:2]
    expected = np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)
    np.testing.assert_allclose(moved, expected, atol=1e-4)


def test_eval_view_has_one_size_and_no_flip():
    image = _noise(60, 80)
    expected = functional.resize(image, [90, 120], antialias=True)
    for _ in range(4):
        assert torch.equal(EvalView(short_side=90, max_side=200).apply(image), expected)
    assert EvalView(short_side=90, max_side=100).apply(image).shape == (3, 75, 100)


@pytest.mark.parametrize(
    "settings",
    [
        {"short_side": ()},
        {"short_side": (0, 10)},
        {"short_side": (10, 20, 30), "sampling": "range"},
        {"short_side": (20, 10), "sampling": "range"},
        {"max_side": 0},
        {"flip": 1.5},
        {"unknown": 1},
    ],
)
def test_wrong_settings_are_refused(settings):
    with pytest.raises(ValidationError):
        WeakView(**settings)


def test_pad_batch_takes_the_smallest_canvas_and_fills_with_zero():
    images = [_noise(33, 40), _noise(20, 65)]
    batch = pad_batch(images)
    assert batch.pixels.shape == (2, 3, 64, 96)
    assert batch.pixels.dtype == torch.uint8
    assert batch.sizes.tolist() == [[33, 40], [20, 65]]
    assert batch.sizes.dtype == torch.int64
    for row, image in zip(batch.pixels, images, strict=True):
        assert torch.equal(row[:, : image.shape[1], : image.shape[2]], image)
        assert int(row.sum()) == int(image.sum())


def test_pad_batch_leaves_full_multiples():
    assert pad_batch([_noise(64, 32)]).pixels.shape == (1, 3, 64, 32)
    assert pad_batch([_noise(65, 32)]).pixels.shape == (1, 3, 96, 32)


def test_how_pixels_lie_in_memory_does_not_matter():
    """Decoders put the three colors of a pixel side by side."""
    image = _noise(50, 70)
    interleaved = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for geometry in (Geometry(50, 70, True), Geometry(40, 56, False), Geometry(100, 140, True)):
        one, other = (fill_canvas([resize_and_flip(own, geometry)], 1, (128, 160)) for own in (image, interleaved))
        assert torch.equal(one, other)
        assert one.is_contiguous()
        assert int(one[0, :, geometry.height :].sum() + one[0, :, :, geometry.width :].sum()) == 0
    with pytest.raises(ValueError, match="broadcast"):
        fill_canvas([image], 1, (48, 96))


def test_a_bucket_holds_every_view_of_its_orientation():
    view = WeakView(short_side=(80, 112), sampling="range", max_side=200, canvas="bucket", scale_per="batch")
    rng = np.random.default_rng(0)
    for step, (height, width) in enumerate(rng.integers(20, 500, (300, 2)).tolist()):
        short = view.step_side(3, step)
        geometry = view.draw(height, width, seed=3, draw=Draw.UNLABELED_WEAK, step=step, sample=0)
        canvas = view.canvas_for([geometry[:2]], short)
        assert canvas[0] >= geometry.height
        assert canvas[1] >= geometry.width
        own = -(-short // 32) * 32
        bounds = {-1: (own, 224), 0: (own, own), 1: (224, own)}
        assert canvas == bounds[int(np.sign(geometry.height - geometry.width))]
    assert view.canvas_for([(90, 90)], 90) == (96, 96)
    assert view.canvas_for([(90, 130), (130, 90)], 90) == (224, 224)
    assert WeakView(canvas="bucket").canvas_for([(640, 900)], WeakView().step_side(0, 0)) == (800, 1344)
    assert WeakView().canvas_for([(640, 900)], 800) == (640, 928)


def test_pad_targets():
    boxes = [np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32), np.zeros((0, 4), np.float32)]
    targets = pad_targets(boxes, [np.array([3, 1]), np.zeros(0, np.int64)])
    assert targets.boxes.tolist() == [[[1, 2, 3, 4], [5, 6, 7, 8]], [[0] * 4] * 2]
    assert targets.labels.tolist() == [[3, 1], [0, 0]]
    assert targets.mask.tolist() == [[True, True], [False, False]]
    assert [field.dtype for field in targets[:3]] == [torch.float32, torch.int64, torch.bool]
    assert targets.ignored is None


def test_pad_targets_has_room_for_one_box_at_least():
    targets = pad_targets([np.zeros((0, 4), np.float32)] * 2, [np.zeros(0, np.int64)] * 2)
    assert targets.boxes.shape == (2, 1, 4)
    assert not targets.mask.any()
