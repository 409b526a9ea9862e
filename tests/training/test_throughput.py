"""How fast a run is: right against independent counts, in every row, and without a part in the run."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import denseteacher
from conftest import TINY
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.benchmark import Size, made_up_step, make_student_teacher
from denseteacher.structures import ImageBatch
from denseteacher.training import throughput
from denseteacher.training.metrics_log import read_metrics
from denseteacher.training.runtime import Runtime
from denseteacher.training.throughput import Throughput, data_sheet_speed, pass_flops, peak_speed

KEYS = {"data_wait", "step_seconds", "images_per_second", "padded_share", "mfu"}
SIZE = Size(2, 2, 64, 96, 3)


def conv_operations(detector, images):
    """Two for every weight and position of each convolution, from what the layers were seen to give."""
    total = 0

    def saw(module, _, output):
        nonlocal total
        total += 2 * module.weight[0].numel() * output.numel()

    hooks = [module.register_forward_hook(saw) for module in detector.modules() if isinstance(module, nn.Conv2d)]
    detector(images)
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize("name", ["fcos", "retinanet"])
def test_passes_are_counted_without_being_computed(name):
    recipe = load_recipe("custom", [*TINY, f"detector.name={name}", "detector.frozen_stages=2"])
    detector = recipe.detector.build(4).train()
    images = ImageBatch(torch.zeros(2, 3, 64, 96, dtype=torch.uint8), torch.tensor([[64, 96]] * 2))
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    random = torch.get_rng_state()
    counted = pass_flops(detector, (64, 96))
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert all(parameter.grad is None for parameter in detector.parameters())

    pixels = 2 * 64 * 96
    assert counted.forward * pixels == pytest.approx(conv_operations(detector, images), rel=0.01)
    with FlopCounterMode(display=False) as counter:
        output = detector(images)
        torch.autograd.backward([part.sum() for part in output[:3] if part is not None])
    assert counted.training * pixels == pytest.approx(counter.get_total_flops(), rel=1e-6)
    assert 2 < counted.training / counted.forward < 2.99  # three times the forward, less what is frozen


def test_mfu_is_what_was_counted_over_what_could_have_been(monkeypatch):
    recipe = load_recipe("custom", TINY)
    student_teacher = make_student_teacher(recipe, Runtime(recipe.runtime), SIZE, 4)
    loaded = made_up_step(SIZE, 4)
    with FlopCounterMode(display=False) as counter:
        student_teacher.train_step(loaded)
    clock = iter([10.0, 10.5, 20.0, 21.5])
    monkeypatch.setattr(throughput, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(throughput, "peak_speed", lambda *_: (0.5, "test"))
    rates = Throughput(student_teacher)
    for wait in (1.0, 2.0):
        with rates.step(loaded, wait):
            student_teacher.train_step(loaded)
        student_teacher.pseudo_labeler(loaded.labeled)  # not a step's: not counted
    found = rates.read()
    assert found["data_wait"] == 1.5
    assert found["step_seconds"] == 2.5
    assert found["images_per_second"] == 2 * 4 / 5.0
    assert found["padded_share"] == 0
    done = 2 * counter.get_total_flops() / 5.0
    assert found["mfu"] == pytest.approx(done / 0.5e12, rel=0.01)


def test_a_utilization_above_one_is_not_known(monkeypatch):
    recipe = load_recipe("custom", TINY)
    student_teacher = make_student_teacher(recipe, Runtime(recipe.runtime), SIZE, 4)
    monkeypatch.setattr(throughput, "peak_speed", lambda *_: (1e-9, "measured while other programs had the cores"))
    rates = Throughput(student_teacher)
    with rates.step(made_up_step(SIZE, 4), 0.0):
        student_teacher.train_step(made_up_step(SIZE, 4))
    assert math.isnan(rates.read()["mfu"])


def test_every_logged_row_has_them_and_only_its_own_steps(coco, unlabeled, tiny, tmp_path):
    short = ["schedule.log_every=3", "method.burn_in=3", "method.ramp=0", "method.ratio=0.1"]
    run = denseteacher.train(
        "custom", labeled=coco, unlabeled=unlabeled, output=tmp_path / "run", overrides=[*tiny, *short]
    )
    rows = read_metrics(run.folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [3, 6, 8]
    for row in rows:
        assert row.keys() >= KEYS
        assert "peak_gib" not in row  # of a GPU alone
        assert 0 <= row["data_wait"] < row["step_seconds"]
        assert 0 < row["padded_share"] < 0.7
        assert row["mfu"] is None or 0 < row["mfu"] <= 1  # None on a busy machine
        images = 2 if row["step"] == 3 else 4  # unlabeled ones after the burn-in
        assert row["images_per_second"] * row["step_seconds"] == pytest.approx(images)


def test_where_counting_fails_a_run_goes_on_without_mfu(coco, tiny, tmp_path, monkeypatch):
    def refuse(*_):
        raise NotImplementedError("no kernel for tensors without storage")

    monkeypatch.setattr(throughput, "pass_flops", refuse)
    run = denseteacher.train(
        "custom", labeled=coco, output=tmp_path / "run", overrides=[*tiny, "method.name=supervised"]
    )
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert all(row["mfu"] is None for row in rows)


@pytest.mark.parametrize(
    ("gpu", "speed"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA A10G", None),
        ("NVIDIA L40", None),
    ],
)
def test_a_gpus_peak_is_that_of_its_own_data_sheet(gpu, speed):
    assert data_sheet_speed(gpu) == speed


def test_a_cpus_peak_is_measured_without_the_runs_random_numbers():
    peak_speed.cache_clear()
    random = torch.get_rng_state()
    peak, source = peak_speed(torch.device("cpu"), torch.float32)
    assert torch.equal(random, torch.get_rng_state())
    assert 0 < peak < 100
    assert source.startswith("product of")


def test_half_of_a_gpus_bf16_speed_is_its_tf32_speed(monkeypatch):
    monkeypatch.setattr(throughput.torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    peak_speed.cache_clear()
    gpu = torch.device("cuda", 7)
    assert peak_speed(gpu, torch.bfloat16) == (989.4, "data sheet")
    assert peak_speed(gpu, torch.float32) == (494.7, "data sheet, TF32")
