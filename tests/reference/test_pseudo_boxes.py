"""Pseudo-boxes against a plain NumPy version, image by image, and against final detections."""

import numpy as np
import pytest
import torch

from denseteacher.detectors import FCOS
from denseteacher.ops.boxes import clip_boxes
from denseteacher.pseudo_labels.boxes import pseudo_boxes
from support import image_batch
from support.closeness import assert_close_to_scale


def _iou(one, others):
    lower, upper = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    overlap = np.prod(np.clip(upper - lower, 0, None), axis=1)
    area = np.prod(one[2:] - one[:2])
    return overlap / np.maximum(area + np.prod(others[:, 2:] - others[:, :2], axis=1) - overlap, 1e-12)


def _reference(boxes, scores, size, threshold, nms_threshold, max_boxes):
    height, width = size
    boxes = np.clip(boxes, 0, [width, height, width, height])
    kept = []
    for label in range(scores.shape[1]):
        left = [index for index in np.argsort(-scores[:, label]) if scores[index, label] > threshold]
        while left:
            first, *left = left
            kept.append((scores[first, label], label, boxes[first]))
            overlaps = _iou(boxes[first], boxes[left]) if left else []
            left = [index for index, overlap in zip(left, overlaps, strict=True) if overlap <= nms_threshold]
    return sorted(kept, key=lambda row: -row[0])[:max_boxes]


def _random(seed, batch=3, locations=60, classes=4):
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand(batch, locations, 2, generator=rng) * 80 - 10
    boxes = torch.cat([corner, corner + 5 + torch.rand(batch, locations, 2, generator=rng) * 30], dim=2)
    return boxes, torch.rand(batch, locations, classes, generator=rng), torch.tensor([[64, 80], [80, 50], [40, 40]])


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("threshold", "max_boxes"), [(0.0, 100), (0.5, 100), (0.9, 100), (0.3, 5)])
def test_agrees_with_numpy(seed, threshold, max_boxes):
    boxes, scores, sizes = _random(seed)
    found = pseudo_boxes(boxes, scores, sizes, threshold=threshold, nms_threshold=0.6, max_boxes=max_boxes)
    assert found.boxes.shape[1] == max(1, int(found.mask.sum(1).max()))
    for index in range(3):
        expected = _reference(
            boxes[index].double().numpy(), scores[index].numpy(), sizes[index].numpy(), threshold, 0.6, max_boxes
        )
        mask = found.mask[index]
        assert int(mask.sum()) == len(expected)
        assert mask[: len(expected)].all()
        assert found.labels[index][mask].tolist() == [label for _, label, _ in expected]
        if expected:
            assert_close_to_scale(found.boxes[index][mask], np.stack([box for *_, box in expected]), share=1e-5)
        assert not found.boxes[index][~mask].any()


def test_nothing_above_the_threshold():
    boxes, scores, sizes = _random(0)
    found = pseudo_boxes(boxes, scores * 0.1, sizes, threshold=0.5, nms_threshold=0.6)
    assert found.boxes.shape == (3, 1, 4)
    assert not found.mask.any()


def test_is_what_thresholded_detections_are():
    torch.manual_seed(0)
    detector = FCOS(num_classes=3, backbone="test_byobnet", levels=(3, 5), channels=16, head_convs=1, score_floor=0.0)
    with torch.no_grad():
        detector.head.cls.bias += 4
        detector.head.cls.weight *= 30
        images = image_batch(1, batch=2, height=96, width=96, sizes=[(96, 80), (64, 96)])
        output = detector.eval()(images)
    uncut, (height, width) = detector.decode_boxes, images.sizes[:, :, None, None].float().unbind(1)
    detector.decode_boxes = lambda output: clip_boxes(uncut(output), height, width)
    detections = detector.detect(output, images.sizes)
    threshold = float(detections[0].scores[5:7].mean())
    found = pseudo_boxes(*detector.decode(output)[:2], images.sizes, threshold=threshold, nms_threshold=0.6)
    assert found.mask[0].sum() == 6
    for index, detected in enumerate(detections):
        sure = detected.scores > threshold
        mask = found.mask[index]
        assert_close_to_scale(found.boxes[index][mask], detected.boxes[sure])
        assert torch.equal(found.labels[index][mask], detected.labels[sure])
