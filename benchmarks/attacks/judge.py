"""Whether an answer is a result or one sentence, and whether anything was let in."""

import contextlib
import io
import os
import random
import sys
import warnings
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from attacks.kind import HELD, REFUSED, FailureError, Kind
from denseteacher import cli
from denseteacher.errors import InputError, RunError

_LONGEST = 2000  # characters of a sentence
_TRACEBACK = "Traceback (most recent call last)"
_FORBIDDEN = ("socket.connect", "socket.getaddrinfo", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
_FAILURES = (1, 2)  # exit codes
_MEMORY = 4 << 30  # bytes of addresses that attacks may take


class Answer(NamedTuple):
    """What a command gave."""

    code: int
    text: str
    """Both streams."""


def result(call: Callable[[], Any]) -> Any:
    """What a call gives; None where it says one sentence.

    Raises:
        FailureError: If the sentence is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call()
        except (InputError, RunError) as error:
            sentence = str(error)
    if not sentence.strip() or len(sentence) > _LONGEST or _TRACEBACK in sentence:
        raise FailureError(f"no sentence: {sentence[:300]!r} of {len(sentence)} characters")
    return None


def command(*arguments: object) -> Answer:
    """Calls the command line in this process, with streams like those of a pipe."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=mode) for mode in ("strict", "backslashreplace")
    )
    before = sys.argv
    sys.argv = ["denseteacher", *map(str, arguments)]
    code: Any = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as left:
                code = left.code or 0
    finally:
        sys.argv = before
    return Answer(int(code), "".join(stream.detach().getvalue().decode() for stream in _flushed(out, err)))


def _flushed(*streams: io.TextIOWrapper) -> tuple[Any, ...]:
    for stream in streams:
        stream.flush()
    return streams


def require_sound(answer: Answer, codes: tuple[int, ...] = (0, *_FAILURES)) -> str:
    """Looks at what a command gave.

    Returns:
        ``HELD``, or ``REFUSED`` where it was a sentence.

    Raises:
        FailureError: If it is neither.
    """
    if _TRACEBACK in answer.text or answer.code not in codes:
        raise FailureError(f"exit code {answer.code}: ...{answer.text[-700:]}")
    if "\x1b" in answer.text:
        raise FailureError(f"a sequence for the terminal: {answer.text[-300:]!r}")
    if answer.code == 0:
        return HELD
    if "denseteacher: " not in answer.text:
        raise FailureError(f"exit code {answer.code} without a sentence: ...{answer.text[-700:]}")
    return REFUSED


class FileAttack(Kind):
    """A kind of attack by files, which are read in the process of the trials."""

    timeout = 60.0

    def enter(self) -> None:
        """Forbids contacts and bounds the memory."""
        self._contacts: list[str] = []
        sys.addaudithook(self._forbid)
        _limit_memory(_MEMORY)

    def attack(self, number: int, rng: random.Random, folder: Path) -> str:
        """Attacks, and sees whether another program or the network was asked."""
        self._contacts.clear()
        outcome = self.attack_files(rng, folder)
        if self._contacts:  # whoever was refused may have said something else
            raise FailureError(f"let in: {self._contacts[0]}")
        return outcome

    @abstractmethod
    def attack_files(self, rng: random.Random, folder: Path) -> str:
        """Makes one attack, as ``attack``."""

    def _forbid(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN:
            self._contacts.append(f"{event} {str(arguments)[:200]}")
            raise FailureError(self._contacts[-1])


def _limit_memory(more: int) -> None:
    import resource

    with open("/proc/self/statm") as file:  # noqa: PTH123
        now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + more, now + more))
