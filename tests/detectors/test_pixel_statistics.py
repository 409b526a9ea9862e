"""Pixels are normalized as the backbone's weights were trained, and detector files keep what they say."""

import json

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from denseteacher.detectors import FCOS, DetectorCard, load_detector, save_detector
from denseteacher.errors import InputError
from denseteacher.inference.export import export_onnx
from denseteacher.inference.onnx_predictor import OnnxPredictor
from denseteacher.inference.predictor import Predictor
from support import image_batch

IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
HALVES = [127.5] * 3, [127.5] * 3
FAMILIES = {
    "resnet10t.c3_in1k": IMAGENET,
    "mobilenetv2_100.ra_in1k": IMAGENET,
    "mobilenetv4_conv_small.e2400_r224_in1k": IMAGENET,
    "regnetx_002.pycls_in1k": IMAGENET,
    "convnext_atto.d2_in1k": IMAGENET,
    "efficientnet_lite0.ra_in1k": IMAGENET,
    "lcnet_050.ra2_in1k": IMAGENET,
    "hgnetv2_b0.ssld_stage2_ft_in1k": IMAGENET,
    "edgenext_xx_small.in1k": IMAGENET,
    "ghostnet_100.in1k": IMAGENET,
    "mnasnet_small.lamb_in1k": IMAGENET,
    "dpn48b.untrained": IMAGENET,
    "tf_efficientnet_b0.ns_jft_in1k": IMAGENET,
    "tf_efficientnet_lite0.in1k": HALVES,
    "tf_mobilenetv3_small_minimal_100.in1k": HALVES,
    "inception_v3.tv_in1k": HALVES,
    "xception41.tf_in1k": HALVES,
    "test_resnet.r160_in1k": HALVES,
    "resnet50_clip.openai": None,
}
"""What each was trained with; CLIP's are its own."""


def build(**options):
    torch.manual_seed(0)
    return FCOS(**{"num_classes": 2, "pretrained": False, "channels": 8, "head_convs": 0, "levels": (4, 5)} | options)


def card(detector):
    return DetectorCard(detector=detector.config, categories=((1, "a"), (2, "b")), short_side=64, max_side=96)


@pytest.mark.parametrize("name", FAMILIES)
def test_mean_and_std_are_those_of_timm(name):
    detector = build(backbone=name)
    told = timm.create_model(name).pretrained_cfg
    for found, key, known in zip(
        (detector.config.mean, detector.config.std), ("mean", "std"), FAMILIES[name] or (None, None), strict=True
    ):
        assert found == pytest.approx([255 * value for value in told[key]])
        assert getattr(detector, key).flatten().tolist() == pytest.approx(list(found))
        assert known is None or found == pytest.approx(known)


def test_clip_has_its_own():
    assert build(backbone="resnet50_clip.openai").config.mean == pytest.approx((122.771, 116.746, 104.094), abs=0.01)


def test_a_recipe_can_set_them():
    detector = build(backbone="tf_efficientnet_lite0", mean=(1, 2, 3), std=(4, 5, 6))
    assert (detector.mean.flatten().tolist(), detector.std.flatten().tolist()) == ([1, 2, 3], [4, 5, 6])
    with pytest.raises(ValueError, match="std"):
        build(backbone="test_resnet", std=(0, 1, 1))


def test_pixels_are_normalized_with_them():
    detector = build(backbone="tf_efficientnet_lite0").eval()
    images = image_batch(0, batch=1, height=64, width=64)
    with torch.no_grad():
        wanted = detector.backbone(images.pixels / 127.5 - 1)
        found = detector.features(images)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


def test_a_detector_file_holds_them(tmp_path):
    detector = build(backbone="tf_efficientnet_lite0")
    file = tmp_path / "detector.safetensors"
    save_detector(file, detector.state_dict(), card(detector))
    with safe_open(file, framework="pt") as opened:
        said = json.loads(opened.metadata()["denseteacher"])["detector"]
    assert (said["mean"], said["std"]) == HALVES
    loaded, _ = load_detector(file)
    assert loaded.mean.flatten().tolist() == HALVES[0]


def test_a_file_from_before_keeps_imagenets(tmp_path):
    detector = build(backbone="tf_efficientnet_lite0", mean=IMAGENET[0], std=IMAGENET[1])
    content = card(detector).model_dump(mode="json")
    for key in ("mean", "std", "init", "extra_from"):
        del content["detector"][key]
    file = tmp_path / "detector.safetensors"
    save_file(detector.state_dict(), file, metadata={"denseteacher": json.dumps(content)})
    loaded, _ = load_detector(file)
    assert loaded.mean.flatten().tolist() == pytest.approx(IMAGENET[0])
    assert loaded.std.flatten().tolist() == pytest.approx(IMAGENET[1])
    images = image_batch(0, batch=1, height=64, width=64)
    with torch.no_grad():
        assert torch.equal(loaded(images).logits, detector.eval()(images).logits)
    damaged = content | {"detector": "fcos"}
    save_file(detector.state_dict(), file, metadata={"denseteacher": json.dumps(damaged)})
    with pytest.raises(InputError, match="not a detector file"):
        load_detector(file)


def test_onnxruntime_normalizes_with_them(tmp_path):
    detector = build(backbone="test_resnet", score_floor=0.02).eval()
    with torch.no_grad():
        detector.head.cls.weight *= 30
        detector.head.cls.bias.fill_(-1)
    save_detector(tmp_path / "d.safetensors", detector.state_dict(), card(detector))
    export_onnx(tmp_path / "d.safetensors", tmp_path / "d.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    onnxruntime.set_default_logger_severity(3)
    (own,) = OnnxPredictor.load(tmp_path / "d.onnx").predict([tmp_path / "one.png"])
    (wanted,) = Predictor.load(tmp_path / "d.safetensors").predict([tmp_path / "one.png"])
    assert len(wanted.scores) > 3
    for one, other in zip(own, wanted, strict=True):
        assert np.abs(np.asarray(one) - other.numpy()).max() <= 1e-3 * other.abs().max()
