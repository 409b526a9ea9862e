"""What ``test_own_detector.py`` runs in a package that has the detector of ``docs/add-a-detector.md``."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.special import softmax

import denseteacher
from denseteacher.detectors import shape_detector
from denseteacher.inference.onnx_predictor import OnnxPredictor
from denseteacher.methods import DenseTeacher
from denseteacher.recipes.schema import load_recipe
from denseteacher.structures import Targets
from denseteacher.training.metrics_log import read_metrics
from support import image_batch, semi_batch
from support.closeness import assert_close_to_scale, assert_same_detections

OWN = ["detector.name=binned", "detector.score_floor=0.001", "detector.top_k=60", "detector.max_detections=30"]


@pytest.fixture
def options(tiny):
    """Its recipe as options of the command line."""
    return [part for one in [*tiny, *OWN] for part in ("--set", one)]


@pytest.fixture
def run(call, coco, unlabeled, options, tmp_path):
    """A finished run."""
    more = ["method.burn_in=2", "method.ramp=1", "method.ratio=auto", "schedule.preview_every=4"]
    code, out, err = call(
        "train", "custom", "--labeled", coco, "--unlabeled", unlabeled, "--val", coco, "--output", tmp_path / "run",
        *options, *(part for one in more for part in ("--set", one)),
    )  # fmt: skip
    assert code == 0, out + err
    return tmp_path / "run"


def test_binned_is_trained_previewed_reported_and_used(run, call, coco, unlabeled, options, tmp_path):
    rows = read_metrics(run / "metrics.jsonl")
    assert all(np.isfinite(row["unsup/box"]) for row in rows if "unsup/cls" in row)
    assert any("unsup/box" in row for row in rows)
    assert yaml.safe_load((run / "recipe.yaml").read_text())["detector"]["assigner"] == {"name": "nearest", "count": 5}
    with Image.open(run / "previews" / "step_000004.jpg") as preview:
        assert preview.width > 0
    assert "Unlabeled images" in (run / "report.html").read_text()
    predictor = denseteacher.load(run)
    assert predictor.detector(image_batch(0, batch=1, height=64, width=64)).deltas.shape[-1] == 68

    for command in (
        ["evaluate", run, "--data", coco],
        ["analyze", "fig3", run, "--data", coco, "--output", tmp_path / "figures"],
        ["predict", run, unlabeled, "--output", tmp_path / "predicted"],
        ["label", run, unlabeled, "--to", "coco", "--output", tmp_path / "drafts", "--score", "0.002"],
        ["train", "custom", "--labeled", coco, "--unlabeled", unlabeled, "--output", tmp_path / "next", *options,
         "--set", "method.name=unbiased_teacher", "--set", "method.burn_in=2", "--set", f"detector.init={run}"],
    ):  # fmt: skip
        code, out, err = call(*command)
        assert code == 0, out + err
    assert "taken over is all" in json.dumps(out + err)

    code, _, err = call("export", run, "--output", tmp_path / "binned.onnx")
    assert code == 0, err
    images = [np.asarray(Image.open(path)) for path in sorted(unlabeled.iterdir())[:2]]
    exported = OnnxPredictor.load(tmp_path / "binned.onnx")
    for image in images:
        found, wanted = exported.predict([image]), predictor.predict([image])
        assert len(wanted[0].scores) > 0
        assert_same_detections(found[0], wanted[0])


def test_binned_is_checked(call, coco, unlabeled, options, tmp_path):
    code, out, err = call("check", coco, "--unlabeled", unlabeled, "--json", tmp_path / "found.json", *options)
    assert code == 0, out + err
    found = json.loads((tmp_path / "found.json").read_text())
    assert sum(found["levels"].values()) == sum(one["objects"] for one in found["classes"])
    assert found["foreground"]["share"] > 0


def test_binned_boxes_lie_at_the_means_of_their_distributions(tiny):
    torch.manual_seed(0)
    detector = load_recipe("custom", [*tiny, *OWN]).detector.build(3)
    with torch.no_grad():
        output = detector(image_batch(1, batch=2, height=64, width=96))
        output = output._replace(deltas=torch.randn_like(output.deltas) * 3)
        boxes, scores, quality, valid = detector.decode(output)
    chances = softmax(output.deltas.double().numpy().reshape(*boxes.shape, 17), axis=-1)
    anchors = output.anchors.double().numpy()
    center, stride = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    distances = (chances * np.arange(17)).sum(-1)
    expected = [center - distances[..., :2] * stride, center + distances[..., 2:] * stride]
    assert_close_to_scale(boxes.numpy(), np.concatenate(expected, axis=-1))
    assert_close_to_scale(
        scores.numpy(), ((output.logits.sigmoid() * quality[..., None]).sqrt() * valid[..., None]).numpy()
    )


def test_binned_learns_the_teachers_boxes_through_its_coding(tiny):
    torch.manual_seed(0)
    config = load_recipe("custom", [*tiny, *OWN]).detector
    student, teacher = config.build(3), config.build(3).eval()
    DenseTeacher(burn_in=1, ramp=0, ratio=0.1).losses(student, teacher, semi_batch(), 5).losses["unsup/box"].backward()
    assert student.head.box.weight.grad.abs().sum() > 0
    assert teacher.head.box.weight.grad is None


def test_binned_levels_follow_its_anchors(tiny):
    detector = shape_detector(load_recipe("custom", [*tiny, *OWN]).detector, 3)
    anchors = detector.anchors((64, 96), torch.device("cpu"))
    assert detector.levels(anchors).bincount().tolist() == [8 * 12, 4 * 6, 2 * 3]


def test_the_nearest_locations_are_trained_on_an_object():
    detector = load_recipe(
        "digits", ["detector.name=retinanet", "detector.name=fcos", "detector.assigner.name=nearest"]
    )
    detector = shape_detector(detector.detector.model_copy(update={"levels": (3, 5)}), 3)
    anchors = detector.anchors((96, 96), torch.device("cpu"))
    boxes = torch.tensor([[[20.0, 21, 50.6, 53], [10, 11, 91, 92]], [[0, 0, 0, 0], [0, 0, 0, 0]]])
    mask = torch.tensor([[True, True], [False, False]])
    found = detector.assign(Targets(boxes, torch.tensor([[1, 2], [0, 0]]), mask), anchors, detector.levels(anchors))
    place, strides = ((anchors[:, :2] + anchors[:, 2:]) / 2).numpy(), (anchors[:, 2] - anchors[:, 0]).numpy()
    for number, (stride, label) in enumerate(((8, 1), (8, 2))):
        center = ((boxes[0, number, :2] + boxes[0, number, 2:]) / 2).numpy()
        order = np.argsort(np.linalg.norm(place - center, axis=1) + 1e6 * (strides != stride))[:5]
        assert set(order) >= set(np.flatnonzero(found.labels[0].numpy() == label))
    assert set(found.labels[0].tolist()) == {-1, 1, 2}
    assert (found.labels[1] == -1).all()
