"""A request to stop, noticed at the next step boundary."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self


class Stopped(BaseException):
    """A request to stop came where it could be followed at once; no error, so that nobody takes it for one."""


class StopRequest:
    """Turns SIGTERM and SIGINT into a flag while it is entered.

    The handler only sets the flag: saving inside a handler can meet a half-done step. A second signal ends the
    process at once, for whoever can't wait.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._interrupting = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Lets a signal end what is done inside, which takes long and changes nothing that must stay whole.

        Raises:
            Stopped: As soon as a signal comes; at once where one came before.
        """
        self._interrupting = True
        try:
            if self.signal is not None:
                raise Stopped
            yield
        finally:
            self._interrupting = False

    def _request(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            for other, handler in self._previous.items():
                signal.signal(other, handler)
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
        if self._interrupting:
            raise Stopped
