"""Loader processes: how they begin, and how their end is noticed."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import active_children
from multiprocessing.queues import Queue
from typing import TypeVar

from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

T = TypeVar("T")
_FILES_A_WORKER = 6
"""Descriptors that the main process needs to start a loader process: those of its pipes."""


@contextmanager
def loading(loader: DataLoader[T]) -> Iterator[Iterator[T]]:
    """Has loader processes while it is entered, all or none of them.

    They end with it, whoever still holds the iterator: the traceback of an error does, and since they ignore signals,
    the main process would wait for them without end.

    Raises:
        OSError: If the machine has too little for them.
    """
    files = [os.open(os.devnull, os.O_RDONLY)]
    try:  # torch can't take back a process that it has started when the pipes of the next one are refused
        files += [os.dup(files[0]) for _ in range(_FILES_A_WORKER * loader.num_workers)]
    finally:
        for file in files:
            os.close(file)
    before = set(active_children())
    try:
        stream = iter(loader)
    except BaseException:
        for child in set(active_children()) - before:
            child.kill()  # it ignores other signals, and nobody will tell it to leave
        raise
    try:
        yield stream
    finally:
        if isinstance(stream, _MultiProcessingDataLoaderIter):
            stream._shutdown_workers()  # what torch does once nobody holds it


def begin_worker(number: int) -> None:
    """What a loader process does first."""
    ignore_signals(number)
    # a batch that can't be sent, for lack of open files or shared memory, would be waited for without end
    Queue._on_queue_feeder_error = _die  # type: ignore[attr-defined]
    sys.excepthook = _die  # of the thread that hands out shared memory, which would try again and again


def _die(*_: object) -> None:
    os._exit(1)


@contextmanager
def loader_deaths_awaited() -> Iterator[None]:
    """Lets the death of a loader process be noticed where its batch is waited for.

    Torch raises an error in the middle of whatever the main process does, which may be half of a step.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # others may not set handlers
        return
    previous = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, previous if previous is not None else signal.SIG_DFL)


@contextmanager
def handover() -> Iterator[None]:
    """Says what it means that a batch breaks off while a loader process hands it over: the process is gone.

    Raises:
        RuntimeError: In place of an error of the connection to it.
    """
    try:
        yield
    except (OSError, EOFError) as error:
        raise RuntimeError("a DataLoader worker was gone before its batch was taken over") from error


def ignore_signals(_: int) -> None:
    """A signal to the whole process group must not take the loader from under the run's last step.

    ``loading`` tells the workers to leave in the end; when the main process dies, they do so by themselves.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
