"""The processor's threads: how many a process may use, and what they do while they wait. Imports nothing heavy."""

import math
import os
from pathlib import Path

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_SPINS = "10000"  # nearly as quick as libgomp's default on a quiet machine, and quicker on a busy one
_CGROUPS = Path("/sys/fs/cgroup")


def limit_spinning() -> None:
    """Sets ``GOMP_SPINCOUNT`` for this process and those that it starts, unless the user has said otherwise.

    Threads that wait for each other spin by default, which is quickest while every thread has a core of its own. Where
    another program has taken one of the cores, the others burn theirs until that thread gets its turn, at each of the
    hundreds of parallel regions of a step. With this they spin for a moment, and then sleep
    (benchmarks/results/busy_cpu.json). OpenMP reads it once, so it must come before torch is imported.
    """
    if not any(name in os.environ for name in _WAITING):
        os.environ["GOMP_SPINCOUNT"] = _SPINS


def available_cores() -> int:
    """Cores that this process may use: those of its affinity (taskset, SLURM), within its container's quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return max(1, min([cores, *(math.floor(quota) for quota in _quotas())]))


def _quotas() -> list[float]:
    """Cores that control groups grant, of both versions; empty where they set no limit."""
    found = []
    for file in (_CGROUPS / "cpu.max", _CGROUPS / "cpu" / "cpu.cfs_quota_us"):
        try:
            words = file.read_text().split()
            if len(words) == 1:
                words.append((file.parent / "cpu.cfs_period_us").read_text())
            quota, period = float(words[0].replace("max", "-1")), float(words[1])
        except (OSError, ValueError, IndexError):  # another system, or nothing that can be read
            continue
        if quota > 0 and period > 0:
            found.append(quota / period)
    return found
