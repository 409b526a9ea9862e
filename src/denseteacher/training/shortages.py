"""What a step had too little of: memory, open files, processes, values. Errors of many places in one sentence each."""

import errno
import re
from collections.abc import Iterator
from traceback import clear_frames

_WORKER = re.compile(r"DataLoader worker|worker process|killed by signal", re.I)
_MEMORY = re.compile(r"out of memory|allocate memory|not enough memory|std::bad_alloc", re.I)
_SHARED = re.compile(r"shared memory|/torch_\d+|\bshm\b|bus error", re.I)
_FILES = re.compile(r"too many open files|ancdata", re.I)
_PROCESSES = re.compile(r"can't start new thread|resource temporarily unavailable", re.I)
_VALUES = re.compile(r"more than 1 value per channel when training")
_CODES = {errno.ENOMEM: "memory", errno.EMFILE: "files", errno.ENFILE: "files", errno.EAGAIN: "processes"}
_SENTENCES = {
    "memory": (
        "memory ran out{detail}: a smaller data.labeled_batch, data.unlabeled_batch or augment.weak.max_side, more "
        "schedule.accumulate, or on the CPU's side fewer runtime.workers need less"
    ),
    "files": "too many files are open{detail}: raise the limit (ulimit -n 4096), or lower runtime.workers",
    "shared": (
        "the shared memory of the loader processes ran out{detail}: give the container more (docker run --shm-size=8g) "
        "or lower runtime.workers; with 0 none is needed"
    ),
    "processes": "no further process or thread could be started{detail}: lower runtime.workers, or raise ulimit -u",
    "worker": (
        "a loader process died{detail}, as where the system takes one away because memory runs out, or a batch can't "
        "be sent because too many files are open: lower runtime.workers, or allow more memory or files (ulimit -n)"
    ),
    "values": (
        "batch normalization had a single value a channel, which has no statistics: more images a step "
        "(data.labeled_batch, data.unlabeled_batch) or larger ones (augment.weak.short_side) have more, and "
        "detector.freeze_batch_norm=true needs none"
    ),
}


def explain_shortage(error: BaseException) -> str | None:
    """One sentence on what there was too little of; None where an error is about something else.

    Args:
        error: Of a step, a loader or an evaluation, with what it came from.
    """
    kind = next((kind for one in _chain(error) if (kind := _kind(one)) is not None), None)
    if kind is None:
        return None
    said = re.search(r"Tried to allocate [\d.]+ \w+|you tried to allocate \d+ bytes|killed by signal: \w+", str(error))
    return _SENTENCES[kind].format(detail=f" ({said[0]})" if said else "")


def let_go(error: BaseException) -> None:
    """Lets go of what an error and what it came from hold on to: it may be what there is too little of."""
    for one in _chain(error):
        clear_frames(one.__traceback__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The cause first, since what was raised because of it says less."""
    if error is not None:
        yield from _chain(error.__cause__ or error.__context__)
        yield error


def _kind(error: BaseException) -> str | None:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno in _CODES:
        return _CODES[error.errno]
    if isinstance(error, ValueError):
        return "values" if _VALUES.search(str(error)) else None
    if not isinstance(error, RuntimeError | OSError):
        return None
    patterns = {"files": _FILES, "memory": _MEMORY, "shared": _SHARED, "processes": _PROCESSES, "worker": _WORKER}
    return next((kind for kind, pattern in patterns.items() if pattern.search(str(error))), None)
