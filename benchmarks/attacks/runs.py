"""Runs that are killed, ended or refused a disk, go on, and are compared with one that nothing disturbs."""

import errno
import os
import random
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from attacks.file_events import FileEvents, count_events
from attacks.judge import require_sound
from attacks.kind import HELD, REFUSED, FailureError, Kind
from attacks.tiny_run import TinyRun

_KILLED = 137


class RunAttack(Kind):
    """A kind of attack on a run, of which there is one for all."""

    timeout = 150.0

    def __init__(self, run: Callable[[], TinyRun]) -> None:
        """Takes what gives the run."""
        self._run = run

    def prepare(self, folder: Path) -> None:
        """Asks for the run."""
        self.run = self._run()


class Kills(RunAttack):
    """SIGKILL at a random time, once to three times, then ``--resume``."""

    label = "SIGKILL at a random time"
    share = 5.0

    def attack(self, number: int, rng: random.Random, folder: Path) -> str:
        """Kills, resumes and compares."""
        output = folder / "run"
        for _ in range(rng.choice((1, 1, 2, 3))):
            answer = self.run.train(output, kill_after=rng.random() * self.run.seconds)
            if answer.code not in (0, -signal.SIGKILL):
                raise FailureError(f"it does not go on: exit code {answer.code}: ...{answer.text[-700:]}")
        self.run.finish(output)
        return HELD


class Events(RunAttack):
    """An abrupt end at a file event; the trials go through all of them in a random order."""

    label = "end at a file event"
    share = 6.0

    def prepare(self, folder: Path) -> None:
        """Counts the events."""
        super().prepare(folder)
        self.count = count_events(self.run)

    def attack(self, number: int, rng: random.Random, folder: Path) -> str:
        """Ends, resumes and compares."""
        order = list(range(1, self.count + 1))
        random.Random(self.count).shuffle(order)
        at, output = order[number % self.count], folder / "run"

        def end(event: int, name: str) -> None:
            if event == at:
                os._exit(_KILLED)

        answer = self.run.train(output, before=lambda: FileEvents(output, end).begin())
        if answer.code not in (0, _KILLED):
            raise FailureError(f"exit code {answer.code}: ...{answer.text[-700:]}")
        try:
            self.run.finish(output)
        except FailureError as error:
            raise FailureError(f"ended at event {at} of {self.count}: {error}") from error
        return HELD


class FullDisk(RunAttack):
    """A disk that is full from a file event on, once at one, or for files beyond a size."""

    label = "full disk"
    share = 5.0

    def prepare(self, folder: Path) -> None:
        """Counts the events."""
        super().prepare(folder)
        self.count = count_events(self.run)
        self.largest = max(file.stat().st_size for file in self.run.folder.rglob("*") if file.is_file())

    def attack(self, number: int, rng: random.Random, folder: Path) -> str:
        """Fills the disk, looks at the answer, frees it, resumes and compares."""
        output, at, way = folder / "run", rng.randint(1, self.count), rng.choice(("once", "from then on", "size"))
        size = int(self.largest ** rng.random()) if rng.random() < 0.5 else rng.randint(0, self.largest)

        def refuse(event: int, name: str) -> None:
            if event == at or (event > at and way == "from then on" and name != "os.remove"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def bound() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        before = bound if way == "size" else FileEvents(output, refuse).begin
        answer = self.run.train(output, before=before)
        what = f"largest file {size} bytes" if way == "size" else f"full {way}, event {at} of {self.count}"
        try:
            if answer.code != 0 or "Traceback" in answer.text:
                require_sound(answer, (1,))
            self.run.finish(output)
        except FailureError as error:
            raise FailureError(f"{what}: {error}") from error
        return HELD if answer.code == 0 else REFUSED
