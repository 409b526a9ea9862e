"""What the analyses look at: labels at the size that the detector sees, and marks where locations are."""

import json

import numpy as np
import pytest
import torch

from conftest import write_coco
from denseteacher.analysis.material import Material
from denseteacher.analysis.truth import read_truth
from denseteacher.data.records import Category
from denseteacher.detectors import DetectorCard
from denseteacher.inference.predictor import Predictor
from made_up import make_detector

CATEGORIES = [Category(2, "red"), Category(5, "green"), Category(11, "blue")]


@pytest.fixture
def material(tmp_path):
    detector = make_detector("fcos")
    card = DetectorCard(
        detector=detector.config,
        categories=tuple((category.id, category.name) for category in CATEGORIES),
        short_side=48,
        max_side=96,
    )
    truth = read_truth(write_coco(tmp_path / "data", 5), categories=CATEGORIES)
    return Material(Predictor(detector, card, device=torch.device("cpu")), truth, batch=2)


def test_boxes_and_crowds_move_with_their_images(material, tmp_path):
    content = json.loads((tmp_path / "data" / "annotations.json").read_text())
    batches = list(material)
    assert [len(seen.images.sizes) for seen in batches] == [2, 2, 1]
    for place, image in enumerate(sorted(content["images"], key=lambda one: one["id"])):
        seen, row = batches[place // 2], place % 2
        height, width = seen.images.sizes[row].tolist()
        assert min(height, width) == 48
        x, y = width / image["width"], height / image["height"]
        own = [one for one in content["annotations"] if one["image_id"] == image["id"]]
        for targets, crowd in ((seen.objects, 0), (seen.ignored, 1)):
            boxes = [one["bbox"] for one in own if one["iscrowd"] == crowd]
            expected = [[left * x, top * y, (left + w) * x, (top + h) * y] for left, top, w, h in boxes]
            assert targets.mask[row].sum() == len(boxes)
            found = targets.boxes[row][targets.mask[row]].numpy()
            np.testing.assert_allclose(found, np.reshape(expected, (-1, 4)), atol=1e-3)


def test_a_limit_takes_images_from_the_whole_set(material):
    few = material.truth.spread(3)
    assert [image.id for image in few.objects.images] == [10, 30, 50]
    assert [image.id for image in few.ignored.images] == [10, 30, 50]
    assert len(few.ignored.boxes[0]) == 1
    assert len(material.truth.spread(100).objects.images) == 5
