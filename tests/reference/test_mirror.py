"""Mirror images, and predictions on them at the locations of the images, against a slow version."""

import math

import numpy as np
import pytest
import torch

from denseteacher.detectors import FCOS, RetinaNet
from denseteacher.ops.anchors import valid_locations
from denseteacher.ops.boxes import centers, encode_deltas, encode_ltrb
from denseteacher.pseudo_labels.flip_ensemble import mirror_back, mirror_boxes, mirror_images, partners
from denseteacher.structures import DenseOutput
from support import image_batch
from support.closeness import assert_close_to_scale

SMALL = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1}
CPU = torch.device("cpu")
DETECTORS = {
    "fcos": lambda: FCOS(num_classes=2, **SMALL),
    "fcos_half": lambda: FCOS(num_classes=2, location_offset=0.5, **SMALL),
    "retinanet": lambda: RetinaNet(num_classes=2, **SMALL),
}


@pytest.fixture(params=DETECTORS, ids=str)
def detector(request):
    torch.manual_seed(0)
    return DETECTORS[request.param]().eval()


def _partners(detector, images):
    canvas = tuple(images.pixels.shape[-2:])
    anchors = detector.anchors(canvas, CPU)
    index, inside = partners(anchors, images.sizes, detector.shapes(canvas), detector.strides)
    return anchors, index, inside & valid_locations(anchors, images.sizes)


def test_images_are_mirrored_within_their_own_width():
    images = image_batch(0, batch=3, height=6, width=9, sizes=[[6, 9], [5, 4], [6, 1]])
    images.pixels[1, :, :, 4:] = 0
    mirrored = mirror_images(images)
    assert torch.equal(mirrored.pixels[0], images.pixels[0].flip(-1))
    assert torch.equal(mirrored.pixels[1, :, :, :4], images.pixels[1, :, :, :4].flip(-1))
    assert not mirrored.pixels[1, :, :, 4:].any()
    assert torch.equal(mirrored.pixels[2, :, :, 0], images.pixels[2, :, :, 0])
    assert mirrored.pixels.dtype == torch.uint8
    assert torch.equal(mirrored.sizes, images.sizes)
    assert torch.equal(mirror_images(mirrored).pixels, images.pixels)


def test_mirroring_images_changes_no_input():
    images, untouched = (image_batch(0, batch=2, height=8, width=8, sizes=[[8, 8], [8, 5]]) for _ in range(2))
    mirror_images(images)
    assert torch.equal(images.pixels, untouched.pixels)


def test_boxes_are_mirrored_exactly():
    boxes = torch.tensor([[[1.0, 2.0, 5.0, 8.0]], [[1.0, 2.0, 5.0, 8.0]]])
    found = mirror_boxes(boxes, torch.tensor([10, 7]))
    assert found.tolist() == [[[5.0, 2.0, 9.0, 8.0]], [[2.0, 2.0, 6.0, 8.0]]]


@pytest.mark.parametrize("widths", [(96, 64), (90, 37), (96, 33), (20, 16), (68, 84)])
def test_partners_agree_with_a_slow_version(detector, widths):
    images = image_batch(0, batch=2, height=64, width=96, sizes=[[64, widths[0]], [50, widths[1]]])
    anchors, index, valid = _partners(detector, images)
    each = detector.anchors_per_location
    valid_y = centers(anchors)[:, 1] < images.sizes[:, :1]
    start = 0
    for (height, width), stride in zip(detector.shapes((64, 96)), detector.strides, strict=True):
        xs = [(column + getattr(detector.config, "location_offset", 0.0)) * stride for column in range(width)]
        for image, (_, image_width) in enumerate(images.sizes.tolist()):
            for row, column, anchor in np.ndindex(height, width, each):
                place = start + (row * width + column) * each + anchor
                wanted = image_width - xs[column]
                # all columns that the level would have if it went on; the left one of two equally near
                grid = [xs[0] + number * stride for number in range(-2, width + 3)]
                nearest = min(range(len(grid)), key=lambda number: (abs(grid[number] - wanted), number)) - 2
                on_image = xs[column] < image_width and bool(valid_y[image, place])
                expected = on_image and 0 <= nearest < width and xs[nearest] < image_width
                partner = int(index[image, place])
                assert start <= partner < start + height * width * each
                assert bool(valid[image, place]) == expected
                if expected:
                    assert partner == start + (row * width + nearest) * each + anchor
        start += height * width * each


def _output_on(detector, images, values):
    """A prediction whose logits are given numbers of each location."""
    anchors = detector.anchors(tuple(images.pixels.shape[-2:]), CPU)
    count = len(anchors)
    return DenseOutput(
        logits=values.expand(len(images.sizes), count)[..., None].repeat(1, 1, 2),
        deltas=torch.zeros(len(images.sizes), count, 4),
        quality=values.expand(len(images.sizes), count).clone(),
        anchors=anchors,
        valid=valid_locations(anchors, images.sizes),
    )


@pytest.mark.parametrize(("width", "exact"), [(96, True), (64, True), (80, False), (52, False)])
def test_predictions_come_back_to_the_place_that_they_are_about(detector, width, exact):
    images = image_batch(0, batch=1, height=64, width=96, sizes=[[64, width]])
    anchors = detector.anchors((64, 96), CPU)
    x, y = centers(anchors).unbind(1)
    output = _output_on(detector, images, width - x)  # each location says which x of the image it shows
    found = mirror_back(detector, output, images)
    stride = torch.cat(
        [
            torch.full((h * w * detector.anchors_per_location,), float(s))
            for (h, w), s in zip(detector.shapes((64, 96)), detector.strides, strict=True)
        ]
    )
    away = (found.logits[0, :, 0] - x).abs()[found.valid[0]]
    assert len(away) > len(x) / 4
    assert bool((away <= (1e-3 if exact else stride[found.valid[0]] / 2 + 1e-3)).all())
    assert torch.equal(found.quality[0], found.logits[0, :, 0])
    rows = mirror_back(detector, _output_on(detector, images, y), images)
    assert_close_to_scale(rows.logits[0, :, 0][rows.valid[0]], y[rows.valid[0]])


def test_anchors_keep_their_shape(detector):
    images = image_batch(0, batch=1, height=64, width=96)
    anchors, index, _ = _partners(detector, images)
    sides = anchors[:, 2:] - anchors[:, :2]
    assert_close_to_scale(sides[index[0]], sides)


@pytest.mark.parametrize("widths", [(96, 64), (32, 96)])
def test_mirroring_twice_is_the_identity_where_there_is_a_partner(detector, widths):
    images = image_batch(0, batch=2, height=64, width=96, sizes=[[64, width] for width in widths])
    rng = torch.Generator().manual_seed(1)
    anchors = detector.anchors((64, 96), CPU)
    values = torch.randn(2, len(anchors), generator=rng)
    output = _output_on(detector, images, values)
    once = mirror_back(detector, output, images)
    twice = mirror_back(detector, output._replace(logits=once.logits, quality=once.quality), images)
    assert once.valid.any(1).all()
    assert torch.equal(twice.valid, once.valid)
    assert torch.equal(twice.logits[once.valid], output.logits[once.valid])
    assert torch.equal(twice.quality[once.valid], output.quality[once.valid])


def test_partners_are_mutual_whatever_the_width(detector):
    for width in range(1, 97):
        images = image_batch(0, batch=1, height=64, width=96, sizes=[[64, width]])
        anchors, index, valid = _partners(detector, images)
        places = torch.arange(len(anchors))[valid[0]]
        assert valid[0][index[0][places]].all()
        assert torch.equal(index[0][index[0][places]], places)
        fine = detector.anchors_per_location * 8 * 12
        real = centers(anchors)[:fine, 0].round(decimals=2) < width
        assert real.sum() - valid[0, :fine].sum() in (0, fine // 12)  # at most one column has no partner


def test_a_box_of_the_image_is_found_wherever_its_mirror_image_is_predicted(detector):
    """Every location of the mirror image sees the same object: its box comes back exactly, on any grid."""
    box = torch.tensor([13.0, 9.0, 41.0, 30.0])
    for width in (96, 77):
        images = image_batch(0, batch=1, height=64, width=96, sizes=[[64, width]])
        output = _output_on(detector, images, torch.zeros(1))
        seen = mirror_boxes(box[None, None], images.sizes[:, 1]).expand(1, len(output.anchors), 4)
        encode = encode_deltas if isinstance(detector, RetinaNet) else encode_ltrb
        found = mirror_back(detector, output._replace(deltas=encode(seen, output.anchors)), images)
        assert_close_to_scale(found.boxes[found.valid], box.expand(int(found.valid.sum()), 4))


def test_a_symmetric_image_is_its_own_mirror_image(detector):
    images = image_batch(0, batch=2, height=64, width=96, sizes=[[64, 96], [64, 64]])
    pixels = images.pixels.clone()
    pixels[1, :, :, 64:] = 0
    images = images._replace(pixels=torch.maximum(pixels, mirror_images(images._replace(pixels=pixels)).pixels))
    assert torch.equal(mirror_images(images).pixels, images.pixels)
    with torch.no_grad():
        output = detector(mirror_images(images))
        assert torch.equal(detector(images).logits, output.logits)
    found = mirror_back(detector, output, images)
    assert (found.quality is None) == isinstance(detector, RetinaNet)
    canvas = (64, 96)
    start, each = 0, detector.anchors_per_location
    for (height, width), stride in zip(detector.shapes(canvas), detector.strides, strict=True):
        level = output.logits[:, start : start + height * width * each].view(2, height, width, each, -1)
        back = found.logits[:, start : start + height * width * each].view(2, height, width, each, -1)
        valid = found.valid[:, start : start + height * width * each].view(2, height, width, each)
        offset = getattr(detector.config, "location_offset", 0.0)
        for image, size in enumerate((96, 64)):
            first = math.ceil(1 - 2 * offset)  # the column that has no partner where locations lie on the edge
            columns = list(range(first, size // stride))
            assert torch.equal(back[image][:, columns], level[image][:, columns[::-1]])
            assert valid[image][:, columns].all()
            assert not valid[image][:, :first].any()
            assert not valid[image][:, size // stride :].any()
        start += height * width * each


def test_gradients_flow_to_the_predictions(detector):
    images = image_batch(0, batch=1, height=64, width=64)
    output = detector(mirror_images(images))
    found = mirror_back(detector, output, images)
    (found.logits.sum() + found.boxes.sum()).backward()
    assert detector.head.cls.weight.grad.abs().sum() > 0
    assert detector.head.box.weight.grad.abs().sum() > 0
