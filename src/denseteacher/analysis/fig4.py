"""Fig. 4: the locations that pseudo-boxes train, and the dense pseudo-label with its hard negatives."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from denseteacher.analysis.outputs import DetectorOutputs, percent
from denseteacher.analysis.panels import Mark, mark_legend, panel_side, show_boxes, show_image, show_locations
from denseteacher.analysis.selection import RegionCounts, select_region
from denseteacher.methods import DenseTeacher
from denseteacher.visualization.figure import BLUE, GREEN, ORANGE, VERMILLION, new_figure
from denseteacher.visualization.heatmap import score_map

_EXAMPLES = 3
_TRUE = Mark("true foreground", BLUE, "o", size=0.7)
_FALSE = Mark("true background: hard negative", VERMILLION, "D", filled=False, size=0.6)


def describe(counts: RegionCounts) -> dict[str, Any]:
    """Shares of the learning region and of the foreground."""
    shares = counts.shares
    true, hard, covered = (percent(shares[key]) for key in ("true_positives", "hard_negatives", "foreground_selected"))
    return {
        "summary": f"of the learning region {true} is true foreground and {hard} hard negatives; it holds {covered} "
        "of the foreground",
        **shares,
        "counts": counts._asdict(),
    }


def draw(outputs: DetectorOutputs, rule: DenseTeacher, *, threshold: float) -> Figure:
    """A row an image, some that are spread over the set: the image, pseudo-boxes, dense label."""
    places = np.unique(np.linspace(0, len(outputs) - 1, _EXAMPLES + 2).round().astype(int)[1:-1]).tolist()
    side = panel_side(outputs.containing(0)[0].images)
    figure = new_figure(3 * side + 0.9, len(places) * side + 0.7)
    panels = figure.subplots(len(places), 3, squeeze=False)
    for row, place in zip(panels, places, strict=True):
        _draw_example(row, outputs, place, rule, threshold=threshold)
    titles = ("image and ground truth", f"pseudo-boxes above {threshold}", "dense pseudo-label")
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize="medium")
    heats = [axes.images[-1] for axes in panels[:, 2]]
    for heat in heats:  # one scale
        heat.set_clim(0, max(one.get_array().max() for one in heats))
    figure.colorbar(heats[-1], ax=panels[:, 2], label="highest class score", shrink=0.6)
    mark_legend(figure, (_TRUE, _FALSE))
    return figure


def _draw_example(panels: Any, outputs: DetectorOutputs, place: int, rule: DenseTeacher, *, threshold: float) -> None:
    batch, row = outputs.containing(place)
    found, region = outputs.pseudo_boxes(batch, threshold), select_region(outputs, batch, rule)
    anchors, detector = batch.output.anchors, outputs.detector
    height, width = batch.images.sizes[row].tolist()
    for axes in panels:
        show_image(axes, batch.images.pixels[row, :, :height, :width])
        show_boxes(axes, batch.objects.boxes[row][batch.objects.mask[row]], color=GREEN, linestyle="-")
    show_boxes(panels[1], found.boxes[row][found.mask[row]], color=ORANGE, linestyle="--")

    canvas_height, canvas_width = batch.images.pixels.shape[-2:]
    grid = detector.shapes((canvas_height, canvas_width)), detector.strides
    heat = score_map(region.labels.targets[row].amax(-1), anchors, *grid, (height, width))
    shown = np.ma.masked_equal(heat, 0)  # the image shows where nothing is selected
    panels[2].imshow(shown, cmap="viridis", alpha=0.85, extent=(0, width, height, 0))
    strides = torch.tensor(detector.strides, device=anchors.device)[outputs.levels(batch)]
    assigned = (outputs.assign(batch, found.targets).labels >= 0) & region.known
    for axes, trained in ((panels[1], assigned[row]), (panels[2], region.selected[row])):
        for mark, which in ((_FALSE, trained & region.background[row]), (_TRUE, trained & region.foreground[row])):
            show_locations(axes, anchors[which], strides[which], mark, inches=panel_side(batch.images))
