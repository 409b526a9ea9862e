"""Figures as files and as SVG that follows the page's colors, curves of the log, and heat maps over images."""

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from denseteacher.ops.boxes import centers
from denseteacher.report.curves import Series

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with any color vision; the page has it as --line-1, ...
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, FAINT = "#1c2430", "#8a94a3"
_STYLE: dict[Any, Any] = {
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
Pixels = npt.NDArray[np.uint8]
Heat = npt.NDArray[np.float32]


@contextmanager
def figure_style() -> Iterator[None]:
    """Colors and lines of all figures that are made inside."""
    from matplotlib import rc_context

    with rc_context(_STYLE):
        yield


def as_svg(figure: "Figure", alt: str) -> str:
    """The figure as inline SVG without background, whose colors are the page's CSS variables.

    Args:
        figure: Drawn in ``figure_style``.
        alt: What it shows, for readers who don't see it.
    """
    buffer = io.StringIO()
    with figure_style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    # neither the links of its metadata nor a style that would be the whole page's
    text = re.sub(r"<(metadata|style)\b.*?</\1>", "", text[text.index("<svg") :], flags=re.S)
    text = re.sub(INK, "currentColor", text, flags=re.I)
    for number, color in enumerate(COLORS, 1):
        text = re.sub(color, f"var(--line-{number}, {color.lower()})", text, flags=re.I)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(alt)}" ', 1)


def save_png(path: Path, figure: "Figure") -> None:
    """Writes the figure on white."""
    with figure_style():
        figure.savefig(path, format="png", dpi=150)


def smooth(values: Sequence[float], window: int = 9) -> list[float]:
    """A running mean of the same length, with shorter windows at both ends."""
    array, half = np.asarray(values, dtype=float), window // 2
    return [float(array[max(0, i - half) : i + half + 1].mean()) for i in range(len(array))]


def metric_series(rows: Sequence[Mapping[str, Any]], key: str) -> Series:
    """Steps and values of one key of ``metrics.jsonl``."""
    pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return [step for step, _ in pairs], [value for _, value in pairs]


def score_map(
    values: Tensor,
    anchors: Tensor,
    shapes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    size: tuple[int, int],
) -> Heat:
    """One value an anchor of one image, as a map over its pixels: the highest of the nearest locations of all levels.

    Args:
        values: (N,) values in [0, 1].
        anchors: (N, 4) boxes around the locations.
        shapes: Height and width of each level's feature map.
        strides: Pixels between neighboring locations of each level.
        size: Height and width of the map.
    """
    counts = [rows * columns for rows, columns in shapes]
    best = values.cpu().view(sum(counts), -1).amax(1)
    middles = centers(anchors).cpu().view(sum(counts), -1, 2)[:, 0]
    found = torch.zeros(size)
    levels = (torch.split(one, counts) for one in (best, middles))
    for grid, middle, shape, stride in zip(*levels, shapes, strides, strict=True):
        rows, columns = (
            ((torch.arange(side) + 0.5 - start) / stride).round().long().clamp(0, most - 1)
            for side, start, most in zip(size, middle[0].flip(0).tolist(), shape, strict=True)
        )
        found = torch.maximum(found, grid.view(shape)[rows][:, columns])
    return found.numpy()


def heat_layer(heat: Heat) -> Image.Image:
    """Values in [0, 1] as a picture to lay over an image: bright and opaque where high, clear where 0.

    The scale ends at the highest value, but not below 0.3: a teacher that is sure of nothing stays dark.
    """
    from matplotlib import colormaps

    strength = np.clip(heat / max(float(heat.max()), 0.3), 0, 1)
    colors = np.asarray(colormaps["viridis"](strength))
    colors[..., 3] = strength
    return Image.fromarray((colors * 255).round().astype(np.uint8))


def heat_overlay(image: Pixels, heat: Heat) -> Image.Image:
    """The image, dark and gray, under its heat layer."""
    gray = Image.fromarray(image).convert("L").point(lambda value: value * 0.6).convert("RGBA")
    layer = heat_layer(heat)
    layer.putalpha(layer.getchannel("A").point(lambda value: value * 0.75))
    return Image.alpha_composite(gray, layer).convert("RGB")
