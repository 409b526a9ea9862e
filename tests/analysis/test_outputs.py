"""What the analyses look at: labels at the size that the detector sees, and marks where locations are."""

import json

import numpy as np
import pytest
import torch

from conftest import write_coco
from denseteacher.analysis.outputs import DetectorOutputs
from denseteacher.analysis.truth import read_truth
from denseteacher.data.formats import AnnotationSource
from denseteacher.data.records import Category
from denseteacher.detectors import DetectorCard
from denseteacher.inference.predictor import Predictor
from support.analysis_batches import make_detector

CATEGORIES = [Category(2, "red"), Category(5, "green"), Category(11, "blue")]


@pytest.fixture
def outputs(tmp_path):
    detector = make_detector("fcos")
    card = DetectorCard(
        detector=detector.config,
        categories=tuple((category.id, category.name) for category in CATEGORIES),
        short_side=48,
        max_side=96,
    )
    truth = read_truth(AnnotationSource(write_coco(tmp_path / "data", 5)), categories=CATEGORIES)
    return DetectorOutputs(Predictor(detector, card, device=torch.device("cpu")), truth, batch_size=2)


def test_boxes_and_crowds_move_with_their_images(outputs, tmp_path):
    content = json.loads((tmp_path / "data" / "annotations.json").read_text())
    batches = list(outputs)
    assert [len(batch.images.sizes) for batch in batches] == [2, 2, 1]
    for place, image in enumerate(sorted(content["images"], key=lambda one: one["id"])):
        batch, row = batches[place // 2], place % 2
        height, width = batch.images.sizes[row].tolist()
        assert min(height, width) == 48
        x, y = width / image["width"], height / image["height"]
        own = [one for one in content["annotations"] if one["image_id"] == image["id"]]
        for targets, crowd in ((batch.objects, 0), (batch.ignored, 1)):
            boxes = [one["bbox"] for one in own if one["iscrowd"] == crowd]
            expected = [[left * x, top * y, (left + w) * x, (top + h) * y] for left, top, w, h in boxes]
            assert targets.mask[row].sum() == len(boxes)
            found = targets.boxes[row][targets.mask[row]].numpy()
            np.testing.assert_allclose(found, np.reshape(expected, (-1, 4)), atol=1e-3)


def test_a_limit_takes_images_from_the_whole_set(outputs):
    few = outputs.truth.spread(3)
    assert [image.id for image in few.objects.images] == [10, 30, 50]
    assert [image.id for image in few.ignored.images] == [10, 30, 50]
    assert len(few.ignored.boxes[0]) == 1
    assert len(outputs.truth.spread(100).objects.images) == 5
