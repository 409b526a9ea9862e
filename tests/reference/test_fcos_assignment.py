"""Batched FCOS assignment against one location and one box at a time."""

import numpy as np
import pytest
import torch

from denseteacher.detectors.assigners import FCOSAssigner, Locations
from denseteacher.ops.anchors import location_anchors
from denseteacher.ops.assignment import BACKGROUND
from denseteacher.structures import Targets
from support import random_targets

STRIDES = (8, 16, 32)


def anchors_of(side, offset=0.0):
    shapes = [(-(-side // stride),) * 2 for stride in STRIDES]
    return location_anchors(shapes, STRIDES, offset, torch.device("cpu"))


def assign(anchors, targets, **options):
    strides = anchors[:, 2] - anchors[:, 0]
    locations = Locations(anchors, anchors, strides, (strides / strides[0]).log2().long())
    return FCOSAssigner(**options).assign(targets, locations, None)


def reference(anchors, boxes, labels, radius, factor):
    """Labels and boxes of one image, in plain Python."""
    strides = anchors[:, 2] - anchors[:, 0]
    assigned, matched = np.full(len(anchors), -1), np.zeros((len(anchors), 4), dtype=np.float32)
    for n, anchor in enumerate(anchors):
        x, y, stride = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2, strides[n]
        least = 0.0 if stride == strides.min() else factor / 2 * stride
        most = np.inf if stride == strides.max() else factor * stride
        best = np.inf
        for box, label in zip(boxes, labels, strict=True):
            reach = max(x - box[0], y - box[1], box[2] - x, box[3] - y)
            cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
            x1, y1, x2, y2 = box
            if radius > 0:
                x1, x2 = max(x1, cx - radius * stride), min(x2, cx + radius * stride)
                y1, y2 = max(y1, cy - radius * stride), min(y2, cy + radius * stride)
            area = (box[2] - box[0]) * (box[3] - box[1])
            if x1 < x < x2 and y1 < y < y2 and least <= reach <= most and area < best:
                best, assigned[n], matched[n] = area, label, box
    return assigned, matched


def check(anchors, targets, radius=1.5, factor=8.0):
    found = assign(anchors, targets, center_radius=radius, size_factor=factor)
    for image in range(len(targets.boxes)):
        mask = targets.mask[image]
        labels, boxes = reference(
            anchors.numpy(), targets.boxes[image][mask].numpy(), targets.labels[image][mask].numpy(), radius, factor
        )
        assert np.array_equal(found.labels[image].numpy(), labels)
        foreground = labels != BACKGROUND
        assert np.array_equal(found.boxes[image].numpy()[foreground], boxes[foreground])
    return found


@pytest.mark.parametrize("part", range(4))
def test_a_thousand_random_images(part):
    anchors = anchors_of(96)
    foreground = 0
    for seed in range(25):
        radius, factor = [(1.5, 8.0), (0.0, 4.0), (1.5, 2.0), (2.5, 8.0)][part]
        targets = random_targets(1000 * part + seed, batch=10, boxes=6, classes=5)
        found = check(anchors, targets, radius, factor)
        foreground += int((found.labels != BACKGROUND).sum())
    assert foreground > 500  # the comparison was about something


def targets_of(boxes, labels):
    return Targets(
        torch.tensor([boxes], dtype=torch.float32),
        torch.tensor([labels]),
        torch.ones((1, len(labels)), dtype=torch.bool),
    )


def test_no_boxes_is_all_background():
    empty = Targets(torch.zeros(2, 1, 4), torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.bool))
    assert (assign(anchors_of(96), empty).labels == BACKGROUND).all()


def test_the_smaller_of_two_boxes_wins_and_the_first_of_equals():
    anchors = anchors_of(96)
    found = check(anchors, targets_of([[10, 10, 70, 70], [20, 20, 60, 60]], [0, 1]))
    assert (found.labels == 1).any()
    twice = check(anchors, targets_of([[20, 20, 60, 60], [20, 20, 60, 60]], [3, 4]))
    assert set(twice.labels.unique().tolist()) == {BACKGROUND, 3}


def test_locations_on_a_border_are_background():
    # with offset 0 the locations lie on multiples of 8: the box's own border does, its inside does not
    found = check(anchors_of(96), targets_of([[16, 16, 24, 24]], [2]))
    assert (found.labels == BACKGROUND).all()


def test_boxes_that_touch_or_leave_the_image():
    check(
        anchors_of(96),
        targets_of([[0, 0, 40, 40], [60, 60, 96, 96], [-20, 30, 20, 60], [90, 0, 130, 30]], [0, 1, 2, 3]),
    )


def test_the_published_size_ranges():
    anchors = location_anchors(
        [(100, 168), (50, 84), (25, 42), (13, 21), (7, 11)], (8, 16, 32, 64, 128), 0.0, torch.device("cpu")
    )
    strides = anchors[:, 2] - anchors[:, 0]
    for side, stride in ((100, 8), (200, 16), (400, 32), (780, 64)):
        found = assign(anchors, targets_of([[400 - side / 2, 400 - side / 2, 400 + side / 2, 400 + side / 2]], [0]))
        levels = strides[found.labels[0] == 0].unique().tolist()
        assert stride in levels
        assert all(level in (stride, 2 * stride, stride / 2) for level in levels)
