"""A request to stop, noticed at the next step boundary."""

import signal
import threading
from types import FrameType
from typing import Any, Self


class StopRequest:
    """Turns SIGTERM and SIGINT into a flag while it is entered.

    The handler only sets the flag: saving inside a handler can meet a half-done step. A second signal ends the
    process at once, for whoever can't wait.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # others may not set handlers
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _request(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            for other, handler in self._previous.items():
                signal.signal(other, handler)
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
