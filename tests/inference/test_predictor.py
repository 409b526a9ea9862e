"""Prediction from paths, arrays and PIL images, in the image's own pixels."""

import numpy as np
import pytest
import torch
from PIL import Image

import denseteacher
from denseteacher.detectors import FCOS, DetectorCard, save_detector
from denseteacher.errors import InputError
from denseteacher.inference.draw import class_color, draw_detections
from denseteacher.inference.folder import find_images
from denseteacher.structures import Detections


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    torch.manual_seed(0)
    detector = FCOS(num_classes=2, backbone="test_byobnet", levels=(3, 5), channels=16, head_convs=1)
    with torch.no_grad():
        detector.head.cls.bias += 4  # an untrained head that sees something everywhere
    file = tmp_path_factory.mktemp("detector") / "detector.safetensors"
    card = DetectorCard(detector=detector.config, categories=((3, "cat"), (7, "dog")), short_side=64, max_side=96)
    save_detector(file, detector.state_dict(), card)
    return denseteacher.load(file)


def picture(height=50, width=100, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_all_kinds_of_input_give_the_same(predictor, tmp_path):
    array = picture()
    Image.fromarray(array).save(tmp_path / "one.png")
    found = predictor.predict([tmp_path / "one.png", str(tmp_path / "one.png"), array, Image.fromarray(array)])
    assert len(found) == 4
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
    assert len(found[0].boxes) > 0
    assert found[0].boxes[:, 0::2].max() <= 100
    assert found[0].boxes[:, 1::2].max() <= 50
    assert predictor.class_names == ["cat", "dog"]


def test_the_batch_size_does_not_matter(predictor):
    images = [picture(seed=seed) for seed in range(3)]
    alone, together = predictor.predict(images, batch_size=1), predictor.predict(images, batch_size=3)
    for one, other in zip(alone, together, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 4), np.uint8)]
)
def test_other_arrays_are_explained(predictor, array):
    with pytest.raises(InputError, match="uint8 RGB of shape"):
        predictor.predict([array])


def test_no_images_no_detections(predictor):
    assert predictor.predict([]) == []


def test_drawing_marks_only_what_scores(tmp_path):
    image = Image.new("RGB", (60, 60))
    found = Detections(torch.tensor([[10.0, 20, 40, 50], [0, 0, 5, 5]]), torch.tensor([0.9, 0.2]), torch.tensor([1, 0]))
    drawn = np.asarray(draw_detections(image, found, ["a", "b"]))
    assert tuple(drawn[50, 25]) == class_color(1)
    assert not drawn[:6, :4].any()
    assert not np.asarray(image).any()


def test_images_are_found_by_file_folder_and_pattern(tmp_path):
    for name in ("a.png", "b.JPG", "sub/c.webp", "sub/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [file.name for file in find_images([str(tmp_path)])] == ["a.png", "b.JPG", "c.webp"]
    assert [file.name for file in find_images([str(tmp_path / "*.png"), str(tmp_path / "a.png")])] == ["a.png"]
    with pytest.raises(InputError, match="there are no images at"):
        find_images([str(tmp_path / "*.gif")])
