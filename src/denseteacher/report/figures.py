"""Curves and dense-label pictures, as strings that an HTML page can hold."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

# Okabe and Ito's palette, told apart with any color vision; line styles say the same a second time
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_STYLES = ("-", "--", "-.", ":")

Series = tuple[Sequence[float], Sequence[float]]
Pixels = npt.NDArray[np.uint8]


def curve_figure(series: Mapping[str, Series], *, title: str, ylabel: str) -> str:
    """Lines over training steps, as an inline SVG.

    Args:
        series: Steps and values under the line's name.
        title: Above the axes.
        ylabel: What the values are.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for index, (name, (steps, values)) in enumerate(series.items()):
        axes.plot(
            steps,
            values,
            color=_COLORS[index % len(_COLORS)],
            linestyle=_STYLES[index % len(_STYLES)],
            marker="o" if len(steps) < 30 else None,
            markersize=3.5,
            label=name,
        )
    axes.set(title=title, xlabel="step", ylabel=ylabel)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if series:
        axes.legend(frameon=False, fontsize="small")
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer)  # type: ignore[no-untyped-call]
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def smooth(values: Sequence[float], window: int = 9) -> list[float]:
    """A running mean of the same length, with shorter windows at both ends."""
    array, half = np.asarray(values, dtype=float), window // 2
    return [float(array[max(0, i - half) : i + half + 1].mean()) for i in range(len(array))]


def metric_series(rows: Sequence[Mapping[str, Any]], key: str) -> Series:
    """Steps and values of one key of ``metrics.jsonl``."""
    pairs = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
    return [step for step, _ in pairs], [value for _, value in pairs]


def picture_uri(image: Image.Image, *, zoom: int = 1) -> str:
    """The picture as a data URI."""
    if zoom > 1:
        image = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def richness_map(
    values: Tensor, shapes: Sequence[tuple[int, int]], strides: Sequence[int], size: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """One value an anchor of one image, as a map over its pixels: the highest of a location and of all levels.

    Args:
        values: (N,) values in [0, 1].
        shapes: Height and width of each level's feature map.
        strides: Pixels between neighboring locations of each level.
        size: Height and width of the map.
    """
    height, width = size
    picture = torch.zeros(height, width)
    counts = [rows * columns for rows, columns in shapes]
    anchors = len(values) // sum(counts)
    best = values.cpu().view(-1, anchors).amax(1)
    for grid, shape, stride in zip(torch.split(best, counts), shapes, strides, strict=True):
        # each location speaks for the cell of its stride; odd canvases are cut, not stretched
        full = torch.nn.functional.interpolate(grid.view(1, 1, *shape), scale_factor=stride, mode="nearest")[0, 0]
        shown = full[:height, :width]
        area = picture[: shown.shape[0], : shown.shape[1]]
        torch.maximum(area, shown, out=area)
    return picture.numpy()


def heat_overlay(image: Pixels, heat: npt.NDArray[np.float32]) -> Image.Image:
    """The image in gray under a heat map of values in [0, 1]."""
    from matplotlib import colormaps

    gray = np.asarray(Image.fromarray(image).convert("L").convert("RGB"), dtype=np.float32)
    strength = np.clip(heat / max(float(heat.max()), 1e-6), 0, 1)[..., None]
    colors = np.asarray(colormaps["viridis"](strength[..., 0]))[..., :3] * 255
    blended = gray * (1 - 0.75 * strength) * 0.6 + colors * 0.75 * strength
    return Image.fromarray(blended.clip(0, 255).astype(np.uint8))
