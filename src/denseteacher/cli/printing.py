"""What several commands print."""

import json
import math
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from denseteacher.errors import RunError


def console() -> Console:
    """Where tables go; made anew, since stdout may have been replaced."""
    return Console()


def say(line: str) -> None:
    """Prints a line of which nothing is interpreted or broken."""
    console().print(line, markup=False, highlight=False, soft_wrap=True)


def remark(sentence: str) -> None:
    """Prints a sentence to stderr, at once."""
    print(sentence, file=sys.stderr, flush=True)


def count(number: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def print_comparison(rows: list[tuple[str, dict[str, float]]]) -> None:
    """One line a run and role, with the COCO metrics of the last evaluation."""
    table = Table(title="COCO AP at the last step")
    for heading in ("run", "model"):
        table.add_column(heading)
    for metric in ("AP", "AP50", "AP75"):
        table.add_column(metric, justify="right")
    for name, metrics in rows:
        for role in ("teacher", "student"):
            values = (metrics.get(f"{role}/{metric}") for metric in ("AP", "AP50", "AP75"))
            table.add_row(name, role, *("-" if value is None else f"{value:.1f}" for value in values))
    console().print(table)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, in which nan becomes null.

    Raises:
        RunError: If the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_finite(content), indent=1) + "\n")
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror}") from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
