"""How all figures look: one palette, plain axes; as files, and as SVG that follows the page's colors."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from denseteacher.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any color vision
BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLORS = (BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY)
"""Colors in the order of the page's ``--line-1``, ..."""
GRAY = "#666666"
INK, FAINT = "#1c2430", "#8a94a3"
_DPI = 150
_DASHES: Sequence[tuple[float, ...]] = ((), (3.5, 2), (4, 1.5, 1, 1.5), (1, 1.5))
"""Dashes of lines, in line widths; they say the same as the colors, for readers who can't tell those apart."""
_LINE_WIDTH = 1.6  # pt
_MOST_MARKED = 15  # points of a line that are marked one by one
_FLAT = 0.05  # share of the values by which a line that looks flat may vary
_NO_MARKUP: dict[Any, Any] = {"text.parse_math": False}  # a class may be called $^$
_PAGE_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "font.sans-serif": ["DejaVu Sans"],  # to measure with; the page has the reader's
    "font.size": 11,
    "axes.labelsize": "small",
    "xtick.labelsize": "small",
    "ytick.labelsize": "small",
    "legend.fontsize": "small",
    "svg.hashsalt": "denseteacher",  # the same figure is the same text
    "svg.fonttype": "none",  # text stays text: small, and in any script that the reader's browser knows
    **_NO_MARKUP,
}

Series = tuple[Sequence[float], Sequence[float]]
"""Steps and values."""


class Line(NamedTuple):
    """A line over training steps."""

    name: str
    series: Series
    color: int = 0
    style: int = 0

    @property
    def dashes(self) -> tuple[float, ...]:
        """Lengths of dashes and gaps in line widths; empty for a solid line."""
        return _DASHES[self.style % len(_DASHES)]

    @property
    def look(self) -> str:
        """Attributes of an SVG line 2 px wide, for a legend."""
        dashes = " ".join(f"{2 * length:g}" for length in self.dashes)
        color = f'style="stroke: var(--line-{self.color % len(COLORS) + 1})"'
        return f'{color} stroke-dasharray="{dashes}"' if dashes else color


class Chart(NamedTuple):
    """A figure in a page."""

    title: str
    svg: str
    lines: Sequence[Line] = ()
    """Lines that the page's legend names."""


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=_DPI, layout="constrained")


def label_axes(axes: "Axes", *, title: str, xlabel: str, ylabel: str) -> None:
    """Plain axes: a light grid, no frame above and at the right."""
    axes.set_title(title, fontsize="medium")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def shared_legend(figure: "Figure", panels: Sequence["Axes"], *, fontsize: str = "medium") -> None:
    """One legend below the panels, with one entry a label, whichever of them has it."""
    entries = [zip(*axes.get_legend_handles_labels(), strict=True) for axes in panels]
    handles = {label: handle for entry in reversed(entries) for handle, label in entry}
    labels = list(dict.fromkeys(label for axes in panels for label in axes.get_legend_handles_labels()[1]))
    if labels:
        places: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "frameon": False, "fontsize": fontsize}
        figure.legend([handles[label] for label in labels], labels, **places)


@contextmanager
def literal_text() -> Iterator[None]:
    """Figures that are made and written inside show users' text as it is: no formulas, no warning for a rare letter."""
    from matplotlib import rc_context

    with rc_context(_NO_MARKUP), _missing_glyphs_ignored():
        yield


@contextmanager
def page_style() -> Iterator[None]:
    """Colors and lines of the page's figures, which are made inside; their text is literal too."""
    from matplotlib import rc_context

    with rc_context(_PAGE_STYLE), _missing_glyphs_ignored():
        yield


@contextmanager
def _missing_glyphs_ignored() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def line_chart(lines: Sequence[Line], *, title: str, ylabel: str, burn_in: int | None = None) -> Chart:
    """Draws lines over training steps for the page.

    Args:
        lines: Lines with at least one point in all.
        title: Heading above the figure.
        ylabel: What the values are.
        burn_in: Step at which a burn-in ends, marked where the lines go beyond it.
    """
    steps = [step for line in lines for step in line.series[0]]
    with page_style():
        figure = new_figure(3.9, 2.5)
        axes = figure.add_subplot()
        for line in lines:
            marker = "o" if len(line.series[0]) <= _MOST_MARKED else ""
            dashes = (0, line.dashes) if line.dashes else "-"
            look: dict[str, Any] = {"linestyle": dashes, "marker": marker, "markersize": 4, "linewidth": _LINE_WIDTH}
            axes.plot(*line.series, color=COLORS[line.color % len(COLORS)], clip_on=False, **look)
        marked = burn_in is not None and min(steps) <= burn_in < max(steps)
        axes.set_title(ylabel, loc="left", fontsize="small", pad=16 if marked else 6)
        axes.set(xlim=_steps_range(steps), ylim=_values_range([value for line in lines for value in line.series[1]]))
        _number_axes(axes)
        if burn_in is not None and marked:
            axes.axvline(burn_in, color=FAINT, linewidth=1, linestyle=":")
            side = "left" if burn_in - min(steps) < max(steps) - burn_in else "right"
            above: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "ha": side, "va": "bottom"}
            axes.text(burn_in, 1.02, "burn-in ends", fontsize="small", **above)
    alt = f"{title}: {', '.join(line.name for line in lines)}, over training steps"
    return Chart(title, as_svg(figure, alt), lines if len(lines) > 1 else ())


def _number_axes(axes: "Axes") -> None:
    """Few round numbers along both sides, and a rule across at each of the values."""
    from matplotlib.ticker import MaxNLocator

    for axis, most in ((axes.xaxis, 4), (axes.yaxis, 6)):
        axis.set_major_locator(MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]))
        axis.set_major_formatter(lambda value, _: f"{value:,.6g}")
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def _steps_range(steps: Sequence[float]) -> tuple[float, float]:
    return (min(steps), max(steps)) if len(set(steps)) > 1 else (0, max(1, *steps))


def _values_range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low >= 0 and high - low <= _FLAT * high:
        return 0, 1.2 * high or 1.0  # or next to nothing would look like something
    margin = 0.05 * (high - low) or abs(low)
    return low - margin, high + margin


def as_svg(figure: "Figure", alt: str) -> str:
    """The figure as inline SVG without background, whose colors are the page's CSS variables.

    Args:
        figure: A figure drawn in ``page_style``.
        alt: What it shows, for readers who don't see it.
    """
    buffer = io.StringIO()
    with page_style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    # neither the links of its metadata nor a style that would be the whole page's
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text[text.index("<svg") :], flags=re.S)
    used = set(re.findall(r"#(\w+)", text))  # other names would occur in every figure of a page
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    text = re.sub(r">\s+<", "><", text)
    text = re.sub(INK, "currentColor", text, flags=re.I)
    for number, color in enumerate(COLORS, 1):
        text = re.sub(color, f"var(--line-{number}, {color.lower()})", text, flags=re.I)
    return text.replace("<svg ", f'<svg class="chart" role="img" aria-label="{escape(alt)}" ', 1)


def save_png(path: Path, figure: "Figure") -> None:
    """Writes a figure of the page on white, whole or not at all.

    Raises:
        RunError: If the disk refuses.
    """
    with page_style():
        write_atomically(path, lambda stream: figure.savefig(stream, format="png"))
