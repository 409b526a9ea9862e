"""Panels with an image: boxes, and marks at locations that are told apart without color too."""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from torch import Tensor

from denseteacher.ops.boxes import centers
from denseteacher.structures import ImageBatch

_LINE = 1.3  # points
_LEAST_SIZE = 2.0  # points; a smaller mark has no form
_SIDE, _LARGE_SIDE = 2.2, 3.4  # inches of a panel with an image
_LARGE = 300  # px; locations of larger images lie closer in the picture


class Mark(NamedTuple):
    """How some of an image's locations are shown."""

    label: str
    color: str
    marker: str
    filled: bool = True
    size: float = 1.0


def show_image(axes: Axes, pixels: Tensor) -> None:
    """Shows a (3, H, W) uint8 image, gray and pale, so that marks stand out."""
    gray = pixels.float().mean(0).cpu().numpy()
    height, width = gray.shape
    axes.imshow(gray, cmap="gray", vmin=-150, vmax=255, extent=(0, width, height, 0))
    axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])


def panel_side(images: ImageBatch) -> float:
    """Inches of a panel with one of the images."""
    return _LARGE_SIDE if int(images.sizes.max()) > _LARGE else _SIDE


def show_boxes(axes: Axes, boxes: Tensor, *, color: str, linestyle: str) -> None:
    """Outlines (n, 4) xyxy boxes."""
    for x1, y1, x2, y2 in boxes.tolist():
        outline = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color=color, linestyle=linestyle, linewidth=1.6)
        outline.set_path_effects([_halo(_LINE)])
        axes.add_patch(outline)


def show_locations(axes: Axes, anchors: Tensor, strides: Tensor, mark: Mark, *, inches: float) -> None:
    """Marks locations, those of coarser levels with larger marks.

    Args:
        axes: With an image.
        anchors: (n, 4) boxes around the locations.
        strides: (n,) of their levels.
        mark: How.
        inches: Width of the axes.
    """
    points = inches * 72 / axes.get_xlim()[1]  # of a pixel
    sizes = (1.8 * mark.size * points * strides.float().sqrt()).clamp(min=_LEAST_SIZE)
    line = min([_LINE, *(sizes / 4).tolist()])
    x, y = centers(anchors).cpu().unbind(1)
    axes.scatter(
        x,
        y,
        s=sizes.square().cpu(),
        marker=mark.marker,
        facecolors=mark.color if mark.filled else "none",
        edgecolors=mark.color,
        linewidths=line,
        path_effects=[_halo(line)],
    )


def _halo(line: float) -> patheffects.withStroke:
    """White around a line of this width, for any ground."""
    return patheffects.withStroke(linewidth=2.3 * line, foreground="white")


def mark_legend(figure: Figure, marks: Sequence[Mark]) -> None:
    """One legend below a figure of images."""
    handles = [
        Line2D([], [], linestyle="", marker=mark.marker, color=mark.color, fillstyle="full" if mark.filled else "none")
        for mark in marks
    ]
    labels = [mark.label for mark in marks]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
