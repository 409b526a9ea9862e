"""What a run says on the terminal while it trains."""

import sys
import time
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from denseteacher.errors import visible

_SHOWN = 5
"""How many values the progress display has room for."""


def tell(sentence: str) -> None:
    """Prints a sentence for the user of a run."""
    print(visible(sentence), file=sys.stderr, flush=True)


class ProgressDisplay:
    """Progress of a run on stderr: a bar on a terminal, a plain line every 30 seconds elsewhere.

    Used as a context manager; what is printed meanwhile appears above the bar.
    """

    def __init__(
        self,
        description: str,
        total: int,
        *,
        start: int = 0,
        every: float = 30.0,
        enabled: bool = True,
        live: bool | None = None,
    ) -> None:
        """Shows nothing yet.

        Args:
            description: What is going on, in a word or two.
            total: Steps in all.
            start: Steps done before.
            every: Without a terminal, seconds between two lines; the first and the last update are lines in any case.
            enabled: False shows nothing at all, as in all processes of a run but one.
            live: Whether to draw a bar; None asks whether stderr is a terminal.
        """
        self.total, self.every, self.enabled = total, every, enabled
        self.live = sys.stderr.isatty() if live is None else live
        self._times = deque([(time.monotonic(), start)], maxlen=20)
        self._text = ""
        self._last_line: float | None = None
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}", markup=False),
            TextColumn("{task.fields[text]}", markup=False),
            console=Console(stderr=True, force_terminal=True if self.live else None),
            disable=not (self.live and enabled),
        )
        self._task = self._progress.add_task(description, total=total, completed=start, text="")

    def __enter__(self) -> Self:
        self._times[-1] = (time.monotonic(), self._times[-1][1])
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Shows that ``step`` steps are done, and a few of the values of the last one."""
        self._times.append((time.monotonic(), step))
        images = f"  {values['images_per_second']:.3g} img/s" if "images_per_second" in values else ""
        self._text = f"{images}  {_brief(values)}"
        self._progress.update(self._task, completed=step, text=self._speed() + self._text)
        if self._is_due() or step == self.total:
            self._line(step)

    def advance(self, step: int) -> None:
        """Says that ``step`` steps are done, with the values of the last update, where nothing was said for long."""
        if self._last_line is not None and self._is_due():
            self._times.append((time.monotonic(), step))
            self._line(step)

    def _is_due(self) -> bool:
        return not self.live and (self._last_line is None or time.monotonic() - self._last_line >= self.every)

    def _line(self, step: int) -> None:
        if not self.live:
            self._last_line = time.monotonic()
            self.message(f"[step {step}/{self.total}] {self._speed()}{self._text}")

    def message(self, text: str) -> None:
        """Prints a line, above the bar if there is one."""
        if not self.enabled:
            return
        if self.live:
            self._progress.console.print(visible(text), markup=False, highlight=False, soft_wrap=True)
        else:
            tell(text)

    def _speed(self) -> str:
        """Steps per second over the last updates, and the time left at that speed."""
        (since, first), (now, last) = self._times[0], self._times[-1]
        if last <= first or now <= since:
            return ""
        speed = (last - first) / (now - since)
        left = timedelta(seconds=round((self.total - last) / speed))
        return f"{speed:.3g} steps/s, {left} left"


def _brief(values: Mapping[str, float]) -> str:
    """The total loss and the first other values."""
    names = sorted(values, key=lambda name: name != "loss")[:_SHOWN]
    return "  ".join(f"{name} {values[name]:.4g}" for name in names)
