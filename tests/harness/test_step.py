"""What the benchmarks' harness measures is there and consistent; how fast it is decides nothing."""

import json

import pytest
import torch

from conftest import TINY
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.benchmark import Size, made_up_step, made_up_targets, make_student_teacher
from denseteacher.training.runtime import Runtime
from denseteacher.training.throughput import pass_flops
from harness.data import measure_data
from harness.peers import measure_loader, measure_strong_views, measure_supervised
from harness.step import measure_step
from harness.using import measure_evaluation, measure_inference

SIZE = Size(1, 2, 64, 96, boxes=3)


def _step(recipe, size=SIZE, rounds=1):
    return measure_step(recipe, size, classes=4, rounds=rounds).content()


@pytest.mark.parametrize("detector", ["fcos", "retinanet"])
def test_a_step_and_its_parts(detector):
    recipe = load_recipe("custom", [*TINY, f"detector.name={detector}"])
    found = _step(recipe, rounds=2)
    assert set(found["seconds"]) >= {"step", "bare", "student", "teacher", "pseudo-label", "losses", "EMA"}
    assert all(value > 0 for value in found["seconds"].values())
    assert set(found["ratios"]) == {"step_over_bare", "unlabeled_part_over_pseudo_box"}
    assert found["images_per_second"] == pytest.approx(3 / found["seconds"]["step"])
    assert found["mfu"] == pytest.approx(found["tflop"] / found["seconds"]["step"] / found["peak_tflops"])
    assert found["peak_gib"] > 0
    flops = pass_flops(recipe.detector.build(4), (64, 96))  # as a run counts
    seen = 64 * 96 * (flops.training * (2 * 1 + 2) + flops.forward * 2)
    assert 1e12 * found["tflop"] == pytest.approx(seen, rel=0.01)
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["shares"].keys() >= {"data wait", "student", "teacher", "pseudo-label", "losses", "EMA", "rest"}
    whole = found["seconds"]["step"] + found["seconds"]["data wait"]
    assert found["shares"]["student"] == pytest.approx(found["seconds"]["student"] / whole)
    json.dumps(found)


def test_a_step_in_bf16_is_measured():
    """Under autocast, as on a GPU; who skips the runtime's backward is refused there."""
    found = _step(load_recipe("custom", [*TINY, "runtime.precision=bf16"]))
    assert found["precision"] == "bf16"
    assert found["seconds"]["bare"] > 0


def test_padding_is_no_image():
    step = made_up_step(Size(2, 1, 64, 96, 3, padding=0.25), 4)
    assert step.labeled.sizes.tolist() == [[48, 96]] * 2
    assert (step.labeled.pixels[:, :, 48:] == 0).all()
    assert step.labeled.pixels[:, :, :48].float().std() > 50
    assert (step.targets.boxes[..., 3] <= 48).all()
    found = _step(load_recipe("custom", TINY), SIZE._replace(padding=0.25))
    speeds = found["megapixels_per_second"]
    assert speeds["padded"] == pytest.approx(found["images_per_second"] * 64 * 96 / 1e6)
    assert speeds["real"] == pytest.approx(0.75 * speeds["padded"])


def test_counted_operations_grow_with_the_images():
    recipe = load_recipe("custom", TINY)
    counts = [_step(recipe, SIZE._replace(labeled=n, unlabeled=2 * n))["tflop"] for n in (1, 2)]
    assert counts[1] == pytest.approx(2 * counts[0], rel=1e-6)


def test_supervised_steps_have_no_unlabeled_part():
    recipe = load_recipe("custom", [*TINY, "method.name=supervised"])
    found = _step(recipe, SIZE._replace(unlabeled=0), rounds=2)
    assert set(found["ratios"]) == {"step_over_bare"}
    assert "unlabeled part" not in found["seconds"]


def test_the_measured_step_has_everything():
    recipe = load_recipe("custom", TINY)
    size = Size(2, 2, 64, 64, 3)
    student_teacher = make_student_teacher(recipe, Runtime(recipe.runtime), size, 4)
    before = [value.clone() for value in student_teacher.ema.module.parameters()]
    student_teacher.train_step(made_up_step(size, 4))
    assert {"sup/cls", "unsup/cls", "unsup/box", "unsup/quality"} <= student_teacher.values.keys()
    assert student_teacher.values["unsup/cls"] > 0
    assert any(
        not torch.equal(old, new) for old, new in zip(before, student_teacher.ema.module.parameters(), strict=True)
    )


@pytest.mark.parametrize("boxes", [0, 1, 20])
def test_made_up_boxes_lie_in_the_canvas(boxes):
    targets = made_up_targets(3, Size(3, 0, 64, 128, boxes), 5, torch.Generator().manual_seed(0))
    assert targets.mask.sum() == 3 * boxes
    kept = targets.boxes[targets.mask]
    assert ((kept[:, 2:] - kept[:, :2]) > 3).all()
    assert (kept >= 0).all()
    assert (kept <= torch.tensor([128.0, 64.0, 128.0, 64.0])).all()


def test_evaluation_is_of_detections_half_of_which_are_right():
    found = measure_evaluation(images=40, detections=10, classes=3)
    assert 5 < found["AP"] < 60
    assert found["seconds"] > 0


def test_data_and_peers():
    recipe = load_recipe("custom", [*TINY, "data.labeled_batch=4", "data.unlabeled_batch=4"])
    data = measure_data(recipe, steps=2)
    assert data["loader images/s"] > 0
    assert 0.4 < data["real share of the canvas"] <= 1
    assert measure_loader(recipe, rounds=2)["loader_over_pil"] > 0
    assert measure_inference(recipe, classes=4, batch=1, height=64, width=96, rounds=2)["images/s"] > 0
    resnet = load_recipe("coco_standard", ["detector.pretrained=false", "method.group_size=null", "runtime.device=cpu"])
    peers = measure_supervised(resnet, SIZE, classes=4, rounds=1)
    ratios = {"supervised_over_torchvision_fp32", "supervised_over_torchvision_bf16"}
    assert ratios <= peers.keys()
    views = measure_strong_views(recipe.augment.strong, images=2, height=64, width=96, rounds=1)
    assert views["strong_views_over_pil"] > 0
