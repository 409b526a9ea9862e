"""What a detector says of a half-size view lies where, and is made of what, its predictions on the full view are."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from denseteacher.detectors import FCOS, DetectorCard, RetinaNet, load_detector, save_detector
from denseteacher.detectors.half_view import half_size
from denseteacher.detectors.initial_weights import InitialWeights, take_over
from denseteacher.detectors.pieces import ForwardInPieces
from denseteacher.errors import InputError
from denseteacher.recipes.schema import load_recipe
from denseteacher.structures import take
from support import image_batch
from support.closeness import assert_close_to_scale

SMALL = {"num_classes": 3, "backbone": "test_byobnet", "channels": 16, "head_convs": 1, "head_norm": "group"}
LEVELS = [(3, 5), (3, 7), (4, 6)]
CANVASES = [(64, 96), (32, 32), (160, 96), (50, 37), (33, 96)]


@pytest.fixture(params=[FCOS, RetinaNet])
def build(request):
    def made(**options):
        torch.manual_seed(0)
        return request.param(**(SMALL | {"finer_level": True, "levels": (3, 5)} | options))

    return made


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("canvas", CANVASES)
def test_locations_of_the_half_are_those_of_the_whole(build, levels, canvas):
    """A detector one level finer, on the canvas of the half: its anchors, times 2, are the anchors of the whole."""
    height, width = canvas
    offset = {"location_offset": 0.5} if build().__class__ is FCOS else {}
    detector = build(levels=levels, **offset).eval()
    below = build(levels=(levels[0] - 1, levels[1] - 1), finer_level=False, **offset)
    half = half_size(image_batch(0, batch=1, height=height, width=width))
    own = tuple(half.pixels.shape[-2:])
    assert own == (-(-height // 2), -(-width // 2))
    assert below.shapes(own) == detector.shapes(canvas)
    assert torch.equal(below.anchors(own, torch.device("cpu")) * 2, detector.anchors(canvas, torch.device("cpu")))
    features = detector.features(half, finer=True)
    assert [tuple(level.shape[-2:]) for level in features] == detector.shapes(canvas)


def test_half_size_takes_the_nearest_pixel():
    images = image_batch(0, batch=2, height=33, width=64, sizes=[[33, 50], [20, 64]])
    half = half_size(images)
    whole = images.pixels.numpy()
    for row in range(17):
        for column in range(32):
            assert np.array_equal(half.pixels[:, :, row, column], whole[:, :, 2 * row, 2 * column])
    even = image_batch(1, batch=1, height=64, width=96).pixels
    nearest = F.interpolate(even.float(), scale_factor=0.5, mode="nearest")
    assert torch.equal(half_size(image_batch(1, batch=1, height=64, width=96)).pixels.float(), nearest)
    assert half.sizes.tolist() == [[17, 25], [10, 32]]


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("extra_from", ["pyramid", "backbone"])
def test_predictions_on_the_half_are_made_one_level_down(build, levels, extra_from):
    """By hand: laterals of five features, a sum from the top, the same output, extra convolutions and head."""
    detector = build(levels=levels, extra_from=extra_from).eval()
    images = image_batch(0, batch=3, height=64, width=96, sizes=[[64, 96], [40, 70], [64, 33]])
    with torch.no_grad():
        found = detector(images, 2)
        half = half_size(take(images, slice(1, None)))
        pixels = (half.pixels.float() - detector.mean) / detector.std
        for one, (height, width) in zip(pixels, half.sizes.tolist(), strict=True):
            one[:, height:], one[:, :, width:] = 0, 0
        body = dict(zip([2, 4, 8, 16, 32], detector.backbone.body(pixels), strict=True))
        fpn, finer = detector.backbone.fpn, detector.backbone.finer.own
        strides = [2**level for level in range(levels[0] - 1, min(levels[1], 5) + 1)]
        laterals, outputs = [*finer.inner_blocks, *fpn.inner_blocks], [*finer.layer_blocks, *fpn.layer_blocks]
        merged = [lateral(body[stride]) for lateral, stride in zip(laterals, strides, strict=True)]
        for level in range(len(merged) - 2, -1, -1):
            rows, columns = merged[level].shape[-2:]
            merged[level] += merged[level + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :rows, :columns]
        pyramid = [output(level) for output, level in zip(outputs, merged, strict=True)]
        if levels[1] > 5:
            pyramid.append(detector.backbone.extra[0](body[32] if extra_from == "backbone" else pyramid[-1]))
        expected = detector.head(pyramid[: levels[1] - levels[0] + 1])
        whole = detector(images)
    assert_close_to_scale(found.logits[3:], expected[0])
    assert_close_to_scale(found.deltas[3:], expected[1])
    if found.quality is not None:
        assert_close_to_scale(found.quality[3:], expected[2])
    for name in ("logits", "deltas"):
        assert_close_to_scale(getattr(found, name)[:3], getattr(whole, name))
    assert torch.equal(found.anchors, whole.anchors)
    assert torch.equal(found.valid, torch.cat((whole.valid, whole.valid[1:])))
    assert not torch.allclose(found.logits[3:], found.logits[1:3], atol=1e-3)


def test_the_half_changes_no_statistics_and_the_whole_changes_them_once(build):
    alone, both = build(), build()
    both.load_state_dict(alone.state_dict())
    images = image_batch(0, batch=2, height=64, width=64)
    alone(images), both(images, 2)
    for (name, one), other in zip(alone.state_dict().items(), both.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    fresh = build().state_dict()
    assert any(not torch.equal(fresh[name], value) for name, value in both.state_dict().items())


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("canvases", [None, ((64, 96), (32, 64), (64, 96), (64, 64), (32, 64))])
def test_halves_come_in_their_places_however_a_batch_is_cut(build, parts, canvases):
    detector = build(freeze_batch_norm=True)
    images = image_batch(3, batch=5, height=64, width=96, sizes=[[64, 96], [30, 60], [64, 90], [50, 64], [32, 40]])
    expected = detector(images, 3)
    found = ForwardInPieces(detector, parts)(images._replace(canvases=canvases), 3)
    assert found.logits.shape == expected.logits.shape
    assert torch.equal(found.valid, expected.valid)
    if canvases is None:
        assert_close_to_scale(found.logits, expected.logits)
        assert_close_to_scale(found.deltas, expected.deltas)
    else:
        for row, (height, width) in enumerate((*canvases, *canvases[2:])):
            image = row if row < 5 else row - 3
            one = take(images, slice(image, image + 1))
            own = detector(one._replace(pixels=one.pixels[..., :height, :width]), 1).logits[int(row >= 5)]
            inside = found.logits[row].amax(-1) > -19
            assert_close_to_scale(found.logits[row][inside], own)
    found.logits.sum().backward()
    assert all(value.grad is not None for value in detector.backbone.finer.parameters())


def test_a_level_that_is_not_used_gets_a_gradient_of_zero_and_changes_nothing(build):
    images = image_batch(0, batch=2, height=64, width=64)
    with_level, without = build(), build(finer_level=False)
    own = without.state_dict()
    with_level.load_state_dict(own | {key: value for key, value in with_level.state_dict().items() if key not in own})
    one, other = with_level(images), without(images)
    assert torch.equal(one.logits, other.logits)
    assert torch.equal(one.deltas, other.deltas)
    sum(part.sum() for part in one[:3] if part is not None).backward()
    assert all(not value.grad.any() for value in with_level.backbone.finer.parameters())
    assert all(value.grad is not None for value in with_level.parameters() if value.requires_grad)


def test_a_detector_file_keeps_the_level_and_a_detector_without_it_can_be_begun_from(build, tmp_path):
    detector = build()
    card = DetectorCard(detector=detector.config, categories=((1, "a"), (2, "b"), (3, "c")), short_side=64, max_side=96)
    save_detector(tmp_path / "detector.safetensors", detector.state_dict(), card)
    again, _ = load_detector(tmp_path / "detector.safetensors")
    assert again.config.finer_level
    images = image_batch(0, batch=1, height=64, width=64)
    with torch.no_grad():
        assert torch.equal(again(images, 1).logits, detector.eval()(images, 1).logits)
    without = build(finer_level=False)
    names = ("a", "b", "c")
    initial = InitialWeights("a file", tmp_path / "detector.safetensors", without.config, names, without.state_dict())
    fresh = [value.clone() for value in detector.backbone.finer.parameters()]
    assert len(take_over(detector, initial, names).classes) == 3
    assert torch.equal(detector.backbone.fpn.inner_blocks[0][0].weight, without.backbone.fpn.inner_blocks[0][0].weight)
    assert all(torch.equal(*pair) for pair in zip(detector.backbone.finer.parameters(), fresh, strict=True))


def test_what_can_not_be_is_said():
    with pytest.raises(InputError, match=r"detector\.finer_level needs features of stride 2, but backbone 'test_conv"):
        FCOS(num_classes=2, backbone="test_convnext", levels=(2, 5), finer_level=True)
    with pytest.raises(InputError, match=r"method\.half_view needs a pyramid level .*detector\.finer_level=true"):
        load_recipe("digits", ["method.half_view=true"])
    recipe = load_recipe("digits", ["method.half_view=true", "detector.finer_level=true"])
    assert recipe.method.needs_finer_level
