"""A chart of lines over training steps as small inline SVG, styled by the page."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

Series = tuple[Sequence[float], Sequence[float]]
"""Steps and values."""

COLORS = 6
"""How many the page has; see ``page.css``."""
_DASHES = ("", "7 4", "8 3 2 3", "2 3")  # say the same as the colors, for who can't tell them
_WIDTH, _HEIGHT = 400, 250  # units of the picture, about pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 20, 30, 26  # margins
_MOST_MARKED = 15  # points
_FLAT = 0.05  # share of the values that lines vary by


class Line(NamedTuple):
    """A line over training steps."""

    name: str
    series: Series
    color: int = 0
    style: int = 0

    @property
    def look(self) -> str:
        """Attributes of an SVG element."""
        dashes = _DASHES[self.style % len(_DASHES)]
        return f'class="line line-{self.color % COLORS + 1}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


class Chart(NamedTuple):
    """A figure in a page."""

    title: str
    svg: str
    lines: Sequence[Line] = ()
    """For its legend."""


class _Scale(NamedTuple):
    """From values to units of the picture."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


def line_chart(lines: Sequence[Line], *, title: str, ylabel: str, burn_in: int | None = None) -> Chart:
    """Draws lines.

    Args:
        lines: With a point at least in all.
        title: Above the figure.
        ylabel: What the values are.
        burn_in: Step at which a burn-in ends, marked where the lines go beyond it.
    """
    steps = [step for line in lines for step in line.series[0]]
    values = [value for line in lines for value in line.series[1]]
    x = _Scale(*_steps_range(steps), _LEFT, _WIDTH - _RIGHT)
    y = _Scale(*_values_range(values), _HEIGHT - _BOTTOM, _TOP)
    parts = [f'<text x="2" y="13">{escape(ylabel)}</text>', *_axes(x, y)]
    if burn_in is not None and min(steps) <= burn_in < max(steps):
        at = f"{x(burn_in):.1f}"
        parts.append(f'<line class="mark" x1="{at}" x2="{at}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text class="x" x="{at}" y="{_TOP - 5}">burn-in ends</text>')
    parts += [_drawn(line, x, y) for line in lines]
    alt = escape(f"{title}: {', '.join(line.name for line in lines)}, over training steps")
    svg = f'<svg class="chart" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{alt}">{"".join(parts)}</svg>'
    return Chart(title, svg, lines if len(lines) > 1 else ())


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers within a range: multiples of 1, 2, 2.5 or 5 times a power of ten, as many as fit."""
    power = 10 ** math.floor(math.log10((high - low) / most))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if (high - low) / (power * factor) <= most)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _axes(x: _Scale, y: _Scale) -> list[str]:
    """Numbers along both sides, and a rule across at each of the values."""
    parts = [
        f'<text class="x" x="{x(value):.1f}" y="{_HEIGHT - 8}">{value:,.6g}</text>' for value in ticks(x.low, x.high)
    ]
    for value in ticks(y.low, y.high):
        at = f"{y(value):.1f}"
        parts.append(f'<line class="rule" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 6}" y="{at}">{value:,.6g}</text>')
    return parts


def _drawn(line: Line, x: _Scale, y: _Scale) -> str:
    """The line, and its points where they are few."""
    points = [f"{x(step):.1f},{y(value):.1f}" for step, value in zip(*line.series, strict=True)]
    drawn = f'<polyline {line.look} points="{" ".join(points)}"><title>{escape(line.name)}</title></polyline>'
    if len(points) <= _MOST_MARKED:
        places = (point.split(",") for point in points)
        drawn += "".join(
            f'<circle class="line-{line.color % COLORS + 1}" cx="{left}" cy="{top}" r="3"/>' for left, top in places
        )
    return drawn


def _steps_range(steps: Sequence[float]) -> tuple[float, float]:
    return (min(steps), max(steps)) if len(set(steps)) > 1 else (0, max(1, *steps))


def _values_range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low >= 0 and high - low <= _FLAT * high:
        return 0, 1.2 * high or 1.0  # or next to nothing would look like something
    margin = 0.05 * (high - low) or abs(low)
    return low - margin, high + margin
