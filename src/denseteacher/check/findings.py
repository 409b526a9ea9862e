"""What a check finds: how serious it is, what it is, how often it occurs and where."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from denseteacher.data.formats import IMAGE_FAULTS, Fault

Severity = Literal["error", "warning", "info"]
"""``error``: training would refuse or its numbers would be wrong; ``warning``: it runs and may learn badly."""
Subset = Literal["labeled", "unlabeled", "validation"]

_ORDER: tuple[Severity, ...] = ("error", "warning", "info")
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """All occurrences of one thing in one subset of the data."""

    severity: Severity
    kind: str
    """What it is, the same for all findings of this kind."""
    subset: str
    """``labeled``, ``unlabeled`` or ``validation``; or two of them, where it is about both."""
    count: int
    examples: tuple[str, ...]
    """The first few, each with the name of its file."""
    meaning: str = ""
    """What follows from it, or what to do."""


def finding(severity: Severity, kind: str, subset: str, examples: Sequence[str], meaning: str = "") -> list[Finding]:
    """One finding of which all occurrences are given, none where there are none."""
    return [Finding(severity, kind, subset, len(examples), tuple(examples[:_SHOWN]), meaning)] if examples else []


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """The most serious first, and among equals the most frequent."""
    return sorted(findings, key=lambda one: (_ORDER.index(one.severity), -one.count))


class FaultLog:
    """Gathers what the readers complain about."""

    def __init__(self, bad_images: Literal["error", "skip"] = "error") -> None:
        """Nothing is gathered yet; ``skip`` makes image files that training leaves out worth a warning only."""
        self._faults: dict[tuple[Subset, Severity, str], list[str]] = {}
        self._skips = bad_images == "skip"

    def on_fault(self, subset: Subset, severity: Severity = "error") -> Callable[[Sequence[Fault]], None]:
        """What to give a reader of this subset as its ``on_fault``."""

        def collect(faults: Sequence[Fault]) -> None:
            for fault in faults:
                skipped = self._skips and fault.kind in IMAGE_FAULTS
                own: Severity = "info" if fault.harmless else "warning" if skipped else severity
                self._faults.setdefault((subset, own, fault.kind), []).append(fault.message)

        return collect

    def findings(self) -> list[Finding]:
        """One for each kind and subset."""
        return [
            one
            for (subset, severity, kind), messages in self._faults.items()
            for one in finding(severity, kind, subset, messages)
        ]
