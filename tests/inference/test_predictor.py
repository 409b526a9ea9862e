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
from denseteacher.inference.predictor import Predictor
from denseteacher.structures import Detections
from support import image_batch


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


@pytest.fixture
def detector_file(predictor, tmp_path):
    save_detector(tmp_path / "detector.safetensors", predictor.detector.state_dict(), predictor.card)
    return tmp_path / "detector.safetensors"


def test_bf16_is_of_the_network_alone(predictor, detector_file):
    rounded = Predictor.load(detector_file, precision="bf16")
    batch = image_batch(0, batch=2, height=64, width=96)
    with torch.no_grad():
        output, wanted = rounded.detector(batch), predictor.detector(batch)
    assert {value.dtype for value in output[:4]} == {torch.float32}
    assert torch.equal(output.anchors, wanted.anchors)
    assert not torch.equal(output.logits, wanted.logits)
    torch.testing.assert_close(output.logits, wanted.logits, rtol=0.02, atol=0.02)
    found = rounded.predict([picture()])[0]
    assert {found.boxes.dtype, found.scores.dtype} == {torch.float32}
    torch.testing.assert_close(found.scores, predictor.predict([picture()])[0].scores, rtol=0.02, atol=0.01)


@pytest.mark.parametrize(("pays", "precision"), [(True, "bf16"), (False, "fp32")])
def test_the_precision_auto_asks_the_machine(detector_file, monkeypatch, pays, precision):
    monkeypatch.setattr("denseteacher.ops.precision.bf16_pays_on_cpu", lambda: pays)
    assert Predictor.load(detector_file, device=torch.device("cpu"), precision="auto").precision == precision
    assert Predictor.load(detector_file, device=torch.device("cpu")).precision == "fp32"


def test_the_command_takes_a_precision(detector_file, call, tmp_path):
    Image.fromarray(picture()).save(tmp_path / "one.png")
    found = []
    for precision in ("fp32", "bf16"):
        options = ("--precision", precision, "--output", tmp_path / precision)
        code, _, err = call("predict", detector_file, tmp_path / "one.png", *options)
        assert (code, err) == (0, "")
        found.append((tmp_path / precision / "predictions.json").read_text())
    assert found[0] != found[1]
    code, _, err = call(
        "predict", detector_file, tmp_path / "one.png", "--precision", "fp8", "--output", tmp_path / "x"
    )
    assert code == 2
    assert "fp8" in err


def test_a_compiled_network_says_the_same(detector_file, monkeypatch):
    real, graphs = torch.compile, []

    def keep(graph, inputs):
        graphs.append(graph)
        return graph.forward

    # dynamo does its part, but nothing is translated to C++: that takes a minute
    monkeypatch.setattr(torch, "compile", lambda call, **options: real(call, backend=keep, fullgraph=True, **options))
    compiled = Predictor.load(detector_file, precision="bf16", compile=True).predict([picture()])[0]
    assert len(graphs) == 1
    wanted = Predictor.load(detector_file, precision="bf16").predict([picture()])[0]
    assert all(torch.equal(one, other) for one, other in zip(compiled, wanted, strict=True))


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
