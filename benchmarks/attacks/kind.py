"""A kind of attack, whose trials are seeded, and a process that may die or hang in place of the campaign."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from abc import ABC, abstractmethod
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple, Self

import denseteacher

PACKAGE = Path(denseteacher.__file__).parent
HELD, REFUSED, FAILED = "held", "refused", "failed"
"""Verdicts: there is a right result; there is a sentence in its place; neither."""


class FailureError(Exception):
    """An attack got through; the message says how."""


class Verdict(NamedTuple):
    """What came of a trial."""

    kind: str
    trial: int
    outcome: str
    """``HELD``, ``REFUSED`` or ``FAILED``."""
    reason: str
    """Of a failure; else empty."""
    seconds: float


class Kind(ABC):
    """A kind of attack."""

    label: str
    """Name of its row."""
    share: float = 1.0
    """Of the campaign's time, over the sum of all shares."""
    timeout: float = 120.0
    """Seconds after which a trial hangs."""

    def prepare(self, folder: Path) -> None:  # noqa: B027 (most need it, not all)
        """Makes what the trials share.

        Args:
            folder: Empty, and left as it is by the trials.
        """

    def enter(self) -> None:  # noqa: B027
        """Prepares a process in which trials are made."""

    @abstractmethod
    def attack(self, number: int, rng: random.Random, folder: Path) -> str:
        """Makes one attack.

        Args:
            number: Of the trial.
            rng: All that is random comes from it.
            folder: Empty; removed afterwards.

        Returns:
            ``HELD`` or ``REFUSED``.

        Raises:
            FailureError: If the attack got through; any other exception says so too.
        """


class Worker:
    """A process that tries attacks of one kind, forked from this one, which has imported all that they need."""

    def __init__(self, kind: Kind, seed: int) -> None:
        """Starts the process.

        Args:
            kind: Prepared.
            seed: Of the campaign.
        """
        self.kind = kind
        context = multiprocessing.get_context("fork")
        self._folder = tempfile.TemporaryDirectory(prefix="attacks-", ignore_cleanup_errors=True)
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(kind, seed, there, self._folder.name), daemon=False)
        self._process.start()
        there.close()
        self._here.recv()  # its group is its own now

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid or 0, signal.SIGKILL)
        self._process.join()
        self._here.close()
        self._folder.cleanup()

    def attempt(self, number: int) -> Verdict:
        """Makes one trial; after one that failed by a hang or a crash the worker is of no use."""
        start = time.perf_counter()
        self._here.send(number)
        ready = wait([self._here, self._process.sentinel], timeout=self.kind.timeout)
        outcome, reason = FAILED, f"hang: no answer within {self.kind.timeout:g} s"
        if ready:
            try:
                outcome, reason = self._here.recv()
            except (EOFError, ConnectionResetError):
                self._process.join()
                reason = f"crash: the process ended with {self._process.exitcode}"
        return Verdict(self.kind.label, number, outcome, reason, time.perf_counter() - start)

    @property
    def is_usable(self) -> bool:
        """Whether it can make another trial."""
        return self._process.is_alive()


def _serve(kind: Kind, seed: int, connection: Connection, folder: str) -> None:
    os.setsid()  # so that what it starts ends with it
    kind.enter()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    connection.send("ready")
    while True:
        try:
            number = connection.recv()
        except EOFError:
            return
        connection.send(_judged(kind, seed, number, folder))
        sys.stdout.flush()


def _judged(kind: Kind, seed: int, number: int, parent: str) -> tuple[str, str]:
    rng = random.Random(f"{seed}/{kind.label}/{number}")
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        return kind.attack(number, rng, folder), ""
    except FailureError as error:
        return FAILED, str(error)[:1000]
    except BaseException as error:  # whatever was raised, it was no sentence
        return FAILED, described(error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def described(error: BaseException) -> str:
    """An exception in a line, with the last line of the package that it went through."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename).is_relative_to(PACKAGE)]
    where = f" in {Path(own[-1].filename).relative_to(PACKAGE)}:{own[-1].lineno}" if own else ""
    return f"{type(error).__name__}{where}: {error}"[:1000]
