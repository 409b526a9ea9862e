"""What the labels of a data set are like: classes, sizes and places of boxes, boxes an image."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from denseteacher.data.objects import Objects, objects_of
from denseteacher.data.records import LabeledImages
from denseteacher.evaluation.arrays import Floats
from denseteacher.visualization.figure import BLUE, Chart, as_svg, new_figure, page_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_MOST_CLASSES = 20
_CELLS = 32
_SIDE = 3.9  # inches of a panel
_FEW_TO_MANY = ("#2e8be0", "#a86cd0", "#d9569a", "#e8601f")
"""Colors that stand out from the cards of light and dark pages alike, at 3 : 1 or more."""

Draw = Callable[["Axes", LabeledImages, Objects], None]


def label_figure(labeled: LabeledImages) -> "Figure":
    """All four charts as one figure."""
    objects = objects_of(labeled)
    with page_style():
        figure = new_figure(2 * _SIDE, 2 * _SIDE)
        for axes, (title, draw) in zip(figure.subplots(2, 2).flat, _PANELS.items(), strict=True):
            draw(axes, labeled, objects)
            axes.set_title(title, fontsize="medium")
    return figure


def label_charts(labeled: LabeledImages) -> list[Chart]:
    """The charts for a page."""
    objects, charts = objects_of(labeled), []
    for title, draw in _PANELS.items():
        with page_style():
            figure = new_figure(_SIDE, _SIDE)
            draw(figure.add_subplot(), labeled, objects)
        charts.append(Chart(title, as_svg(figure, f"{title}, of {len(objects.labels):,} labeled objects")))
    return charts


def _draw_classes(axes: "Axes", labeled: LabeledImages, objects: Objects) -> None:
    """Bars by falling count; of many classes the most and the least frequent."""
    counts = np.bincount(objects.labels, minlength=len(labeled.categories))
    order = np.argsort(-counts, kind="stable")
    if len(order) > _MOST_CLASSES:
        order = np.concatenate([order[: _MOST_CLASSES // 2], order[-_MOST_CLASSES // 2 :]])
    axes.barh(range(len(order)), counts[order], color=BLUE, height=0.6)
    axes.set_yticks(range(len(order)), [labeled.categories[place].name for place in order.tolist()])
    axes.set_ylim(len(order) - 0.4, -0.6)  # the most frequent on top
    axes.set(xlabel="objects")
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _draw_sizes(axes: "Axes", labeled: LabeledImages, objects: Objects) -> None:
    """Where many boxes have that width and height, in shares of the image's."""
    sides = (objects.boxes[:, 2:] - objects.boxes[:, :2]) / objects.sizes[:, ::-1]
    _draw_cells(axes, sides)
    axes.set(xlabel="width, share of the image", ylabel="height, share of the image")


def _draw_places(axes: "Axes", labeled: LabeledImages, objects: Objects) -> None:
    """Where many boxes have their center, in shares of the image."""
    centers = (objects.boxes[:, 2:] + objects.boxes[:, :2]) / 2 / objects.sizes[:, ::-1]
    _draw_cells(axes, centers)
    axes.invert_yaxis()  # as an image lies
    axes.set(xlabel="center from the left", ylabel="center from the top")


def _draw_boxes_an_image(axes: "Axes", labeled: LabeledImages, objects: Objects) -> None:
    counts = np.bincount(objects.owner, minlength=len(labeled.images))
    edges: Any = np.arange(counts.max(initial=0) + 2) - 0.5
    axes.hist(counts, bins=edges if len(edges) <= 2 * _CELLS else 2 * _CELLS, color=BLUE)
    axes.set(xlabel="boxes an image", ylabel="images")
    axes.grid(axis="y")
    axes.set_axisbelow(True)


def few_to_many() -> "Colormap":
    """Colors of a cell by how many boxes are in it."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("few to many", _FEW_TO_MANY)


def _draw_cells(axes: "Axes", points: Floats) -> None:
    """Counts of (n, 2) points in the unit square, in colors for light and dark pages; empty cells are not drawn."""
    cells = (points * _CELLS).astype(np.int64).clip(0, _CELLS - 1)
    counts = np.zeros((_CELLS, _CELLS))  # rows up the second coordinate
    np.add.at(counts, (cells[:, 1], cells[:, 0]), 1)
    shown = np.where(counts > 0, np.sqrt(counts), np.nan)  # few beside many still show
    colors = few_to_many()
    axes.imshow(shown, origin="lower", extent=(0, 1, 0, 1), cmap=colors, interpolation="nearest")


_PANELS: dict[str, Draw] = {
    "Objects by class": _draw_classes,
    "Size of the boxes": _draw_sizes,
    "Place of the boxes": _draw_places,
    "Boxes an image": _draw_boxes_an_image,
}
