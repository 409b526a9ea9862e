"""How all figures look: one palette, plain axes; as files, and as SVG that follows the page's colors."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any color vision
BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLORS = (BLUE, VERMILLION, GREEN, PINK, ORANGE, SKY)
"""In the order of the page's ``--line-1``, ..."""
GRAY = "#666666"
INK, FAINT = "#1c2430", "#8a94a3"
_DPI = 150
_PAGE_STYLE: dict[Any, Any] = {
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.alpha": 0.35,
    "font.size": 11,
    "axes.labelsize": "small",
    "xtick.labelsize": "small",
    "ytick.labelsize": "small",
    "legend.fontsize": "small",
    "svg.hashsalt": "denseteacher",  # the same figure is the same text
}


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
def page_style() -> Iterator[None]:
    """Colors and lines of the page's figures, which are made inside."""
    from matplotlib import rc_context

    with rc_context(_PAGE_STYLE):
        yield


def as_svg(figure: "Figure", alt: str) -> str:
    """The figure as inline SVG without background, whose colors are the page's CSS variables.

    Args:
        figure: Drawn in ``page_style``.
        alt: What it shows, for readers who don't see it.
    """
    buffer = io.StringIO()
    with page_style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    # neither the links of its metadata nor a style that would be the whole page's
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(INK, "currentColor", text, flags=re.I)
    for number, color in enumerate(COLORS, 1):
        text = re.sub(color, f"var(--line-{number}, {color.lower()})", text, flags=re.I)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)


def save_png(path: Path, figure: "Figure") -> None:
    """Writes a figure of the page on white."""
    with page_style():
        figure.savefig(path, format="png")
