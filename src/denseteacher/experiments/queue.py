"""Trains a list of runs, several at a time, each in a process and a folder of its own."""

import fcntl
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from denseteacher.experiments.plan import (
    Run,
    RunNotes,
    asked_file,
    has_burn_in,
    is_finished,
    log_file,
    read_notes,
    read_record,
    stored_burn_ins,
    write_notes,
)
from denseteacher.files import write_text
from denseteacher.recipes.differences import BURN_IN_MAY_CHANGE, changed_keys, flat_recipe
from denseteacher.recipes.schema import dump_recipe
from denseteacher.runs.folder import RunFolder
from denseteacher.training.signals import StopRequest

_POLL = 0.1  # s


class _Child(NamedTuple):
    """A run in its process."""

    run: Run
    process: subprocess.Popen[bytes]
    log: Path
    read_from: int
    """Where its part of the log begins."""
    since: float


class RunQueue:
    """Trains runs that aren't finished, each with ``denseteacher train``.

    A run that was begun goes on. The others start from the burn-in of one of them where there is the same one.
    """

    def __init__(self, folder: Path, *, jobs: int, on_event: Callable[[str], None]) -> None:
        """Starts nothing yet.

        Args:
            folder: Holds the folders of the runs.
            jobs: Processes at a time.
            on_event: Called with a sentence whenever a run begins or ends.
        """
        self.folder, self.jobs, self.on_event = folder, jobs, on_event
        self.failures: dict[str, str] = {}
        self._waiting: list[Run] = []
        self._running: list[_Child] = []
        self._sources: dict[str, Run] = {}
        self._elsewhere: set[str] = set()
        self._asked_to_stop = False

    def train(self, runs: Sequence[Run]) -> str | None:
        """Trains all runs; SIGINT or SIGTERM make those that run save and leave.

        Returns:
            The name of the signal that ended it early.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self._waiting = list(runs)
        self._sources = self._burn_in_sources(runs)
        with StopRequest() as stop:
            try:
                while self._running or (self._waiting and stop.signal is None):
                    if stop.signal is None:
                        self._start_ready()
                    elif not self._asked_to_stop:
                        self._asked_to_stop = True
                        self.on_event(f"{stop.signal.name}: {len(self._running)} runs save and leave")
                        for child in self._running:
                            child.process.terminate()
                    time.sleep(_POLL)
                    self._collect_ended()
            finally:
                for child in self._running:
                    child.process.kill()
        return None if stop.signal is None else stop.signal.name

    def _burn_in_sources(self, runs: Sequence[Run]) -> dict[str, Run]:
        """The run whose burn-in is that of each run: one that has it already, or else the first."""
        first: dict[tuple[str, int | str | None], Run] = {}
        begun = [run for run in runs if has_burn_in(run, self.folder)]
        for run in (*begun, *stored_burn_ins(self.folder), *runs):
            if run.burn_in:
                first.setdefault((run.group, run.burn_in), run)
                first.setdefault((run.group, None), run)
        found = {run.name: first.get((run.group, run.burn_in)) for run in runs}
        return {name: source for name, source in found.items() if source is not None and source.name != name}

    def _start_ready(self) -> None:
        """Starts runs whose burn-in is there, or won't come."""
        for run in list(self._waiting):
            if is_finished(run, self.folder):  # before, or meanwhile by another call
                self._waiting.remove(run)
        pending = {run.name for run in self._waiting} | {child.run.name for child in self._running}
        for run in list(self._waiting):
            if len(self._running) >= self.jobs:
                return
            source = self._sources.get(run.name)
            if source is not None and source.name in pending and not has_burn_in(source, self.folder):
                continue
            child = self._start(run, source)
            if child is not None:
                self._waiting.remove(run)
                self._running.append(child)
            elif run.name not in self._elsewhere:
                self._elsewhere.add(run.name)
                self.on_event(f"{run.label}: another call trains it, which is waited for")

    def _start(self, run: Run, source: Run | None) -> _Child | None:
        """A process that trains the run; None while a process of another call does."""
        path = self.folder / run.name
        own, log = RunFolder(path), log_file(path)
        with log.open("ab") as stream:
            try:
                # held until the process ends, even if it outlives us: two must not write to one folder
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            command = [sys.executable, "-m", "denseteacher.cli", "train"]
            begun = own.has_checkpoint
            if begun:  # with its own recipe: what was decided or measured when it began stays
                notes = read_notes(path)
                command += [str(own.recipe_file), "--resume"]
            else:
                shutil.rmtree(path, ignore_errors=True)  # nothing to go on from
                notes = RunNotes(source.name if source is not None and self._can_share(run, source) else None)
                command += [str(self._write_recipe(run))]
                if notes.burn_in_from is not None:
                    command += ["--burn-in-from", str(self.folder / notes.burn_in_from)]
            write_notes(path, notes._replace(seconds=(*notes.seconds, None)))
            self.on_event(f"{run.label}: {'goes on' if begun else 'begins'} in {path}")
            read_from = stream.tell()
            process = subprocess.Popen(
                [*command, "--output", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,  # a terminal's Ctrl-C is for us, who pass it on once
            )
        return _Child(run, process, log, read_from, time.monotonic())

    def _write_recipe(self, run: Run) -> Path:
        file = asked_file(self.folder / run.name)
        write_text(file, dump_recipe(run.recipe))
        return file

    def _can_share(self, run: Run, source: Run) -> bool:
        if not has_burn_in(source, self.folder):
            return False
        done = RunFolder(self.folder / source.name).recipe_content()
        now = flat_recipe(run.recipe.model_dump(mode="json"))
        return all(now.get(key) == "auto" for key in changed_keys(run.recipe, done, BURN_IN_MAY_CHANGE))

    def _collect_ended(self) -> None:
        for child in [one for one in self._running if one.process.poll() is not None]:
            self._running.remove(child)
            run, path = child.run, self.folder / child.run.name
            seconds = time.monotonic() - child.since
            notes = read_notes(path)
            write_notes(path, notes._replace(seconds=(*notes.seconds[:-1], round(seconds, 1))))
            if child.process.returncode == 0:
                found = read_record(run, self.folder).metrics.get("teacher/AP")
                self.on_event(f"{run.label}: {seconds:.0f} s" + ("" if found is None else f", AP {found:.1f}"))
            elif not self._asked_to_stop:
                self.failures[run.name] = _last_sentence(child)
                self.on_event(f"{run.label} failed: {self.failures[run.name]}")


def _last_sentence(child: _Child) -> str:
    """The error of a process: what ``denseteacher`` said, or else its last line."""
    with child.log.open("rb") as stream:
        stream.seek(child.read_from)
        lines = [line.strip() for line in stream.read().decode(errors="replace").splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("denseteacher: ")] or lines
    return said[-1].removeprefix("denseteacher: ") if said else f"exit code {child.process.returncode}"
