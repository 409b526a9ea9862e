"""What ``denseteacher benchmark`` measures is there and consistent; how fast it is decides nothing."""

import json
from collections import Counter

import pytest
import torch

from conftest import TINY
from denseteacher.benchmark.run import BenchmarkSize, benchmark
from denseteacher.benchmark.scene import Size, made_up_step, made_up_targets
from denseteacher.benchmark.step import make_learner
from denseteacher.benchmark.using import measure_evaluation
from denseteacher.detectors import build_detector
from denseteacher.recipe import load_recipe
from denseteacher.training.flops import pass_flops
from denseteacher.training.runtime import Runtime

SIZE = BenchmarkSize(1, 2, 64, 96, boxes=3, classes=4, rounds=2)


@pytest.mark.parametrize("detector", ["fcos", "retinanet"])
def test_a_step_and_its_parts(detector):
    recipe = load_recipe("custom", [*TINY, f"detector.name={detector}"])
    found = benchmark(recipe, ("step",), SIZE)["step"]
    assert set(found["seconds"]) >= {"step", "bare", "student", "teacher", "pseudo-label", "losses", "EMA"}
    assert all(value > 0 for value in found["seconds"].values())
    assert set(found["ratios"]) == {"step_over_bare", "unlabeled_part_over_pseudo_box"}
    assert found["images_per_second"] == pytest.approx(3 / found["seconds"]["step"])
    assert found["mfu"] == pytest.approx(found["tflop"] / found["seconds"]["step"] / found["peak_tflops"])
    assert found["peak_gib"] > 0
    flops = pass_flops(build_detector(recipe.detector, 4), (64, 96))  # as a run counts
    seen = 64 * 96 * (flops.training * (2 * 1 + 2) + flops.forward * 2)
    assert 1e12 * found["tflop"] == pytest.approx(seen, rel=0.01)
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert found["shares"].keys() >= {"data wait", "student", "teacher", "pseudo-label", "losses", "EMA", "rest"}
    whole = found["seconds"]["step"] + found["seconds"]["data wait"]
    assert found["shares"]["student"] == pytest.approx(found["seconds"]["student"] / whole)
    json.dumps(found)


def test_a_step_in_bf16_is_measured():
    """Under autocast, as on a GPU; who skips the runtime's backward is refused there."""
    found = benchmark(load_recipe("custom", [*TINY, "runtime.precision=bf16"]), ("step",), SIZE._replace(rounds=1))
    assert found["step"]["precision"] == "bf16"
    assert found["step"]["seconds"]["bare"] > 0


def test_padding_is_no_image():
    step = made_up_step(Size(2, 1, 64, 96, 3, padding=0.25), 4)
    assert step.labeled.sizes.tolist() == [[48, 96]] * 2
    assert (step.labeled.pixels[:, :, 48:] == 0).all()
    assert step.labeled.pixels[:, :, :48].float().std() > 50
    assert (step.targets.boxes[..., 3] <= 48).all()
    found = benchmark(load_recipe("custom", TINY), ("step",), SIZE._replace(rounds=1, padding=0.25))["step"]
    speeds = found["megapixels_per_second"]
    assert speeds["padded"] == pytest.approx(found["images_per_second"] * 64 * 96 / 1e6)
    assert speeds["real"] == pytest.approx(0.75 * speeds["padded"])


def test_counted_operations_grow_with_the_images():
    recipe = load_recipe("custom", TINY)
    counts = [
        benchmark(recipe, ("step",), SIZE._replace(labeled=n, unlabeled=2 * n, rounds=1))["step"]["tflop"]
        for n in (1, 2)
    ]
    assert counts[1] == pytest.approx(2 * counts[0], rel=1e-6)


def test_supervised_steps_have_no_unlabeled_part():
    recipe = load_recipe("custom", [*TINY, "method.name=supervised"])
    found = benchmark(recipe, ("step",), SIZE._replace(unlabeled=0))["step"]
    assert set(found["ratios"]) == {"step_over_bare"}
    assert "unlabeled part" not in found["seconds"]


def test_the_measured_step_has_everything():
    recipe = load_recipe("custom", TINY)
    size = Size(2, 2, 64, 64, 3)
    learner = make_learner(recipe, Runtime(recipe.runtime), size, 4)
    before = [value.clone() for value in learner.teacher.module.parameters()]
    learner.train_step(made_up_step(size, 4))
    assert {"sup/cls", "unsup/cls", "unsup/box", "unsup/quality"} <= learner.values.keys()
    assert learner.values["unsup/cls"] > 0
    assert any(not torch.equal(old, new) for old, new in zip(before, learner.teacher.module.parameters(), strict=True))


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


def test_the_command(call, tmp_path):
    sets = [part for key in TINY for part in ("--set", key)]
    file, trace = tmp_path / "found.json", tmp_path / "new" / "trace.json"
    size = ["--batch", 1, "--size", "64x96", "--rounds", 1]
    code, out, err = call("benchmark", "step", "--recipe", "custom", *size, *sets, "--json", file, "--trace", trace)
    assert code == 0, err
    assert "ratios: step_over_bare" in out
    content = json.loads(file.read_text())
    assert torch.__version__.startswith(content["versions"]["torch"])
    assert content["size"]["height"] == 64

    names = Counter(event["name"] for event in json.loads(trace.read_text())["traceEvents"] if event["ph"] == "X")
    parts = ("strong views", "forward", "pseudo-label", "forward to be trained", "backward", "EMA")
    assert [names[part] for part in parts] == [2] * len(parts)
    expensive = content["operators, ms a step"]
    assert len(expensive) == 10
    assert "aten::convolution_backward" in expensive
    assert not expensive.keys() & set(parts)


def test_what_can_not_be_measured_or_written_is_said_before(call, tmp_path):
    (tmp_path / "file").touch()
    wrongs = [
        (["nothing"], "no part 'nothing'"),
        (["step", "--size", "65x96"], "multiples of 32"),
        (["step", "--json", tmp_path], f"--json {tmp_path} can't be written: Is a directory"),
        (["step", "--trace", tmp_path / "file" / "trace.json"], "can't be written: "),
    ]
    for wrong, message in wrongs:
        code, _, err = call("benchmark", *wrong)
        assert code == 2
        assert message in err


def test_data_and_peers():
    recipe = load_recipe("custom", [*TINY, "data.labeled_batch=4", "data.unlabeled_batch=4"])
    found = benchmark(recipe, ("data", "inference"), SIZE)
    assert found["data"]["loader images/s"] > 0
    assert 0.4 < found["data"]["real share of the canvas"] <= 1
    assert found["data"]["loader_over_pil"] > 0
    assert found["inference"]["images/s"] > 0
    resnet = load_recipe("coco_standard", ["detector.pretrained=false", "method.group_size=null", "runtime.device=cpu"])
    peers = benchmark(resnet, ("peers",), SIZE._replace(rounds=1))
    ratios = {"supervised_over_torchvision_fp32", "supervised_over_torchvision_bf16"}
    assert ratios <= peers["supervised"].keys()
    assert peers["strong views"]["strong_views_over_pil"] > 0
