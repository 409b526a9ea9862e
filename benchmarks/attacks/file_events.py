"""Every change that a process makes to the files below a folder, and an act at one of them."""

import contextlib
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from attacks.tiny_run import TinyRun


class FileEvents:
    """Counts what a process does to the files below a folder, and does something at one of the events."""

    def __init__(self, folder: Path, act: Callable[[int, str], None]) -> None:
        """Watches from ``begin`` on.

        Args:
            folder: The run folder.
            act: Called before each event with its number, from 1, and its name.
        """
        self._folder = str(folder)
        self._act = act
        self.count = 0

    def begin(self) -> None:
        """Watches this process until its end."""
        sys.addaudithook(self._audit)
        sync = os.fsync

        def watched(descriptor: int) -> None:
            with contextlib.suppress(OSError):
                self._meet("fsync", Path(f"/proc/self/fd/{descriptor}").readlink())
            sync(descriptor)

        os.fsync = watched

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self._meet("open", path)
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.truncate", "os.rmdir"):
            self._meet(event, arguments[0])

    def _meet(self, name: str, path: Any) -> None:
        if isinstance(path, str | bytes | os.PathLike) and os.fsdecode(path).startswith(self._folder):
            self.count += 1
            self._act(self.count, name)


@cache
def count_events(run: TinyRun) -> int:
    """File events of an undisturbed run."""
    tally, output = run.folder.with_name("events"), run.folder.with_name("counted")

    def note(number: int, name: str) -> None:
        with open(tally, "a") as file:  # noqa: PTH123
            file.write(f"{name}\n")

    run.train(output, before=lambda: FileEvents(output, note).begin())
    return len(tally.read_text().splitlines())
