"""Facts of this machine and its process: cores, waiting threads, kept memory, precision, compiler.

What is needed before torch is imported stands here too, so nothing heavy is imported until it is asked for.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from denseteacher.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_SPINS = "10000"  # nearly as quick as libgomp's default on a quiet machine, and quicker on a busy one
_BF16_TOLERANCE = 0.02  # of the largest output; bf16 keeps 8 bits
_CGROUPS = Path("/sys/fs/cgroup")
_KEEP_MEMORY = {-3: 2**30, -1: 2**31 - 1}
"""Options of glibc's ``mallopt``, in bytes: from which size on memory is the system's (M_MMAP_THRESHOLD), and how much
may lie unused at the top (M_TRIM_THRESHOLD)."""


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


def keep_freed_memory() -> None:
    """Lets the C library keep the memory of freed tensors, where it is glibc.

    By default it gives large ones back to the system, which hands every step the same pages anew, filled with zeros.
    Kept, a small step takes 13 to 19 % less time, and the process as much memory (benchmarks/results/kept_memory.json).
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library, or another system
        return
    for option, value in _KEEP_MEMORY.items():
        set_option(option, value)


class Machine(NamedTuple):
    """What ``auto`` depends on of a machine."""

    device: Literal["cpu", "cuda"]
    """``cuda`` where torch sees a GPU."""
    has_bf16: Callable[[], bool]
    """Whether that GPU is made for bf16, as those of compute capability 8 (Ampere) and later are. Who computes on the
    CPU never calls it: it starts the GPU's driver."""


def this_machine() -> Machine:
    """The facts of the machine that this process runs on."""
    import torch

    return Machine(
        "cuda" if torch.cuda.is_available() else "cpu",
        lambda: torch.cuda.is_bf16_supported(including_emulation=False),
    )


def chosen_precision(
    precision: Literal["auto", "fp32", "bf16"], device_type: str, machine: Machine
) -> Literal["fp32", "bf16"]:
    """What ``auto`` means on a device: bf16 on a GPU made for it, fp32 on any other and on a CPU.

    Nothing is timed. bf16 convolutions on CPUs are slower than fp32 ones with some torch versions (pytorch#183815), and
    wrong with others (pytorch#163347), so there it is for those who ask for it (``check_bf16``).
    """
    if precision != "auto":
        return precision
    return "bf16" if device_type == "cuda" and machine.has_bf16() else "fp32"


def check_bf16(device: torch.device) -> None:
    """Compares a CPU's convolutions in bf16 with those in fp32, so that who asked for bf16 is told where it is wrong.

    Args:
        device: Where to compute; what is not a CPU is trusted.

    Raises:
        InputError: If they differ by more than bf16's 8 bits explain (as in pytorch#163347).
    """
    if device.type != "cpu":
        return
    import torch

    rng = torch.Generator().manual_seed(0)
    for channels, side in ((32, 48), (64, 24), (128, 12)):
        pixels = torch.randn((8, channels, side, side), generator=rng).to(memory_format=torch.channels_last)
        weight = torch.randn((channels, channels, 3, 3), generator=rng) / (3 * channels**0.5)
        with torch.no_grad():
            exact = torch.nn.functional.conv2d(pixels, weight, padding=1)
            found = torch.nn.functional.conv2d(pixels.bfloat16(), weight.bfloat16(), padding=1).float()
        error = float((found - exact).abs().max() / exact.abs().max())
        if not error < _BF16_TOLERANCE:
            raise InputError(
                f"bf16 is wrong on this CPU with torch {torch.__version__}: its convolutions are off by {error:.2g} of "
                "the largest value, and rounding explains 0.02; take fp32"
            )


def check_compiler(device: torch.device) -> None:
    """Compiles a small function, so that who asked for compilation is told when the run begins, not steps later.

    Args:
        device: Where to compute; a CPU needs a C++ compiler, a GPU Triton and a C compiler.

    Raises:
        InputError: If that fails.
    """
    import torch

    def function(values: Tensor) -> Tensor:
        return values.sin() + 1

    try:
        torch.compile(function)(torch.zeros(8, device=device))
    except Exception as error:  # whatever is missing fails in its own way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(
            f"torch can't compile on this machine's {device.type} ({reason}): install what it needs, a C++ compiler or "
            "Triton, or leave runtime.compile and --compile out"
        ) from error
