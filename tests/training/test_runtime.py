"""What a run sets for its process."""

import subprocess
import sys

import pytest

_FAULTS = """
import resource, torch
from denseteacher.training.runtime import Runtime, RuntimeConfig
torch.set_num_threads(1)
if {runs}:
    Runtime(RuntimeConfig(device="cpu"))
for count in range(20):
    if count == 2:
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
    from denseteacher.training import runtime

    monkeypatch.setattr(runtime.ctypes, "CDLL", lambda _: object())
    runtime.keep_freed_memory()
