"""What images of hundreds of boxes take: memory that does not grow with the most crowded one."""

import functools

import pytest
import torch

from denseteacher.check.cost import _peak
from denseteacher.detectors import FCOSConfig, RetinaNetConfig, shape_detector
from denseteacher.pseudo_labels.missing_labels import unlabeled_objects
from denseteacher.structures import DenseOutput, Targets

META = torch.device("meta")
IMAGES = 4
MOST = 2**29
"""Bytes. All pairs of a box and a location in one tensor take a fifth of that on FCOS, and twice that on RetinaNet."""


def predictions(detector):
    """Shapes of the predictions on images of 800 x 1344."""
    anchors = detector.anchors((800, 1344), META)
    shape = (IMAGES, len(anchors))
    return DenseOutput(
        torch.zeros((*shape, 3), device=META),
        torch.zeros((*shape, 4), device=META),
        None,
        anchors,
        torch.zeros(shape, dtype=torch.bool, device=META),
    )


def peak(work, detector):
    """Bytes at 300 boxes an image, some of them regions to ignore."""
    mask = torch.zeros((IMAGES, 300), dtype=torch.bool, device=META)
    targets = Targets(torch.zeros((IMAGES, 300, 4), device=META), mask.long(), mask, ignored=mask)
    output = predictions(detector)
    assert output.logits.shape[1] == 22_400 * detector.anchors_per_location
    return _peak(functools.partial(work, detector, output, targets))


def built(kind, **options):
    return shape_detector(kind(backbone="test_byobnet", channels=16, head_convs=1, **options), 3)


KINDS = pytest.mark.parametrize("kind", [FCOSConfig, RetinaNetConfig], ids=["fcos", "retinanet"])


@pytest.mark.parametrize("name", ["fcos", "max_iou", "atss", "asa", "tal"])
@KINDS
def test_assigning_takes_bounded_memory(kind, name):
    detector = built(kind, assigner={"name": name})
    work = lambda detector, output, targets: detector.assignment(targets, output.anchors, output)  # noqa: E731
    assert peak(work, detector) < MOST
    if name == "max_iou":  # that of all others is an assignment
        assert peak(lambda detector, output, targets: detector.fitting(targets, output.anchors), detector) < MOST


@KINDS
def test_looking_for_unlabeled_objects_takes_bounded_memory(kind):
    sure = torch.zeros(IMAGES, device=META)
    work = lambda detector, output, targets: unlabeled_objects(detector, output, targets, sure)  # noqa: E731
    assert peak(work, built(kind)) < MOST
