"""How many threads a run uses and how they wait. How fast that is decides nothing."""

import json
import os
import subprocess
import sys

import pytest
import torch

from denseteacher import threads
from denseteacher.training.runtime import Runtime, RuntimeConfig

_CPU = {"device": "cpu", "precision": "fp32"}


def _seen_after(statement, **environment):
    """What a new process has in its environment after a statement, and whether torch was imported by then."""
    own = {key: value for key, value in os.environ.items() if key not in threads._WAITING} | environment
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
    assert _seen_after(_COMMAND) == [threads._SPINS, False]
    assert _seen_after(_COMMAND, GOMP_SPINCOUNT="1000") == ["1000", False]
    assert _seen_after(_COMMAND, OMP_WAIT_POLICY="active") == [None, False]


def test_an_import_alone_sets_nothing():
    assert _seen_after("import denseteacher") == [None, False]


def test_waiting_is_set_by_the_first_use_of_the_api(monkeypatch):
    for name in threads._WAITING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GOMP_SPINCOUNT", "")  # so that it is put back afterwards
    monkeypatch.delenv("GOMP_SPINCOUNT")
    import denseteacher

    assert callable(denseteacher.train)
    assert os.environ["GOMP_SPINCOUNT"] == threads._SPINS


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinity is Linux's")
def test_cores_are_those_of_the_affinity(monkeypatch, tmp_path):
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 6})
    assert threads.available_cores() == 3


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
    monkeypatch.setattr(threads, "_CGROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert threads.available_cores() == cores


@pytest.fixture
def set_threads(monkeypatch):
    """The numbers of threads that torch was given."""
    given = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    monkeypatch.setattr(threads, "available_cores", lambda: 6)
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
