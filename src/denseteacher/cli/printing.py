"""What several commands print."""

import math
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from denseteacher.errors import RunError, visible


def console() -> Console:
    """Where tables go; made anew, since stdout may have been replaced."""
    return Console()


def say(line: str) -> None:
    """Prints a line of which nothing is interpreted or broken."""
    console().print(visible(line), markup=False, highlight=False, soft_wrap=True)


def remark(sentence: str) -> None:
    """Prints a sentence to stderr, at once."""
    print(visible(sentence), file=sys.stderr, flush=True)


def cell(text: str) -> Text:
    """A text from data in a table: nothing in it is interpreted, be it rich's markup or a terminal's sequences."""
    return Text(visible(text))


def count(number: int, noun: str, plural: str | None = None) -> str:
    """``1 image``, ``2 images``; ``2 boxes`` where the plural is given."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def number(value: float | None, form: str = ".1f") -> str:
    """``-`` where nothing is known."""
    return "-" if value is None or math.isnan(value) else format(value, form)


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
            table.add_row(cell(name), role, *map(number, values))
    console().print(table)


def print_table(title: str, heads: list[str], rows: list[list[str]]) -> None:
    """Prints a table whose first column is on the left, all others on the right."""
    say(title)  # not the table's own title, which would be broken to its width
    table = Table()
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left")
    for row in rows:
        table.add_row(*map(cell, row))
    console().print(table)


def require_readable(unreadable: Sequence[str]) -> None:
    """Ends a command that has done all that could be read.

    Raises:
        RunError: If there are sentences on images that could not.
    """
    if unreadable:
        raise RunError(f"{count(len(unreadable), 'image')} could not be read; all others are done")
