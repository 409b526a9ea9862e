"""From predictions to detections as published, against a version that looks at one pair after the other."""

import numpy as np
import pytest
import torch

from denseteacher.detectors import FCOS, RetinaNet
from denseteacher.ops.postprocess import non_maximum_suppression
from support import image_batch
from support.closeness import assert_close_to_scale

SMALL = {"num_classes": 3, "backbone": "test_byobnet", "levels": (3, 6), "channels": 16, "head_convs": 1}
SIZES = [[96, 128], [70, 50]]
OPTIONS = {"score_floor": 0.3, "max_detections": 120, "nms_threshold": 0.5}


@pytest.fixture(params=[FCOS, RetinaNet])
def detector(request):
    torch.manual_seed(0)
    detector = request.param(**SMALL, **OPTIONS, top_k=60).eval()
    with torch.no_grad():
        detector.head.cls.weight *= 3 / detector(image_batch(0, batch=2, height=96, width=128)).logits.std()
        detector.head.cls.bias.fill_(0.5)  # most pairs are above the floor
        detector.head.box.weight *= 40  # boxes that reach out of the image, and some without area
        detector.head.box.bias.zero_()
    return detector


def _iou(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    both = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared
    return shared / both if both > 0 else 0.0


def _detect(detector, output, image, *, cut_first=False, pairs_of_all=False):
    """The published order: candidates of each level, NMS, the best of all classes, the cut, and no empty boxes."""
    height, width = SIZES[image]
    decoded = detector.decode(output)
    boxes, scores = decoded.boxes[image].double().numpy(), decoded.scores[image].numpy()
    classes = (output.logits[image].sigmoid() * output.valid[image, :, None]).numpy()
    levels, valid = detector.levels(output.anchors).numpy(), output.valid[image].numpy()

    def cut(box):
        return np.array([min(max(value, 0), bound) for value, bound in zip(box, (width, height) * 2, strict=True)])

    candidates = []
    for level in np.unique(levels):
        places = np.flatnonzero(levels == level)
        most = min(60, len(places) * 3 if pairs_of_all else int(valid[places].sum()))
        pairs = sorted(((classes[n, c], n, c) for n in places for c in range(3)), reverse=True)[:most]
        candidates += [(scores[n, c], n, c) for score, n, c in pairs if score > 0.3]
    kept = []
    for score, n, c in sorted(candidates, reverse=True):
        box = cut(boxes[n]) if cut_first else boxes[n]
        if all(other != c or _iou(box, rival) <= 0.5 for _, other, rival in kept):
            kept.append((score, c, box))
    found = [(score, c, cut(box)) for score, c, box in kept[:120]]
    return [one for one in found if cut_first or (one[2][2:] > one[2][:2]).all()]


def test_detections_are_the_published_ones(detector):
    with torch.no_grad():
        output = detector(image_batch(0, batch=2, height=96, width=128, sizes=SIZES))
        found = detector.detect(output, torch.tensor(SIZES))
    for image, own in enumerate(found):
        expected = _detect(detector, output, image)
        assert len(expected) > 10
        assert own.labels.tolist() == [c for _, c, _ in expected]
        assert_close_to_scale(own.scores, np.array([score for score, _, _ in expected]))
        assert_close_to_scale(own.boxes, np.stack([box for _, _, box in expected]), scale=100)


@pytest.mark.parametrize("other", ["cut_first", "pairs_of_all"])
def test_the_order_and_the_count_decide_something_here(detector, other):
    """The test above can tell this order from the one that other libraries have."""
    with torch.no_grad():
        output = detector(image_batch(0, batch=2, height=96, width=128, sizes=SIZES))
    for image in range(2):
        ours, others = _detect(detector, output, image), _detect(detector, output, image, **{other: True})
        assert [one[:2] for one in ours] != [one[:2] for one in others]


def test_a_class_never_suppresses_another_one():
    """Boxes reach over the image's edges: one in the upper left corner, others everywhere."""
    boxes = torch.tensor([[400.0, 400, 500, 500], [-99, -99, 2, 2], [-98, -99, 3, 3], [-600, -10, -480, 90]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 1, 1, 2])
    options = {"size": (500, 500), "iou_threshold": 0.5, "max_detections": 10}
    found = non_maximum_suppression(boxes, scores, labels, **options)
    assert_close_to_scale(found.scores, [0.9, 0.8])  # the third is the second's, the last is outside
    assert found.boxes.tolist() == [[400, 400, 500, 500], [0, 0, 2, 2]]
    rng = torch.Generator().manual_seed(0)
    for classes in (2, 20):
        corners = torch.rand((200, 2), generator=rng) * 500 - 100
        boxes = torch.cat((corners, corners + torch.rand((200, 2), generator=rng) * 200 + 5), 1)
        scores, labels = torch.rand(200, generator=rng), torch.randint(classes, (200,), generator=rng)
        options["max_detections"] = 1000
        together = non_maximum_suppression(boxes, scores, labels, **options)
        alone = [
            non_maximum_suppression(boxes[labels == one], scores[labels == one], labels[labels == one], **options)
            for one in range(classes)
        ]
        order = torch.cat([one.scores for one in alone]).argsort(descending=True)
        for one, other in zip(together, map(torch.cat, zip(*alone, strict=True)), strict=True):
            assert torch.equal(one, other[order])
