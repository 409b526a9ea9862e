"""What a machine can do, and what its owner is told. The command always ends well."""

import json
import tomllib
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from denseteacher.check import machine
from denseteacher.check.machine import EXTRAS, inspect_machine
from denseteacher.errors import InputError
from denseteacher.hardware import Machine

ROOT = Path(__file__).parents[2]
Usage = namedtuple("Usage", "total used free")


def test_the_command_says_all_and_writes_it(call, tmp_path):
    code, out, err = call("doctor", "--output", tmp_path / "not" / "yet", "--json", tmp_path / "machine.json")
    assert code == 0, err
    found = json.loads((tmp_path / "machine.json").read_text())
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["disk"] == str(tmp_path)
    assert found["precision"] in ("fp32", "bf16")
    assert set(found["extras"]) == {extra.name for extra in EXTRAS}
    for text in (found["system"], found["versions"]["timm"], f"free at {tmp_path}", "precision", "torch.compile"):
        assert text in out
    assert all(f"- {sentence}" in out for sentence in found["advice"])


def test_every_extra_that_a_user_may_miss_is_known():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {extra.name for extra in EXTRAS} == set(declared) - {"test", "dev", "docs"}


def _on_gpus(monkeypatch, names, *, bf16=True):
    monkeypatch.setattr(machine, "this_machine", lambda: Machine("cuda", lambda: bf16))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(names))
    facts = [SimpleNamespace(name=name, total_memory=80 * 2**30, major=9, minor=0) for name in names]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda place: facts[place])


def test_gpus_are_named_with_their_memory_and_precision(call, monkeypatch):
    _on_gpus(monkeypatch, ["Fast", "Fast"])
    code, out, err = call("doctor")
    assert code == 0, err
    assert "GPU 1             Fast, 80 GiB, compute capability 9.0" in out
    assert "bf16, since the GPU is made for bf16" in out
    assert "train --devices 2 uses them all" in out


def test_an_old_gpu_computes_in_fp32(monkeypatch, tmp_path):
    _on_gpus(monkeypatch, ["Old"], bf16=False)
    report = inspect_machine(tmp_path)
    assert report.precision == "fp32"
    assert report.precision_reason == "the GPU is not made for bf16"


@pytest.mark.parametrize(
    ("built_for", "words"), [(None, "built for CPUs alone"), ("13.0", "its driver may be too old")]
)
def test_a_gpu_that_torch_can_not_use_is_explained(monkeypatch, tmp_path, built_for, words):
    (tmp_path / "version").write_text("NVRM")
    monkeypatch.setattr(machine, "this_machine", lambda: Machine("cpu", lambda: False))
    monkeypatch.setattr(machine, "_NVIDIA", tmp_path / "version")
    monkeypatch.setattr(torch.version, "cuda", built_for)
    assert words in inspect_machine(tmp_path).advice[0]


def test_missing_extras_and_compilers_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    report = inspect_machine(tmp_path)
    assert not any(report.extras.values())
    assert sum('pip install "dense-teacher[' in sentence for sentence in report.advice) == len(EXTRAS)
    assert report.compiler is not None
    monkeypatch.setattr(machine, "this_machine", lambda: Machine("cuda", lambda: True))
    _on_gpus(monkeypatch, ["Fast"])
    assert inspect_machine(tmp_path).compiler == "Triton is not installed"


def test_a_compiler_that_fails_is_told_where_it_is_tried(call, monkeypatch):
    def fails(device):
        raise InputError(f"torch can't compile on this machine's {device.type} (no g++)")

    monkeypatch.setattr(machine, "check_compiler", fails)
    code, out, _ = call("doctor", "--compile")
    assert code == 0
    assert "can't work: torch can't compile on this machine's" in out


def test_little_disk_and_shared_memory_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "_SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda place: Usage(64 * 2**20, 0, 2**30))
    advice = "\n".join(inspect_machine(tmp_path).advice)
    assert "Only 1.0 GiB are free" in advice
    assert "--shm-size=8g" in advice
