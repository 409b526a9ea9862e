"""What a run on a CPU says of its length: from its first steps, once, and without a part in them."""

import re
from types import SimpleNamespace

import pytest
import torch

from denseteacher.methods import DenseTeacher
from denseteacher.structures import ImageBatch
from denseteacher.training import forecast
from denseteacher.training.forecast import Forecast, duration
from denseteacher.training.throughput import PassFlops, step_flops
from support import assert_same, last_state


def loaded(step, *, unlabeled):
    pixels = torch.zeros((1, 3, 100, 100), dtype=torch.uint8)
    images = ImageBatch(pixels, torch.tensor([[100, 100]]))
    return SimpleNamespace(step=step, labeled=images, unlabeled=images if unlabeled else None)


def watched(seconds, flops, *, burn_in=1000, first=0):
    """All that is said while steps of these seconds are done."""
    teacher = Forecast(DenseTeacher(burn_in=burn_in), max_steps=11_000, labeled=4, unlabeled=16)
    said = []
    for number, one in enumerate(seconds):
        step = first + number
        throughput = SimpleNamespace(last_seconds=one, flops=flops)
        said.append(teacher.after_step(loaded(step, unlabeled=step > burn_in), throughput))
    return said


def test_a_step_is_counted_by_its_passes():
    counted = step_flops(PassFlops(forward=2.0, training=5.0), 4, 16)
    assert counted == (2 * 4 * 5.0, 2 * 4 * 5.0 + 16 * 5.0 + 16 * 2.0)


def test_the_first_steps_tell_how_long_the_others_take():
    said = watched([50.0, 2.0, 4.0, 3.0, 3.0], PassFlops(1.0, 3.0))
    assert [one is not None for one in said] == [False, False, True, False, False]  # 5 s are enough, and once
    # 998 steps of 3 s, and 9,999 that take (24 + 64) / 24 times as long (the first after the burn-in has weight 0)
    hours = (998 * 3 + 9_999 * 3 * 88 / 24) / 3600
    assert said[2].startswith(f"the 10,997 steps to go will take about {hours:.1f} h on this CPU")
    assert "3 s a step, measured on 2; a step with unlabeled images counts as 3.7 of them" in said[2]
    assert "custom_small" not in said[2]  # 30,000 operations a pass


def test_steps_with_unlabeled_images_are_measured_where_they_come_first():
    said = watched([9.0, 3.0, 3.0], PassFlops(1.0, 3.0), first=5_000)
    assert f"about {5_997 * 3 / 3600:.1f} h" in said[2]
    assert "counts as" not in said[2]


def test_a_short_run_says_nothing_and_a_large_network_names_the_recipe_for_cpus():
    assert not any(watched([0.001] * 40, PassFlops(1e9, 3e9)))
    assert "denseteacher train custom_small" in "".join(filter(None, watched([9.0] * 9, PassFlops(1e9, 3e9))))
    said = "".join(filter(None, watched([9.0] * 9, None)))  # not counted
    assert "counts as 3.7" in said
    assert "custom_small" not in said


@pytest.mark.parametrize(("seconds", "text"), [(5, "1 min"), (700, "12 min"), (5400, "1.5 h"), (3 * 86400, "3.0 days")])
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


def test_a_run_says_it_and_learns_the_same(call, coco, unlabeled, tiny, tmp_path, monkeypatch):
    options = [part for one in [*tiny, "method.burn_in=5", "method.ramp=0"] for part in ("--set", one)]
    errors = []
    for name in ("quiet", "telling"):
        paths = ["--labeled", coco, "--unlabeled", unlabeled, "--output", tmp_path / name]
        code, _, err = call("train", "custom", *paths, *options)
        assert code == 0, err
        errors.append(err)
        monkeypatch.setattr(forecast, "_WORTH_SAYING", 0.0)
        monkeypatch.setattr(forecast, "_ENOUGH_SECONDS", 0.0)
        monkeypatch.setattr(forecast, "_LARGE_PASS", 0.0)
    assert "will take about" not in errors[0]
    assert len(re.findall(r"the 5 steps to go will take about 1 min on this CPU.*train custom_small", errors[1])) == 1
    assert_same(last_state(tmp_path / "quiet"), last_state(tmp_path / "telling"))
