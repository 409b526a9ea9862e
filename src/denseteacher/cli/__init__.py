"""The command line: parses, calls what does the work, prints. Exit codes: 0 done, 2 wrong usage or input, 1 failure."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from denseteacher.cli import benchmarks, datasets, detectors, experiments, labeling, machine, training
from denseteacher.cli.app import app
from denseteacher.cli.printing import remark
from denseteacher.errors import InputError, RunError
from denseteacher.hardware import limit_spinning

_INTERRUPTED = 130  # what typer makes of a KeyboardInterrupt
__all__ = ["app", "benchmarks", "datasets", "detectors", "experiments", "labeling", "machine", "main", "training"]


def main() -> None:
    """The console script. Wrong input is one sentence on stderr, never a traceback."""
    limit_spinning()
    try:
        with _terminable():
            app()
    except InputError as error:
        _fail(error, code=2)
    except RunError as error:
        _fail(error, code=1)
    except SystemExit as left:
        if left.code != _INTERRUPTED:
            raise
        _fail("interrupted", code=1)


def _fail(reason: Exception | str, *, code: int) -> None:
    remark(f"denseteacher: {reason}")
    sys.exit(code)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM is a KeyboardInterrupt too, so that whoever holds something half done can take it away."""
    if threading.current_thread() is not threading.main_thread():  # others may not set handlers
        yield
        return
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
