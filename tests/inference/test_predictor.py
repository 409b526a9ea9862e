"""Prediction from paths, arrays and PIL images, in the image's own pixels."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import denseteacher
from denseteacher.detectors import FCOS, DetectorCard, save_detector
from denseteacher.errors import InputError
from denseteacher.evaluation.evaluator import detect_batch
from denseteacher.inference import predictor as predictor_module
from denseteacher.inference.inputs import batches_by_shape
from denseteacher.inference.predict import find_images
from denseteacher.inference.predictor import Predictor
from denseteacher.structures import Detections
from denseteacher.visualization.boxes import class_color, draw_detections
from support import image_batch
from support.closeness import assert_close_to_scale, assert_same_detections


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    torch.manual_seed(0)
    detector = FCOS(num_classes=2, backbone="test_byobnet", levels=(3, 5), channels=16, head_convs=1)
    with torch.no_grad():
        detector.head.cls.bias += 4  # an untrained head that sees something everywhere,
        detector.head.cls.weight *= 30  # and not everywhere the same: equal scores have no order
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
        assert torch.equal(found[0].labels, other.labels)
        assert_close_to_scale(other.boxes, found[0].boxes)  # images of a batch may differ in their last bit
        assert_close_to_scale(other.scores, found[0].scores)
    assert len(found[0].boxes) > 0
    assert found[0].boxes[:, 0::2].max() <= 100
    assert found[0].boxes[:, 1::2].max() <= 50
    assert predictor.class_names == ["cat", "dog"]


def test_the_batch_size_does_not_matter(predictor):
    images = [picture(seed=seed) for seed in range(3)]
    alone, together = predictor.predict(images, batch_size=1), predictor.predict(images, batch_size=3)
    for one, other in zip(alone, together, strict=True):
        assert_same_detections(one, other)


def test_batches_are_of_similar_shapes_and_hold_every_image_once():
    rng = np.random.default_rng(0)
    sizes = [(int(h), int(w)) for h, w in rng.integers(20, 200, (700, 2))]
    asked = []

    def size(position):
        asked.append(position)
        return sizes[position]

    batches = batches_by_shape(len(sizes), size, 8)
    first = next(batches)
    assert sorted(asked) == list(range(32 * 8))  # what is far ahead is not opened yet
    batches = [first, *batches]
    assert sorted(position for batch in batches for position in batch) == sorted(asked) == list(range(700))
    assert [len(batch) for batch in batches] == [8] * 87 + [4]

    def spread(groups):
        shapes = [[sizes[position][0] / sizes[position][1] for position in group] for group in groups]
        return np.mean([np.ptp(np.log(group)) for group in shapes])

    in_order = [list(range(700))[start : start + 8] for start in range(0, 700, 8)]
    assert spread(batches) < 0.2 * spread(in_order)
    assert list(batches_by_shape(5, lambda _: (30, 40), 2)) == [[0, 1], [2, 3], [4]]


def test_shapes_that_alternate_are_computed_without_padding(predictor, monkeypatch):
    images = [picture(*((64, 96) if seed % 2 else (96, 64)), seed) for seed in range(8)]
    images[4] = Image.fromarray(images[4])
    alone = [predictor.predict([image])[0] for image in images]
    canvases = []

    def counted(detector, batch, *arguments):
        canvases.append(tuple(batch.pixels.shape))
        return detect_batch(detector, batch, *arguments)

    monkeypatch.setattr(predictor_module, "detect_batch", counted)
    together = predictor.predict(images, batch_size=2)
    assert sorted(canvases) == [(2, 3, 64, 96)] * 2 + [(2, 3, 96, 64)] * 2  # 96 x 96 in the order given
    for one, other in zip(alone, together, strict=True):
        assert_same_detections(one, other)


def test_the_command_keeps_the_order_of_the_images(detector_file, call, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(11):
        size = (64, 96) if number % 3 else (96, 64)
        Image.fromarray(picture(*size, number)).save(folder / f"{number:02d}.png")
    (folder / "05.png").write_bytes((folder / "05.png").read_bytes()[:300])
    (folder / "08.png").write_text("no image")
    code, out, err = call("predict", detector_file, folder, "--output", tmp_path / "out")
    assert code == 1
    assert err.index("05.png is damaged") < err.index("08.png can't be read")
    assert "in 9 images" in out
    infos = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    results = json.loads((tmp_path / "out" / "predictions.json").read_text())
    names = [folder / f"{number:02d}.png" for number in range(11) if number not in (5, 8)]
    assert [info["file_name"] for info in infos] == list(map(str, names))
    assert [info["id"] for info in infos] == [1, 2, 3, 4, 5, 7, 8, 10, 11]
    assert [info["height"] for info in infos] == [Image.open(name).height for name in names]
    ids = [result["image_id"] for result in results]
    assert ids == sorted(ids)
    assert set(ids) == {info["id"] for info in infos}
    expected = Predictor.load(detector_file).predict([names[3]])[0]
    own = [result for result in results if result["image_id"] == 4]
    class_index = {3: 0, 7: 1}
    corners = [[x, y, x + width, y + height] for x, y, width, height in (result["bbox"] for result in own)]
    fields = (corners, [result["score"] for result in own], [class_index[result["category_id"]] for result in own])
    assert_same_detections(fields, expected, share=1e-3)  # the file has rounded numbers
    assert len(list((tmp_path / "out" / "pictures").iterdir())) == 9


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
    assert_close_to_scale(output.logits, wanted.logits, share=0.05)  # bf16 keeps 8 bits
    assert_close_to_scale(output.deltas, wanted.deltas, share=0.05)
    found = rounded.predict([picture()])[0]
    assert {found.boxes.dtype, found.scores.dtype} == {torch.float32}


def test_a_cpu_computes_in_bf16_only_where_asked(detector_file):
    cpu = torch.device("cpu")
    assert Predictor.load(detector_file, device=cpu, precision="auto").precision == "fp32"
    assert Predictor.load(detector_file, device=cpu, precision="bf16").precision == "bf16"


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
    assert len(graphs) == 2  # the network's, after that of the function that tries the compiler
    wanted = Predictor.load(detector_file, precision="bf16").predict([picture()])[0]
    assert len(wanted.scores) >= 10
    assert_same_detections(compiled, wanted, share=0.02)  # bf16 keeps 8 bits


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
