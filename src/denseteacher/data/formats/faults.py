"""Faults of annotation files: what one is, and what becomes of those that are found while a file is read."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from denseteacher.errors import InputError

IMAGE_FAULTS = frozenset(
    {
        "missing image file",
        "file name that leaves the folder",
        "unreadable image",
        "damaged image",
        "image of another size than declared",
    }
)
"""Kinds of faults of one image file, which ``data.bad_images`` is about."""


class Fault(NamedTuple):
    """Something wrong with one entry of a data set."""

    kind: str
    """What it is, the same for all faults of this kind."""
    message: str
    """A sentence that names the file and the entry."""
    harmless: bool = False
    """Whether the entry is read all the same, since it can mean one thing only."""


OnFault = Callable[[Sequence[Fault]], None]
"""A function that is called with the faults of one kind. Where it returns, reading goes on without the entries, or
with the harmless ones."""


def refuse(faults: Sequence[Fault]) -> None:
    """The ``on_fault`` of those who want to use the data.

    Raises:
        InputError: About the first fault that is not harmless, if there is any.
    """
    serious = [fault.message for fault in faults if not fault.harmless]
    if serious:
        raise InputError(_with_count(serious[0], len(serious)))


class Notes:
    """An ``on_fault`` that refuses as ``refuse`` does, and keeps a sentence on each kind of the harmless faults."""

    def __init__(self, bad_images: Literal["error", "skip"] = "error") -> None:
        """Nothing is noted yet.

        Args:
            bad_images: ``skip`` keeps a sentence on image files that are missing or can't be read, in place of
                refusing them.
        """
        self._skips = bad_images == "skip"
        self._messages: dict[tuple[str, bool], list[str]] = {}

    def __call__(self, faults: Sequence[Fault]) -> None:
        """See ``OnFault``."""
        serious = [fault for fault in faults if not fault.harmless]
        skipped = [fault for fault in serious if self._skips and fault.kind in IMAGE_FAULTS]
        try:
            refuse([fault for fault in serious if fault not in skipped] if skipped else serious)
        except InputError as error:
            if any(fault.kind in IMAGE_FAULTS for fault in serious):
                raise InputError(f"{error}; leave such images out with --set data.bad_images=skip") from error
            raise
        for fault in faults:
            self._messages.setdefault((fault.kind, fault.harmless), []).append(fault.message)

    @property
    def sentences(self) -> tuple[str, ...]:
        """One for each kind: its first message, and how many there are."""
        return tuple(
            _with_count(messages[0] if harmless else f"left out: {messages[0]}", len(messages))
            for (_, harmless), messages in self._messages.items()
        )


def _with_count(message: str, count: int) -> str:
    return f"{message} ({count:,} such in all)" if count > 1 else message


def brief(value: Any) -> str:
    """A value of a JSON as a message shows it."""
    try:
        return repr(value)[:100]
    except (RecursionError, ValueError):  # nested too deeply; of too many digits
        return f"a {type(value).__name__}"
