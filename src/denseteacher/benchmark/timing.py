"""Times of several pieces of work, taken in turns so that whatever else the machine does hits all alike."""

import resource
import sys
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

_KNOWN_PEAKS = {"H100": 989.4, "H200": 989.4, "A100": 312.0, "B200": 2250.0, "L40S": 362.0, "L4": 121.0, "A10": 125.0}
"""Dense bf16 TFLOP/s by name, from the data sheets."""


def in_turns(
    work: Mapping[str, Callable[[], object]], *, rounds: int, warm: int = 1, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each piece of work, one after the other in every round.

    Args:
        work: By name; each ends when the device has done it.
        rounds: That count.
        warm: Rounds before that do not.
        device: To wait for.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(warm + rounds):
        for name, run in work.items():
            wait(device)
            start = time.perf_counter()
            run()
            wait(device)
            if number >= warm:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def medians(seconds: Mapping[str, list[float]]) -> dict[str, float]:
    """Of each piece of work."""
    return {name: median(values) for name, values in seconds.items()}


def ratio_of_medians(seconds: Mapping[str, list[float]], above: str, below: str) -> float:
    """Median over the rounds of one time over another's of the same round."""
    return median(one / other for one, other in zip(seconds[above], seconds[below], strict=True))


def wait(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> float:
    """GiB: of a GPU what tensors took at most, of a CPU what the process took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def peak_speed(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """TFLOP/s that the device can do at most, and where the number is from.

    A known GPU's bf16 peak is the data sheet's; anything else is what a large matrix product reaches.
    """
    if device.type == "cuda" and dtype is torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        known = next((peak for part, peak in _KNOWN_PEAKS.items() if part in name), None)
        if known is not None:
            return known, "data sheet"
    side = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn((side, side), device=device, dtype=dtype) for _ in range(2))
    seconds = in_turns({"product": lambda: left @ right}, rounds=5, warm=2, device=device)["product"]
    return 2 * side**3 / min(seconds) / 1e12, f"product of {side} x {side} matrices"
