"""All trackers of a run together."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from denseteacher.data.choices import TrackerName
from denseteacher.errors import InputError
from denseteacher.files import parse_json, write_json
from denseteacher.training.trackers.base import Ending, RunFacts, Tracker
from denseteacher.training.trackers.mlflow_tracker import MlflowTracker
from denseteacher.training.trackers.sender import Sender
from denseteacher.training.trackers.wandb_tracker import WandbTracker

TRACKERS: dict[TrackerName, Callable[[RunFacts], Tracker]] = {"wandb": WandbTracker, "mlflow": MlflowTracker}
"""Every tracker; its client's module and its extra have its name."""
Row = Mapping[str, Any]


def require_clients(names: Iterable[TrackerName]) -> None:
    """Sees whether the trackers' clients are installed.

    Raises:
        InputError: If one is not.
    """
    for name in names:
        if find_spec(name) is None:
            raise InputError(
                f'runtime.log={name} needs the package {name}: pip install "dense-teacher[{name}]", or leave --log '
                f"{name} out"
            )


class Trackers:
    """The trackers of a run; of the main process alone. None of them can fail the run."""

    def __init__(self, names: Sequence[TrackerName], folder: Path, *, title: str, recipe: Mapping[str, Any]) -> None:
        """Opens nothing yet.

        Args:
            names: Trackers to open.
            folder: Where they keep files, and their names for the run.
            title: What people call the run.
            recipe: Recipe of the run, resolved.
        """
        self.names, self._folder, self._title, self._recipe = names, folder, title, recipe
        self._senders = dict[str, Sender]()
        self._known = frozenset[tuple[int, str]]()

    def begin(self, rows: Sequence[Row], dropped: Sequence[Row]) -> None:
        """Opens the trackers, and waits a moment for them.

        A tracker that has not seen the run gets what was logged before. One that has seen it got the rows that a
        resumed run writes again: those are not sent a second time.

        Args:
            rows: Rows that the run has logged, and keeps.
            dropped: Rows that it had logged, and writes again.
        """
        self._known = frozenset((row["step"], name) for row in dropped for name in row)
        for name in self.names:
            if name not in self._senders:
                self._senders[name] = Sender(name, partial(self._open, name, rows))
        for sender in self._senders.values():
            # loader processes are forked soon, and should not inherit the locks of a client that is being imported
            sender.wait_until_open()

    def _open(self, name: TrackerName, rows: Sequence[Row]) -> Tracker:
        import_module(name)
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{name}.json"
        tracker = TRACKERS[name](RunFacts(self._title, self._recipe, self._folder, _known_as(file)))
        write_json(file, {"id": tracker.id})
        if tracker.is_new:
            for row in rows:
                if values := _finite(row):
                    tracker.write(row["step"], values)
        return tracker

    def write(self, row: Row) -> None:
        """Sends the finite numbers of a row but those that are there already."""
        step, values = row["step"], _finite(row)
        fresh = {name: value for name, value in values.items() if (step, name) not in self._known}

        def write(tracker: Tracker) -> None:
            if missing := values if tracker.is_new else fresh:
                tracker.write(step, missing)

        for sender in self._senders.values():
            sender.send(write)

    def show(self, step: int, picture: Image.Image) -> None:
        """Sends a picture."""
        for sender in self._senders.values():
            sender.send(lambda tracker: tracker.show(step, picture))

    def notes(self) -> list[str]:
        """Sentences for the user since the last call."""
        return [note for sender in self._senders.values() for note in sender.notes()]

    def close(self, ending: Ending, files: Sequence[Path]) -> list[str]:
        """Ends the run in all trackers.

        Args:
            ending: How the run ended.
            files: What to add to it.

        Returns:
            Sentences for the user.
        """
        for sender in self._senders.values():
            sender.close(lambda tracker: tracker.close(ending, files))
        notes = self.notes()
        self._senders.clear()
        return notes


def _finite(row: Row) -> dict[str, float]:
    """The numbers of a row that a tracker can draw."""
    return {name: value for name, value in row.items() if name != "step" and value is not None and math.isfinite(value)}


def _known_as(file: Path) -> str | None:
    """What a tracker calls the run; None where it has not seen it, or the file is damaged."""
    try:
        content = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return str(content["id"]) if isinstance(content, dict) and "id" in content else None
