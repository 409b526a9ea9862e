"""What the page of a running or finished run shows: a page that stays, and JSON that it asks for again and again."""

import json
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.report.curves import (
    Curves,
    ShownRun,
    loss_curves,
    optimizer_curves,
    precision_curves,
    pseudo_label_curves,
)
from denseteacher.report.local_server import Content
from denseteacher.training.health import HealthNote

_DIGITS = 5  # of a number that is drawn
_FILES = {
    "/": ("monitor.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/monitor.css": ("monitor.css", "text/css"),
    "/monitor.js": ("monitor.js", "text/javascript"),
}


class LivePicture(NamedTuple):
    """A picture that the page may ask for."""

    file: Path
    version: int
    """Another number when the file is another one."""


class LiveRun(NamedTuple):
    """A run as it is now; what is empty is left out."""

    title: str
    status: str
    """Where the run is, in a sentence."""
    runs: Sequence[ShownRun] = ()
    """The baseline where there is one, and the run."""
    facts: Sequence[tuple[str, str]] = ()
    """Numbers to put first, each with what it is."""
    health: Sequence[HealthNote] = ()
    faults: Sequence[str] = ()
    """What can't be shown, and why."""
    pictures: Mapping[str, LivePicture] = {}
    """Pictures by the address that they are served at, relative to the page's."""
    report: str | None = None
    """Address of the report, where the run has one."""


def page_file(path: str) -> Content | None:
    """A file of the page itself; None where it has none of this address."""
    if path not in _FILES:
        return None
    name, kind = _FILES[path]
    return Content(f"{kind}; charset=utf-8", resources.files(__package__).joinpath(name).read_bytes())


def live_json(live: LiveRun) -> bytes:
    """What the page draws."""
    burn_in = live.runs[-1].burn_in if live.runs else None
    sections = {
        "training": precision_curves(live.runs) + loss_curves(live.runs),
        "pseudo": pseudo_label_curves(live.runs),
        "optimizer": optimizer_curves(live.runs),
    }
    content = {
        "title": live.title,
        "status": live.status,
        "facts": live.facts,
        "health": [{"good": note.good, "sentence": note.sentence} for note in live.health],
        "faults": live.faults,
        "burn_in": burn_in,
        "charts": {name: [_chart(one) for one in curves] for name, curves in sections.items()},
        "pictures": [f"{name}?{one.version}" for name, one in live.pictures.items()],
        "report": live.report,
    }
    return json.dumps(content, allow_nan=False).encode()


def _chart(curves: Curves) -> dict[str, Any]:
    lines = [
        {
            "name": line.name,
            "color": line.color,
            "dashes": line.dashes,
            "points": [[step, _rounded(value)] for step, value in zip(*line.series, strict=True)],
        }
        for line in curves.lines
    ]
    return {"title": curves.title, "ylabel": curves.ylabel, "lines": lines}


def _rounded(value: float) -> float | None:
    """A number as far as it can be seen; None where it is not finite, as no row of a run's own log is."""
    return float(f"{value:.{_DIGITS}g}") if math.isfinite(value) else None
