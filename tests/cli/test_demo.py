"""The demonstration, short: the command, what it leaves behind, and what it refuses."""

import json
import sys

import pytest

from denseteacher import cli
from denseteacher.data import digits
from denseteacher.runs.demo import scaled_to
from denseteacher.training.metrics_log import read_metrics


def _demo(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["denseteacher", "demo", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code or 0, *capsys.readouterr()


def test_demo_compares_two_runs_of_one_burn_in(monkeypatch, capsys, tmp_path):
    output = tmp_path / "demo"
    monkeypatch.setenv("DENSETEACHER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(digits.PRESETS, "small", digits.Preset(96, 40, 12))
    quick = ["data.count=12", "schedule.evaluate_every=40", "runtime.workers=0", "runtime.precision=fp32"]
    code, out, err = _demo(
        monkeypatch, capsys, "--output", output, "--steps", 40, *(part for key in quick for part in ("--set", key))
    )
    assert code == 0, err
    assert "Supervised" in out
    assert "Dense Teacher" in out
    report = (output / "report.html").read_text()
    assert "dense pseudo-label" in report
    assert "ground truth" in report
    dense, supervised = (read_metrics(output / name / "metrics.jsonl") for name in ("dense_teacher", "supervised"))
    assert dense[-1]["step"] == supervised[-1]["step"] == 40
    assert any(row.get("unsup/cls", 0) > 0 for row in dense)
    assert not any("unsup/cls" in row for row in supervised)
    splits = [json.loads((output / name / "split.json").read_text()) for name in ("dense_teacher", "supervised")]
    assert splits[0]["labeled_ids"] == splits[1]["labeled_ids"]

    code, _, err = _demo(monkeypatch, capsys, "--output", output)
    assert code == 2
    assert "is not empty" in err
    assert "Traceback" not in err


def test_schedule_scales_with_the_steps():
    assert scaled_to(240) == [
        "schedule.max_steps=240",
        "schedule.evaluate_every=60",
        "method.burn_in=100",
        "method.ramp=30",
        "ema.start=50",
    ]
