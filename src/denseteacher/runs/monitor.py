"""The live view of a run: what it shows of a run folder, and the server that shows it to this machine's browser."""

import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from denseteacher.errors import InputError
from denseteacher.recipes.schema import Recipe
from denseteacher.report.curves import ShownRun
from denseteacher.report.live_page import LivePicture, LiveRun, live_json, page_file
from denseteacher.report.local_server import Content, LocalServer, is_loopback
from denseteacher.runs.damage import damage_explained
from denseteacher.runs.folder import RunFolder
from denseteacher.runs.owner import FolderLock
from denseteacher.training.health import health_notes
from denseteacher.training.metrics_log import median_step_seconds

_PREVIEW = re.compile(r"(step_\d{6,12}|(un)?labeled_(weak|strong))\.jpg")
_LARGEST = 64 * 2**20  # bytes of a file that is sent
_REPORT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; sandbox allow-scripts"
)


class Monitor(NamedTuple):
    """A live view that is being served; used as a context manager, or closed by hand."""

    server: LocalServer
    warning: str | None
    """What must be known where other machines reach it."""

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return self.server.address

    def wait(self) -> None:
        """Waits until it is closed, or a KeyboardInterrupt comes."""
        self.server.wait()

    def close(self) -> None:
        """Ends it."""
        self.server.close()

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def monitor_run(folder: RunFolder, *, host: str = "127.0.0.1", port: int = 0) -> Monitor:
    """Serves the live view of a run, which may not have begun, from a thread of its own.

    Args:
        folder: Folder of the run.
        host: Where to listen; this machine alone if not given.
        port: Port; 0 for any that is free.

    Raises:
        InputError: If the folder is a file, or there can't be listened.
    """
    if folder.path.exists() and not folder.path.is_dir():
        raise InputError(f"{folder} is a file: give the folder of a run")
    server = LocalServer(WatchedRun(folder).find, host=host, port=port)
    port = int(server.address.rpartition(":")[2].rstrip("/"))
    warning = None
    if not is_loopback(host):
        warning = (
            f"whoever reaches {host} on the network sees this run, without a password and not encrypted; to see it "
            f"from one machine alone, leave --host out and open a tunnel there: ssh -L {port}:127.0.0.1:{port} MACHINE"
        )
    return Monitor(server, warning)


@contextmanager
def monitored(folder: RunFolder, notes: list[str], *, enabled: bool) -> Iterator[None]:
    """Serves the live view while the block runs; what fails in it is a warning and never the run's end.

    Args:
        folder: Folder of the run.
        notes: Sentences for the user, which get the address.
        enabled: Whether to serve at all.
    """
    server: Monitor | nullcontext[None] = nullcontext()
    if enabled:
        try:
            server = monitor_run(folder)
            notes.append(f"monitor: {server.address} on this machine, while the run lasts")
        except Exception as error:
            warnings.warn(f"there is no monitor: {error}", stacklevel=3)
    with server:
        yield


class WatchedRun:
    """What is served of a run folder: the page, its numbers, previews and the report, and nothing else.

    A file is one that this class names, by the run's own names; links are not followed. Files are read, never written.
    """

    def __init__(self, folder: RunFolder) -> None:
        """Reads nothing yet.

        Args:
            folder: Folder of the run, which may not be there yet.
        """
        self._folder = folder
        self._reading = threading.Lock()
        self._parsed: dict[Path, tuple[tuple[int, int, int], ShownRun]] = {}

    def find(self, path: str) -> Content | None:
        """What is served at a path such as ``/state.json``; None where there is nothing."""
        if path == "/state.json":
            return Content("application/json", live_json(self.live()))
        if path == "/report.html":
            data = _content(self._folder.report)
            return None if data is None else Content("text/html; charset=utf-8", data, _REPORT_POLICY)
        picture = self._pictures().get(path.removeprefix("/"))
        if picture is None:
            return page_file(path)
        data = _content(picture.file)
        return None if data is None else Content("image/jpeg", data)

    def live(self) -> LiveRun:
        """The run as it is now; what can't be read is named in it."""
        folder, faults = self._folder, list[str]()
        recipe = _recipe(folder, faults)
        run = self._shown(folder, "run" if recipe is None else recipe.method.name, recipe, faults)
        runs = [run]
        if folder.baseline.exists and not folder.baseline.path.is_symlink():
            runs.insert(0, self._shown(folder.baseline, "baseline", recipe, faults))
        return LiveRun(
            title=folder.path.absolute().name if recipe is None else f"{recipe.name}: {recipe.method.name}",
            status=_status(folder, runs, recipe),
            runs=runs,
            facts=_facts(run, recipe, is_training=_is_training(folder)),
            health=health_notes(run.rows, burn_in=run.burn_in),
            faults=faults,
            pictures=self._pictures(),
            report=folder.report.name if _is_regular(folder.report) else None,
        )

    def _shown(self, folder: RunFolder, label: str, recipe: Recipe | None, faults: list[str]) -> ShownRun:
        """The run's rows, read again only when their file is another one."""
        steps = None if recipe is None else recipe.method.burn_in_steps
        burn_in = None if steps is None or steps == "auto" else steps
        try:
            with self._reading:
                return ShownRun(label, self._rows(folder), burn_in)
        except (InputError, OSError) as error:
            faults.append(f"the numbers can't be read: {error}")
            return ShownRun(label, [], burn_in)

    def _rows(self, folder: RunFolder) -> list[dict[str, float]]:
        if not os.path.lexists(folder.metrics):
            return []
        _refuse_links(folder.metrics)
        found = folder.metrics.stat()
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        known = self._parsed.get(folder.metrics)
        if known is None or known[0] != seen:
            known = (seen, ShownRun("", folder.rows()))
            self._parsed[folder.metrics] = known
        return known[1].rows

    def _pictures(self) -> dict[str, LivePicture]:
        """The previews by address: those of the first step, then those of later ones, by step."""
        folder = self._folder.previews
        if folder.is_symlink() or not folder.is_dir():
            return {}
        try:
            with os.scandir(folder) as entries:
                found = {
                    entry.name: LivePicture(folder / entry.name, entry.stat(follow_symlinks=False).st_mtime_ns)
                    for entry in entries
                    if _PREVIEW.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
                }
        except OSError:  # removed meanwhile
            return {}
        return {f"previews/{name}": found[name] for name in sorted(found, key=_place)}


def _place(name: str) -> tuple[int, str]:
    """Where a preview stands among the others."""
    step = re.search(r"\d+", name)
    return (int(step[0]) if step else -1, name)


def _refuse_links(file: Path) -> None:
    if not _is_regular(file):
        raise InputError(f"{file} is a link, or not a regular file, which the monitor does not follow")


def _is_regular(file: Path) -> bool:
    try:
        return stat.S_ISREG(file.lstat().st_mode)
    except OSError:
        return False


def _content(file: Path) -> bytes | None:
    """The bytes of a regular file that is not a link; None where it is not one, or is larger than any of its kind."""
    try:
        # without waiting for the writer of a pipe that lies there
        opened = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    with os.fdopen(opened, "rb") as stream:
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _LARGEST:
            return None
        return stream.read(_LARGEST)


def _recipe(folder: RunFolder, faults: list[str]) -> Recipe | None:
    """The recipe that the run wrote, whose ``extends`` would not be followed; None where there is not one yet."""
    if not os.path.lexists(folder.recipe_file):
        return None
    try:
        _refuse_links(folder.recipe_file)
        with damage_explained(folder.recipe_file):
            return Recipe.model_validate(folder.recipe_content())
    except InputError as error:
        faults.append(f"the recipe can't be read: {error}")
        return None


def _is_training(folder: RunFolder) -> bool:
    return _is_regular(folder.lock) and FolderLock(folder.lock).is_held


def _status(folder: RunFolder, runs: list[ShownRun], recipe: Recipe | None) -> str:
    """Where the run is, in a sentence."""
    most = None if recipe is None else recipe.schedule.max_steps
    *_, run = runs
    done = f"{_step(run):,}" + ("" if most is None or most == "auto" else f" of {most:,}")
    if _is_training(folder):
        if len(runs) > 1 and _is_regular(folder.report):
            return f"Training the baseline without unlabeled images: step {_step(runs[0]):,} of {most:,}."
        return f"Training: step {done}." if run.rows else "Training has not come to its first numbers yet."
    if not folder.exists:
        return f"There is not a run in {folder} yet."
    if _is_regular(folder.report):
        return f"Finished: step {done}."
    if _is_regular(folder.failure):
        return f"Ended by an error after step {done}; {folder.failure.name} in its folder says which."
    return f"Not training: step {done}. It goes on with --resume."


def _step(run: ShownRun) -> int:
    return max((int(row["step"]) for row in run.rows), default=0)


def _facts(run: ShownRun, recipe: Recipe | None, *, is_training: bool) -> list[tuple[str, str]]:
    facts = list[tuple[str, str]]()
    scores = [row["teacher/AP"] for row in run.rows if row.get("teacher/AP") is not None]
    if scores:
        facts += [(f"{scores[-1]:.1f}", "AP of the teacher"), (f"{max(scores):.1f}", "its best AP")]
    seconds = median_step_seconds(run.rows)
    if seconds is None:
        return facts
    facts.append((f"{seconds:.2g} s", "a step"))
    most = None if recipe is None else recipe.schedule.max_steps
    if is_training and isinstance(most, int) and _step(run) < most:
        left = timedelta(seconds=round(seconds * (most - _step(run))))
        facts.append((str(left), "left, without evaluations"))
    return facts
