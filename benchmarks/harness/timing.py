"""Times of several pieces of work, taken in turns so that whatever else the machine does hits all alike."""

import gc
import resource
import sys
import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def in_turns(
    work: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm: int = 1,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each piece of work, one after the other in every round.

    Args:
        work: By name; each ends when the device has done it.
        rounds: That count.
        warm: Rounds before that do not.
        device: To wait for.
        clock: Tells the time in seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for number in range(warm + rounds):
        for name, run in work.items():
            wait(device)
            start = clock()
            run()
            wait(device)
            if number >= warm:
                seconds[name].append(clock() - start)
    return seconds


def undisturbed_clock(device: torch.device) -> Callable[[], float]:
    """On one thread of a CPU the time that the process was given, so that other programs are not measured too.

    Of several threads it would be a sum that counts what they wait for each other.
    """
    return time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter


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


def forget_peak_memory(device: torch.device) -> None:
    """Lets a GPU's ``peak_memory`` begin anew, without what is no longer used. A CPU's never falls."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """GiB: of a GPU what tensors took at most, of a CPU what the process took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
