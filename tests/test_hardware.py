"""Threads and how they wait, kept memory, precision. How fast that is decides nothing."""

import json
import os
import subprocess
import sys

import pytest
import torch

from denseteacher import hardware
from denseteacher.errors import InputError
from denseteacher.hardware import chosen_precision, this_machine
from denseteacher.training import runtime
from denseteacher.training.runtime import Runtime, RuntimeConfig

_CPU = {"device": "cpu", "precision": "fp32"}


def _seen_after(statement, **environment):
    """What a new process has in its environment after a statement, and whether torch was imported by then."""
    own = {key: value for key, value in os.environ.items() if key not in hardware._WAITING} | environment
    seen = "print(json.dumps([os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules]))"
    code = f"import json, os, sys\n{statement}\n{seen}"
    done = subprocess.run([sys.executable, "-c", code], env=own, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


_COMMAND = """
import denseteacher.cli
sys.argv = ["denseteacher", "--help"]
try:
    denseteacher.cli.main()
except SystemExit:
    pass
"""


def test_waiting_is_set_by_a_command_before_torch_is_there():
    assert _seen_after(_COMMAND) == [hardware._SPINS, False]
    assert _seen_after(_COMMAND, GOMP_SPINCOUNT="1000") == ["1000", False]
    assert _seen_after(_COMMAND, OMP_WAIT_POLICY="active") == [None, False]


def test_an_import_alone_sets_nothing():
    assert _seen_after("import denseteacher") == [None, False]


def test_waiting_is_set_by_the_first_use_of_the_api(monkeypatch):
    for name in hardware._WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that it is put back afterwards
    monkeypatch.delenv("GOMP_SPINCOUNT")
    import denseteacher

    assert callable(denseteacher.train)
    assert os.environ["GOMP_SPINCOUNT"] == hardware._SPINS


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinity is Linux's")
def test_cores_are_those_of_the_affinity(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "_CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 6})
    assert hardware.available_cores() == 3


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({}, 8),
    ],
)
def test_a_containers_quota_is_kept(monkeypatch, tmp_path, files, cores):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(hardware, "_CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert hardware.available_cores() == cores


@pytest.fixture
def set_threads(monkeypatch):
    """The numbers of threads that torch was given."""
    given = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(runtime, "available_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return given


def test_a_run_uses_the_cores_that_it_may(set_threads, monkeypatch):
    Runtime(RuntimeConfig(**_CPU))
    assert set_threads == [6]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)  # torch's own choice is not raised
    Runtime(RuntimeConfig(**_CPU))
    assert set_threads == [6]


def test_a_users_own_number_of_threads_wins(set_threads, monkeypatch):
    Runtime(RuntimeConfig(**_CPU, threads=9))
    assert set_threads == [9]
    monkeypatch.setenv("OMP_NUM_THREADS", "16")
    Runtime(RuntimeConfig(**_CPU))
    assert set_threads == [9]


_FAULTS = """
import resource, torch
from denseteacher.training.runtime import Runtime, RuntimeConfig
torch.set_num_threads(1)
if {runs}:
    Runtime(RuntimeConfig(device="cpu", precision="fp32"))
for count in range(30):
    if count == 25:  # the heap has found its shape by then: a freed block may first be taken by something smaller
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(2**24)  # 64 MB
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator is Linux's")
def test_a_run_on_a_cpu_does_not_fetch_its_memory_anew_at_every_step():
    found = [
        subprocess.run([sys.executable, "-c", _FAULTS.format(runs=runs)], check=True, capture_output=True, text=True)
        for runs in (False, True)
    ]
    without, kept = (int(done.stdout) for done in found)
    assert kept < without / 10


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(hardware.ctypes, "CDLL", lambda _: object())
    hardware.keep_freed_memory()


@pytest.mark.parametrize(("made_for_it", "precision"), [(True, "bf16"), (False, "fp32")])
def test_a_gpu_that_only_emulates_bf16_computes_in_fp32(monkeypatch, made_for_it, precision):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or made_for_it)
    assert this_machine().device == "cuda"
    assert chosen_precision("auto", "cuda", this_machine()) == precision
    assert chosen_precision("bf16", "cuda", this_machine()) == "bf16"


@pytest.mark.parametrize("seen", [False, True])
def test_a_cpu_computes_in_fp32_unless_told_otherwise(monkeypatch, seen):
    def refuse(**_):
        raise RuntimeError("the driver is broken")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: seen)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", refuse)  # of a GPU that isn't used
    assert this_machine().device == ("cuda" if seen else "cpu")
    assert chosen_precision("auto", "cpu", this_machine()) == "fp32"
    assert chosen_precision("bf16", "cpu", this_machine()) == "bf16"


def test_who_asks_for_bf16_on_a_cpu_where_it_is_wrong_is_told_so(monkeypatch):
    config = RuntimeConfig(device="cpu", precision="bf16")
    assert Runtime(config).precision == "bf16"
    exact = torch.nn.functional.conv2d

    def wrong(pixels, weight, **options):
        found = exact(pixels, weight, **options)
        return found * 1.1 if found.dtype == torch.bfloat16 else found

    monkeypatch.setattr(torch.nn.functional, "conv2d", wrong)
    with pytest.raises(InputError, match=r"bf16 is wrong on this CPU .* take fp32"):
        Runtime(config)


def test_what_was_not_resolved_is_not_guessed():
    for config in (RuntimeConfig(), RuntimeConfig(device="cpu"), RuntimeConfig(precision="fp32")):
        with pytest.raises(ValueError, match="resolve the recipe first"):
            Runtime(config)
