"""``denseteacher benchmark``: what it measures is there; how fast it is decides nothing."""

import json
from collections import Counter

import pytest
import torch

from conftest import TINY


def test_the_command(call, tmp_path):
    sets = [part for key in TINY for part in ("--set", key)]
    file, trace = tmp_path / "found.json", tmp_path / "new" / "trace.json"
    size = ["--batch", 1, "--size", "64x96", "--rounds", 1]
    code, out, err = call("benchmark", "step", "--recipe", "custom", *size, *sets, "--json", file, "--trace", trace)
    assert code == 0, err
    assert "images_per_second" in out
    content = json.loads(file.read_text())
    assert torch.__version__.startswith(content["versions"]["torch"])
    assert content["size"]["height"] == 64
    assert content["step"]["step_seconds"] > 0
    assert content["step"]["images_per_second"] == pytest.approx(2 / content["step"]["step_seconds"])
    assert content["step"]["precision"] == "fp32"

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
        (["eval"], "benchmark measures training steps, not 'eval'"),
        (["--size", "65x96"], "multiples of 32"),
        (["--json", tmp_path], f"--json {tmp_path} can't be written: Is a directory"),
        (["--trace", tmp_path / "file" / "trace.json"], "can't be written: "),
    ]
    for wrong, message in wrongs:
        code, _, err = call("benchmark", *wrong)
        assert code == 2
        assert message in err
