"""Sends a run's numbers to one tracker from a thread of its own, so that the run waits for none and fails with none."""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import Full, Queue

from denseteacher.training.trackers.base import Tracker

Action = Callable[[Tracker], None]

_MOST_WAITING = 2000  # rows and pictures; a tracker that is further behind loses some
_PATIENCE = 60.0  # seconds in which a tracker that is waited for must finish something


class Sender:
    """One tracker: what was asked of it, done in order in a thread, and how often that failed."""

    def __init__(self, name: str, open_tracker: Callable[[], Tracker], *, patience: float = _PATIENCE) -> None:
        """Starts the thread, which opens the tracker.

        Args:
            name: What the tracker is called in sentences.
            open_tracker: Makes it; may raise anything.
            patience: Seconds in which something must get done when the run waits for it.
        """
        self._name, self._open, self._patience = name, open_tracker, patience
        self._actions = Queue[Action | None](_MOST_WAITING)
        self._notes = deque[str]()
        self._opened = threading.Event()
        self._sent = self._lost = 0
        self._has_failed = False
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def wait_until_open(self) -> None:
        """Waits for the tracker to be there, or to have failed, but not for long."""
        self._opened.wait(self._patience)

    def send(self, action: Action) -> None:
        """Has something done when all before is; returns at once."""
        self._sent += 1
        try:
            self._actions.put_nowait(action)
        except Full:
            self._lost += 1

    def notes(self) -> list[str]:
        """Sentences for the user since the last call."""
        return [self._notes.popleft() for _ in range(len(self._notes))]

    def close(self, last: Action) -> None:
        """Waits until all is done, as long as something gets done, and counts what was not.

        Args:
            last: What to do in the end.
        """
        with suppress(Full):
            self._actions.put(last, timeout=self._patience)
            self._actions.put(None, timeout=self._patience)
        left = -1
        while self._thread.is_alive() and left != self._actions.qsize():
            left = self._actions.qsize()
            self._thread.join(self._patience)
        if self._thread.is_alive():
            self._notes.append(f"{self._name} has not answered for {self._patience:g} seconds, and is not waited for")
            self._lost += max(0, self._actions.qsize() - 1)
        if self._lost:
            self._notes.append(
                f"{self._name}: {min(self._lost, self._sent):,} of {self._sent:,} rows and pictures may be missing "
                "there; the run folder has all of them"
            )

    def _work(self) -> None:
        tracker = None
        try:
            tracker = self._open()
            self._notes.append(tracker.place)
        except Exception as error:
            self._fail(error)
        self._opened.set()
        while (action := self._actions.get()) is not None:
            try:
                if tracker is None:
                    self._lost += 1
                else:
                    action(tracker)
            except Exception as error:
                self._lost += 1
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Tells of the first failure."""
        if not self._has_failed:
            said = next(iter(str(error).splitlines()), "")[:600]
            self._notes.append(
                f"{self._name} failed ({type(error).__name__}: {said}); training goes on, and the run folder has all"
            )
        self._has_failed = True
