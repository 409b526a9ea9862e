"""Exported detectors say what PyTorch's say, and need no torch to do so."""

import json
import re
import subprocess
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

import denseteacher
from denseteacher.detectors import FCOS, GFL, DetectorCard, RetinaNet, save_detector
from denseteacher.errors import InputError, RunError
from denseteacher.inference import export as export_module
from denseteacher.inference.export import DenseNetwork, DetectionNetwork, export_onnx
from denseteacher.inference.onnx_predictor import METADATA_KEY, OnnxPredictor, _resize
from support import image_batch
from support.closeness import assert_close_to_scale, assert_same_detections

CATEGORIES = ((2, "red"), (5, "green"), (11, "blue"))
TINY = {"num_classes": 3, "backbone": "test_byobnet", "channels": 16}
BUILD = {
    "fcos": lambda **options: FCOS(**TINY, levels=(4, 6), head_convs=1, **options),
    "retinanet": lambda **options: RetinaNet(**TINY, levels=(4, 5), head_convs=0, anchor_scale=2.0, **options),
    "gfl": lambda **options: GFL(**TINY, levels=(4, 5), head_convs=0, coding={"bins": 6}, **options),
    "aligned": lambda **options: FCOS(
        **TINY, levels=(4, 6), head_convs=1, align="fam3d", cls_loss="joint", finer_level=True, **options
    ),
}


BATCHES = {
    "one": image_batch(1, batch=1, height=64, width=96),
    "padding": image_batch(2, batch=3, height=96, width=64, sizes=[[96, 64], [70, 64], [33, 40]]),
    "smallest": image_batch(3, batch=1, height=32, width=32),
    "large": image_batch(4, batch=2, height=160, width=224, sizes=[[160, 200], [150, 224]]),
}


def build(name, seed=0, **options):
    """A detector with random weights whose scores are spread over all of [0, 1], and its boxes over all sizes."""
    torch.manual_seed(seed)
    detector = BUILD[name](**options).eval()
    with torch.no_grad():
        logits = detector(BATCHES["large"]).logits
        scale = 2 / logits.std()
        detector.head.cls.weight *= scale
        detector.head.cls.bias.fill_(-1)
        detector.head.box.weight *= 30
        if detector.head.align is not None:
            for shift in (detector.head.align.levels, detector.head.align.places):
                shift.weight.normal_()
            detector.head.quality.bias.fill_(3)  # scores are products
    return detector


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Detector files of all kinds, and the ONNX file of FCOS; a second one with NMS would take long to trace."""
    folder = tmp_path_factory.mktemp("export")
    for name in BUILD:
        detector = build(name, score_floor=0.3, top_k=60, max_detections=30)
        card = DetectorCard(
            detector=detector.config, categories=CATEGORIES, short_side=64, max_side=96, trained={"AP": 41.5}
        )
        save_detector(folder / f"{name}.safetensors", detector.state_dict(), card)
    export_onnx(folder / "fcos.safetensors", folder / "fcos.onnx")
    return folder


def assert_detected(expected, rows, counts):
    for detections, own, count in zip(expected, rows, counts, strict=True):
        assert_same_detections((own[:count, :4], own[:count, 4], own[:count, 5]), detections)
        assert not own[count:].any()


@pytest.mark.parametrize("batch", BATCHES.values(), ids=BATCHES)
def test_a_file_detects_what_the_detector_detects(folder, batch):
    detector = denseteacher.load(folder / "fcos.safetensors").detector
    with torch.no_grad():
        expected = detector.detect(detector(batch), batch.sizes)
    assert len(expected[0].scores) >= 3
    session = onnxruntime.InferenceSession(folder / "fcos.onnx")
    assert_detected(expected, *session.run(None, {"pixels": batch.pixels.numpy(), "sizes": batch.sizes.numpy()}))


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"max_detections": 3}, {"nms_threshold": 0.05}, {"top_k": 9000}])
def test_the_traced_network_detects_what_the_detector_detects(name, options):
    detector = build(name, seed=1, score_floor=0.4, **options)
    batch = BATCHES["padding"]
    with torch.no_grad():
        expected = detector.detect(detector(batch), batch.sizes)
        rows, counts = DetectionNetwork(detector)(*batch[:2])
    assert_detected(expected, rows, counts)
    assert len(expected[0].scores) >= 3


@pytest.mark.parametrize("name", ["fcos", "retinanet"])  # GFL's boxes hold their location, which is on the image
def test_boxes_of_which_the_cut_leaves_nothing_are_no_detections(name):
    detector = build(name, seed=2, score_floor=0.3, max_detections=60, nms_threshold=0.9)
    with torch.no_grad():
        if name == "fcos":
            detector.head.box.bias.zero_()  # of both rectified distances left and right, or up and down, many are 0
        else:
            detector.head.box.bias.view(-1, 4)[::2, 0] = 3.0  # many lie right of the image
        batch = BATCHES["padding"]
        output = detector(batch)
        boxes = detector.decode(output).boxes
        empty = boxes[..., 0] >= boxes[..., 2].clamp(max=batch.sizes[:, 1:])
        expected = detector.detect(output, batch.sizes)
        rows, counts = DetectionNetwork(detector)(*batch[:2])
    assert (empty & (output.logits.sigmoid().amax(-1) > 0.3)).sum() > 5
    assert all((found.boxes[:, 2:] > found.boxes[:, :2]).all() for found in expected)
    assert_detected(expected, rows, counts)
    assert sum(len(found.scores) for found in expected) >= 3


def test_a_file_without_nms_gives_every_location(folder, tmp_path, call):
    code, out, err = call("export", folder / "retinanet.safetensors", "--no-nms", "--output", tmp_path / "new/all.onnx")
    assert (code, err) == (0, "")
    assert re.fullmatch(re.escape(f"{tmp_path / 'new/all.onnx'}: ") + r"1\.\d MiB of ONNX\n", out)
    detector = denseteacher.load(folder / "retinanet.safetensors").detector
    session = onnxruntime.InferenceSession(tmp_path / "new/all.onnx")
    for batch in BATCHES.values():
        boxes, scores = session.run(None, {"pixels": batch.pixels.numpy(), "sizes": batch.sizes.numpy()})
        with torch.no_grad():
            output = detector(batch)
            wanted, _ = DenseNetwork(detector)(*batch[:2])
        assert_close_to_scale(boxes, wanted, what="boxes")
        assert_close_to_scale(scores, detector.decode(output).scores, what="scores")
        for index, (height, width) in enumerate(batch.sizes.tolist()):
            own = detector.decode(output).boxes[index].numpy()
            assert_close_to_scale(boxes[index, :, 0::2], own[:, 0::2].clip(0, width), what="x")
            assert_close_to_scale(boxes[index, :, 1::2], own[:, 1::2].clip(0, height), what="y")
    with pytest.raises(InputError, match="exported with --no-nms and gives no detections"):
        OnnxPredictor.load(tmp_path / "new/all.onnx")


def test_a_file_describes_itself(folder):
    model = onnx.load(folder / "fcos.onnx")
    onnx.checker.check_model(model, full_check=True)
    card = json.loads({entry.key: entry.value for entry in model.metadata_props}[METADATA_KEY])
    assert len(card.pop("sha256")) == 64
    assert card == {
        "version": denseteacher.__version__,
        "categories": [[2, "red"], [5, "green"], [11, "blue"]],
        "short_side": 64,
        "max_side": 96,
        "multiple": 32,
        "score_floor": 0.3,
        "nms": True,
        "trained": {"AP": 41.5},
        "best_scores": None,
    }
    assert OnnxPredictor.load(folder / "fcos.onnx").class_names == ["red", "green", "blue"]


@pytest.mark.parametrize(("height", "width"), [(30, 41), (64, 80), (150, 100), (500, 731), (64, 20)])
def test_images_are_resized_as_torchvision_does(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    expected = functional.resize(torch.from_numpy(image).permute(2, 0, 1), [64, 80], antialias=True)
    difference = np.abs(_resize(image, 64, 80).astype(int) - expected.permute(1, 2, 0).numpy())
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.3  # sums of other fixed-point weights


def test_the_predictor_finds_what_the_one_with_torch_finds(folder, coco):
    files = sorted((coco.parent / "images").iterdir())  # of three sizes, one turned by EXIF, all but some resized
    images = [*files[:5], str(files[5]), Image.open(files[6]), np.asarray(Image.open(files[7]).convert("RGB"))]
    expected = denseteacher.load(folder / "fcos.safetensors").predict(images, batch_size=3)
    found = OnnxPredictor.load(folder / "fcos.onnx").predict(images, batch_size=3)
    for (boxes, scores, labels), wanted in zip(found, expected, strict=True):
        # a pixel that is rounded the other way moves scores a little, and what lies at a threshold falls on either side
        assert abs(len(scores) - len(wanted.scores)) <= 2
        same = labels[:, None] == wanted.labels.numpy()
        near = np.abs(boxes[:, None] - wanted.boxes.numpy()).max(-1) < 0.5
        close = np.abs(scores[:, None] - wanted.scores.numpy()) < 0.01
        assert (same & near & close).any(1).mean() > 0.9
    assert OnnxPredictor.load(folder / "fcos.onnx").predict([]) == []


def test_it_keeps_the_order_of_images_that_it_computes_by_shape(folder, monkeypatch):
    rng = np.random.default_rng(4)
    images = [rng.integers(0, 256, (64, 96, 3) if i % 2 else (96, 64, 3), dtype=np.uint8) for i in range(8)]
    predictor = OnnxPredictor.load(folder / "fcos.onnx")
    alone = [predictor.predict([image])[0] for image in images]
    fill, pixels = OnnxPredictor._canvas, []

    def counted(self, arrays):
        filled, sizes = fill(self, arrays)
        pixels.append(filled[:, 0].size)
        return filled, sizes

    monkeypatch.setattr(OnnxPredictor, "_canvas", counted)
    together = predictor.predict(images, batch_size=2)
    assert sum(pixels) == 8 * 64 * 96  # and 8 * 96 * 96 in the order given
    for one, other in zip(alone, together, strict=True):
        assert_same_detections(one, other)


def test_an_image_of_the_right_size_gives_the_same_detections(folder):
    image = np.random.default_rng(3).integers(0, 256, (64, 90, 3), dtype=np.uint8)
    found, wanted = (
        OnnxPredictor.load(folder / "fcos.onnx").predict([image])[0],
        denseteacher.load(folder / "fcos.safetensors").predict([image])[0],
    )
    assert len(wanted.scores) >= 10
    assert_same_detections(found, wanted)


def test_the_predictor_needs_no_torch(folder, coco):
    script = f"""
import sys
for name in ("torch", "torchvision", "timm", "pydantic", "onnx", "onnxscript"):
    sys.modules[name] = None  # an import of it raises
from denseteacher.inference.onnx_predictor import OnnxPredictor
boxes, scores, labels = OnnxPredictor.load({str(folder / "fcos.onnx")!r}).predict(sys.argv[1:])[0]
print(len(boxes), len(scores), len(labels))
"""
    image = next((coco.parent / "images").iterdir())
    done = subprocess.run([sys.executable, "-c", script, image], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    boxes, scores, labels = map(int, done.stdout.split())
    assert boxes == scores == labels > 0


def test_tracing_leaves_the_anchors_of_the_same_canvas_alone(folder):
    # they are kept from call to call; a tensor without values among them would spoil whatever comes after
    detector = denseteacher.load(folder / "fcos.safetensors").detector
    for side in (128, 160, 192, 224):
        assert detector(image_batch(0, batch=1, height=side, width=side)).anchors.isfinite().all()


def test_what_is_there_is_not_overwritten(folder, call):
    before = (folder / "fcos.onnx").read_bytes()
    code, _, err = call("export", folder / "fcos.safetensors", "--output", folder / "fcos.onnx")
    assert code == 2
    assert "is there already: choose another --output" in err
    assert (folder / "fcos.onnx").read_bytes() == before


def test_an_unknown_format_is_wrong_usage(folder, call, tmp_path):
    code, _, err = call("export", folder / "fcos.safetensors", "--format", "tflite", "--output", tmp_path / "x")
    assert code == 2
    assert "onnx" in err


def test_a_missing_extra_is_named(folder, monkeypatch, tmp_path):
    monkeypatch.setattr(export_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'needs onnx and onnxscript: pip install "dense-teacher\[onnx\]"'):
        export_onnx(folder / "fcos.safetensors", tmp_path / "x.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match="needs onnxruntime: pip install onnxruntime"):
        OnnxPredictor.load(folder / "fcos.onnx")


def test_a_network_that_torch_cannot_export_is_one_sentence(folder, monkeypatch, tmp_path):
    def refuse(*arguments, **named):
        raise ValueError("no such operator\nand much more")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(RunError, match=r"can't export this detector \(no such operator\)"):
        export_onnx(folder / "fcos.safetensors", tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_an_opset_that_torch_does_not_write_is_refused(folder, monkeypatch, tmp_path):
    class Program:
        class model:
            opset_imports = {"": 20}  # noqa: RUF012

    monkeypatch.setattr(torch.onnx, "export", lambda *arguments, **named: Program)
    with pytest.raises(InputError, match=r"wrote opset 20 in place of 23: choose another --opset"):
        export_onnx(folder / "fcos.safetensors", tmp_path / "x.onnx", opset=23)


def test_files_that_are_no_export_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="there is no ONNX file"):
        OnnxPredictor.load(tmp_path / "none.onnx")
    (tmp_path / "damaged.onnx").write_bytes((folder / "fcos.onnx").read_bytes()[:1000])
    with pytest.raises(InputError, match="not an ONNX file that onnxruntime can read"):
        OnnxPredictor.load(tmp_path / "damaged.onnx")
    model = onnx.load(folder / "fcos.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(InputError, match="give a file that denseteacher export wrote"):
        OnnxPredictor.load(tmp_path / "foreign.onnx")
    model.metadata_props.add(key=METADATA_KEY, value='{"version": "9.0", "canvas": 64}')
    onnx.save(model, tmp_path / "newer.onnx")
    with pytest.raises(InputError, match="exported by another version of denseteacher"):
        OnnxPredictor.load(tmp_path / "newer.onnx")
    with pytest.raises(InputError, match=r"has no TurboExecutionProvider; it has .*CPUExecutionProvider"):
        OnnxPredictor.load(folder / "fcos.onnx", providers=["TurboExecutionProvider"])
