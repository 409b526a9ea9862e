"""RetinaNet's anchors, coding and assignment against torchvision's and against loops in NumPy."""

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import box_iou

from denseteacher.detectors.assigners import Locations, MaxIoUAssigner
from denseteacher.ops.anchors import box_anchors
from denseteacher.ops.assignment import BACKGROUND, IGNORED
from denseteacher.ops.boxes import decode_deltas, encode_deltas
from denseteacher.structures import Targets
from support import random_targets
from support.closeness import assert_close_to_scale

STRIDES = (8, 16, 32)
SIDES, RATIOS = (2.0, 3.0), (0.5, 1.0, 2.0)


def anchors_of(side):
    shapes = [(-(-side // stride),) * 2 for stride in STRIDES]
    return box_anchors(shapes, STRIDES, SIDES, RATIOS, torch.device("cpu"))


def assign(anchors, targets, **options):
    nowhere = torch.zeros(len(anchors))
    return MaxIoUAssigner(**options).assign(targets, Locations(anchors, anchors, nowhere, nowhere.long()), None)


def test_anchors_lie_where_they_are_said_to():
    expected = []
    for stride in STRIDES:
        for y in range(0, 64, stride):
            for x in range(0, 64, stride):
                for ratio in RATIOS:
                    for side in SIDES:
                        width, height = side * stride / np.sqrt(ratio), side * stride * np.sqrt(ratio)
                        expected.append([x - width / 2, y - height / 2, x + width / 2, y + height / 2])
    assert_close_to_scale(anchors_of(64), expected, share=1e-5)


def reference(anchors, boxes, labels, foreground, background):
    """Labels and boxes of one image, one pair at a time, in float64."""
    overlap = np.zeros((len(boxes), len(anchors)))
    for g, box in enumerate(boxes.astype(np.float64)):
        for n, anchor in enumerate(anchors.astype(np.float64)):
            width = max(0.0, min(box[2], anchor[2]) - max(box[0], anchor[0]))
            height = max(0.0, min(box[3], anchor[3]) - max(box[1], anchor[1]))
            area = (box[2] - box[0]) * (box[3] - box[1]) + (anchor[2] - anchor[0]) * (anchor[3] - anchor[1])
            overlap[g, n] = width * height / (area - width * height)
    assigned, matched = np.full(len(anchors), BACKGROUND), np.zeros((len(anchors), 4), dtype=np.float32)
    for n in range(len(anchors) if len(boxes) else 0):
        best = overlap[:, n].argmax()
        rescued = any(overlap[g, n] > 0 and overlap[g, n] >= overlap[g].max() - 1e-6 for g in range(len(boxes)))
        if overlap[best, n] >= foreground or rescued:
            assigned[n], matched[n] = labels[best], boxes[best]
        elif overlap[best, n] >= background:
            assigned[n] = IGNORED
    return assigned, matched


def test_assignment_equals_a_slow_version():
    anchors = anchors_of(64)
    seen = set()
    for seed in range(12):
        targets = random_targets(seed, batch=3, boxes=4, classes=5, extent=64)
        found = assign(anchors, targets, foreground_iou=0.5, background_iou=0.4)
        for image, mask in enumerate(targets.mask):
            boxes, labels = targets.boxes[image][mask].numpy(), targets.labels[image][mask].numpy()
            expected, matched = reference(anchors.numpy(), boxes, labels, 0.5, 0.4)
            # pairs of equal overlap up to rounding may fall either way
            assert (found.labels[image].numpy() != expected).sum() <= 2
            both = (found.labels[image].numpy() >= 0) & (expected >= 0)
            assert np.array_equal(found.boxes[image].numpy()[both], matched[both])
            seen |= {IGNORED, BACKGROUND, 0} & set(expected.tolist())
    assert seen == {IGNORED, BACKGROUND, 0}


@pytest.mark.parametrize("seed", range(20))
def test_assignment_equals_torchvisions_matcher(seed):
    anchors = anchors_of(96)
    targets = random_targets(seed, batch=2, boxes=6, classes=3)
    found = assign(anchors, targets)
    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    for image, mask in enumerate(targets.mask):
        if not mask.any():
            assert (found.labels[image] == BACKGROUND).all()
            continue
        overlap = box_iou(targets.boxes[image][mask], anchors)
        seen = overlap.amax(1) > 0  # a box that no anchor touches: torchvision takes all anchors for it
        index = matcher(overlap[seen]) if seen.any() else torch.full((len(anchors),), -1)
        labels = targets.labels[image][mask][seen]
        expected = torch.where(index >= 0, labels[index.clamp(min=0)] if len(labels) else index, index)
        assert torch.equal(found.labels[image], expected)


def test_a_box_that_no_anchor_touches_takes_none():
    far = Targets(torch.tensor([[[900.0, 900, 950, 950]]]), torch.tensor([[1]]), torch.tensor([[True]]))
    assert (assign(anchors_of(64), far).labels == BACKGROUND).all()


def test_padded_rows_are_never_assigned():
    anchors = anchors_of(64)
    padded = Targets(anchors[None, :3].clone(), torch.tensor([[2, 1, 0]]), torch.zeros(1, 3, dtype=torch.bool))
    assert (assign(anchors, padded).labels == BACKGROUND).all()


def test_coding_equals_torchvisions():
    anchors = anchors_of(64)
    rng = torch.Generator().manual_seed(0)
    corner = torch.rand((len(anchors), 2), generator=rng) * 60
    boxes = torch.cat((corner, corner + 1 + torch.rand((len(anchors), 2), generator=rng) * 60), dim=1)
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    deltas = encode_deltas(boxes, anchors)
    assert_close_to_scale(deltas, coder.encode_single(boxes, anchors))
    assert_close_to_scale(decode_deltas(deltas, anchors), boxes)
    wild = torch.randn((len(anchors), 4), generator=rng) * 4
    assert_close_to_scale(decode_deltas(wild, anchors), coder.decode_single(wild, anchors))
    assert encode_deltas(torch.zeros_like(boxes), anchors).isfinite().all()
