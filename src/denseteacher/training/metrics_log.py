"""The numbers that a run writes while it trains, and reading them again."""

import csv
import errno
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from denseteacher.errors import InputError, RunError
from denseteacher.files import write_atomically, write_bytes, write_text
from denseteacher.training.trackers import Trackers

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Rows of a ``metrics.jsonl``: ``step`` (int) and named floats, None where a value was not finite.

    A last line that a crash cut short is left out. A file that doesn't exist has no rows.

    Raises:
        InputError: If another line is not a JSON object of numbers with a ``step``, or the file can't be read.
    """
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
    except OSError as error:
        raise InputError(f"{path} can't be read: {error.strerror or error}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if _is_row(row):
            rows.append(row)
        elif number < len(lines):
            raise InputError(f"{path}, line {number}: not a JSON object with a step; remove the line")
    return rows


def _is_row(row: object) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("step"), int):
        return False
    return all(value is None or isinstance(value, int | float) for value in row.values())


def last_evaluation(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """``step``, ``teacher/AP`` and so on of the last evaluation, those that are known; empty where there is none."""
    found: Mapping[str, Any] = next((row for row in reversed(rows) if "teacher/AP" in row), {})
    return {key: value for key, value in found.items() if value is not None}


def median_step_seconds(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """The median time of a step in the second half of a run, where its speed is steady; None where it is not known."""
    times = [row["step_seconds"] for row in rows[len(rows) // 2 :] if row.get("step_seconds") is not None]
    return median(times) if times else None


def evaluation_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The evaluations of a run as CSV, a line each: ``step``, their metrics, and the losses logged last before them.

    Empty where nothing was evaluated.
    """
    lines: list[dict[str, Any]] = []
    logged: Mapping[str, Any] = {}
    for row in rows:
        if "teacher/AP" in row:
            lines.append({**row, **{name: value for name, value in logged.items() if name != "step"}})
        else:
            logged = row
    if not lines:
        return ""
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(dict.fromkeys(name for line in lines for name in line)))
    writer.writeheader()
    writer.writerows(lines)
    return table.getvalue()


def smooth(values: Sequence[float], window: int = 9) -> list[float]:
    """A running mean of the same length, with shorter windows at both ends."""
    array, half = np.asarray(values, dtype=float), window // 2
    return [float(array[max(0, i - half) : i + half + 1].mean()) for i in range(len(array))]


def metric_series(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Steps and values of one key of ``metrics.jsonl``."""
    pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return [step for step, _ in pairs], [value for _, value in pairs]


class MetricsLog:
    """Appends rows of numbers to a ``metrics.jsonl``, to TensorBoard where that is installed, and to trackers.

    The file is the record; every row reaches the disk's cache before ``write`` returns.
    """

    def __init__(
        self,
        path: Path,
        *,
        tensorboard: Path | None = None,
        previews: Path | None = None,
        results: Path | None = None,
        trackers: Trackers | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
            path: The file of the rows; its folder is made if needed.
            tensorboard: Folder for event files; none are written if not given.
            previews: Folder for pictures; none are written if not given.
            results: File for ``evaluation_table``, which is written anew at every evaluation; none if not given.
            trackers: What else gets rows and pictures, from ``begin`` on.
        """
        self.path, self.trackers, self._results = path, trackers, results
        self._dropped: list[dict[str, Any]] = []
        self._tensorboard, self._previews = tensorboard, previews
        self._purge_step: int | None = None
        self._file: FileIO | None = None
        self._writer: SummaryWriter | None = None

    def begin(self) -> list[str]:
        """Opens the trackers, which get the rows so far; returns what the user is told of them."""
        if self.trackers is None:
            return []
        self.trackers.begin(read_metrics(self.path), self._dropped)
        return self.trackers.notes()

    def notes(self) -> list[str]:
        """Sentences on the trackers since the last call."""
        return [] if self.trackers is None else self.trackers.notes()

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Adds a row; values that are not finite become null.

        Raises:
            RunError: If the disk refuses.
        """
        row = {"step": step} | {
            name: float(value) if value is not None and math.isfinite(value) else None for name, value in values.items()
        }
        line = json.dumps(row, allow_nan=False).encode() + b"\n"
        try:
            if self._file is None:
                self._file = self._open()
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if self._writer is not None:
                for name, value in row.items():
                    if name != "step" and value is not None:
                        self._writer.add_scalar(name, value, step)
                self._writer.flush()
        except OSError as error:
            raise RunError(f"{self.path} can't be written: {error.strerror or error}") from error
        if "teacher/AP" in row:
            self._write_results()
        if self.trackers is not None:
            self.trackers.write(row)

    def show(self, step: int, picture: Image.Image) -> None:
        """Adds a picture, as ``step_N.jpg``, to TensorBoard and to trackers.

        Raises:
            OSError: If the disk refuses.
            RunError: If the disk refuses.
        """
        if self._previews is not None:
            self._previews.mkdir(parents=True, exist_ok=True)
            file = self._previews / f"step_{step:06d}.jpg"
            write_atomically(file, lambda stream: picture.save(stream, "JPEG", quality=85))
        if self._writer is not None:
            self._writer.add_image("previews", np.asarray(picture.convert("RGB")), step, dataformats="HWC")
        if self.trackers is not None:
            self.trackers.show(step, picture)

    def truncate(self, step: int, *, evaluated: bool = True) -> None:
        """Drops the rows of this step and later ones, which a resumed run writes again.

        Args:
            step: The first one to go.
            evaluated: False drops the evaluation of the step before too, which is done again.

        Raises:
            InputError: If the file holds something else than rows.
            RunError: If the disk refuses.
        """
        self.close()
        self._purge_step = step
        if self.path.exists():
            kept, self._dropped = list[dict[str, Any]](), []
            for row in read_metrics(self.path):
                stays = row["step"] < step and (evaluated or row["step"] < step - 1 or "teacher/AP" not in row)
                (kept if stays else self._dropped).append(row)
            self._rewrite(kept)
            self._write_results()

    def close(self) -> None:
        """Closes the files; a later ``write`` opens them again."""
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()
        self._file = self._writer = None

    def _open(self) -> FileIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.read_bytes()[-1:] not in (b"", b"\n"):
            self._rewrite(read_metrics(self.path))  # or the next row would join a line that a crash cut short
        if self._tensorboard is not None:
            self._writer = _summary_writer(self._tensorboard, self._purge_step)
        return self.path.open("ab", buffering=0)

    def _write_results(self) -> None:
        """Makes the table of what the rows hold, so that no evaluation stands in it twice."""
        if self._results is None:
            return
        table = evaluation_table(read_metrics(self.path))
        if table or self._results.exists():
            write_text(self._results, table)

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        content = "".join(json.dumps(row) + "\n" for row in rows).encode()
        write_bytes(self.path, content)


def _summary_writer(folder: Path, purge_step: int | None) -> "SummaryWriter | None":
    """A TensorBoard writer, None where that isn't installed; hides older events from ``purge_step`` on."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=purge_step)
