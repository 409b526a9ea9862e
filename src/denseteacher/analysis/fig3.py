"""Fig. 3: which locations are foreground by the ground truth, and which by pseudo-boxes."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from denseteacher.analysis.outputs import MATCH_IOU, DetectorOutputs, OutputBatch, known_locations, match_boxes, share
from denseteacher.analysis.panels import Mark, mark_legend, panel_side, show_boxes, show_image, show_locations
from denseteacher.ops.boxes import iou
from denseteacher.pseudo_labels.boxes import PseudoBoxes
from denseteacher.structures import Targets
from denseteacher.visualization.figure import BLUE, GREEN, VERMILLION, label_axes, new_figure

IOU_EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
_QUARTILES = (0.25, 0.5, 0.75)
_AGREE = Mark("foreground by both", GREEN, "o")
_TRUTH = Mark("by ground truth alone", BLUE, "^", filled=False)
_PSEUDO = Mark("by pseudo-boxes alone", VERMILLION, "X", filled=False)


class Comparison(NamedTuple):
    """Foreground of a batch, known locations alone."""

    truth: Tensor
    """(B, N) bool, by the ground truth."""
    pseudo: Tensor
    """(B, N) bool, by the pseudo-boxes."""
    other_class: Tensor
    """(B, N) bool, by both, but of another class."""
    found: PseudoBoxes
    pairs: Tensor
    """(M, 2) IoU of each pseudo-box that is an object with it, and the share of their locations that only one has."""


class Disagreement(NamedTuple):
    """Counts of the locations on which both disagree, over all images."""

    images: list[float | None]
    """Share of an image's foreground, by either, that is foreground by one alone."""
    levels: Tensor
    """(L, 3) locations that are foreground by both, by ground truth alone and by pseudo-boxes alone, a level."""
    other_class: int
    """Locations that are foreground by both, but of another class."""
    pairs: Tensor
    """(M, 2) see ``Comparison``."""


def compare(outputs: DetectorOutputs, batch: OutputBatch, *, threshold: float) -> Comparison:
    """Assigns ground truth and pseudo-boxes of a batch with the detector's own assigner."""
    found = outputs.pseudo_boxes(batch, threshold)
    truth, pseudo = (outputs.assign(batch, targets) for targets in (batch.objects, found.targets))
    known = known_locations(batch, truth)
    by_truth, by_pseudo = ((one.labels >= 0) & known for one in (truth, pseudo))
    other_class = by_truth & by_pseudo & (truth.labels != pseudo.labels)
    partner = match_boxes(found, batch.objects, batch.ignored).to(known.device)
    # without the false ones among the pseudo-boxes, which would take locations from the others
    matched = outputs.assign(batch, found.targets._replace(mask=partner >= 0))
    own = truth.matched.masked_fill(~by_truth, -1)
    other = partner.gather(1, matched.matched).masked_fill((matched.labels < 0) | ~known, -1)
    return Comparison(by_truth, by_pseudo, other_class, found, _pairs(own, other, found, partner, batch.objects))


def _pairs(own: Tensor, other: Tensor, found: PseudoBoxes, partner: Tensor, objects: Targets) -> Tensor:
    """See ``Comparison``, from the (B, N) objects that locations belong to by either; below 0 to none."""
    room = objects.mask.shape[1]
    mine, theirs, common = (_count(one, room) for one in (own, other, own.masked_fill(own != other, -1)))
    matched = partner.masked_fill(partner < 0, room)
    boxes = objects.boxes.gather(1, partner.clamp(min=0)[..., None].expand(-1, -1, 4))
    overlap = torch.zeros_like(mine).scatter(1, matched, iou(found.boxes, boxes))[:, :room]
    union = (mine + theirs - common)[:, :room]
    differing = 1 - common[:, :room] / union.clamp(min=1)
    return torch.stack((overlap, differing), -1)[(overlap > 0) & (union > 0)]


def _count(owner: Tensor, room: int) -> Tensor:
    """(B, room + 1) how often each object occurs in (B, N); the last column counts what belongs to none."""
    index = owner.masked_fill(owner < 0, room)
    ones = torch.ones(owner.shape, device=owner.device)
    return torch.zeros(len(owner), room + 1, device=owner.device).scatter_add(1, index, ones)


def measure(outputs: DetectorOutputs, *, threshold: float) -> Disagreement:
    """Compares all images."""
    images: list[float | None] = []
    pairs, other_class = [], 0
    levels = torch.zeros(len(outputs.detector.strides), 3, dtype=torch.float64)
    for batch in outputs:
        found = compare(outputs, batch, threshold=threshold)
        union, differing = (found.truth | found.pseudo).sum(1), (found.truth ^ found.pseudo).sum(1)
        images += [share(part, whole) for part, whole in zip(differing.tolist(), union.tolist(), strict=True)]
        kinds = (found.truth & found.pseudo, found.truth & ~found.pseudo, found.pseudo & ~found.truth)
        for column, kind in enumerate(kinds):
            counts = kind.sum(0).double()
            levels[:, column] += torch.bincount(outputs.levels(batch), counts, len(levels)).cpu()
        other_class += int(found.other_class.sum())
        pairs.append(found.pairs.cpu())
    return Disagreement(images, levels, other_class, torch.cat(pairs))


def describe(result: Disagreement, outputs: DetectorOutputs) -> dict[str, Any]:
    """The shares that disagree: of all, by level, and by the IoU of the pseudo-box with its object."""
    both, truth, pseudo = result.levels.sum(0).long().tolist()
    rate = share(truth + pseudo, both + truth + pseudo)
    shown = "no location is foreground" if rate is None else f"{rate:.0%} of the foreground is so by one alone"
    return {
        "summary": f"{shown}: {truth} locations by the ground truth, {pseudo} by pseudo-boxes; {both} by both",
        "disagreement": rate,
        "both": both,
        "truth_alone": truth,
        "pseudo_alone": pseudo,
        "other_class": result.other_class,
        "levels": [
            {"stride": stride, "foreground": int(sum(row)), "disagreement": share(row[1] + row[2], sum(row))}
            for stride, row in zip(outputs.detector.strides, result.levels.tolist(), strict=True)
        ],
        "iou": MATCH_IOU,
        "by_iou": [
            {"from": low, "to": high, "pairs": len(rows), "disagreement": share(float(rows.sum()), len(rows))}
            for low, high, rows in _binned(result.pairs)
        ],
    }


def _binned(pairs: Tensor) -> list[tuple[float, float, Tensor]]:
    """Disagreements of the pairs in each bin of IoU."""
    which = torch.bucketize(pairs[:, 0].contiguous(), torch.tensor(IOU_EDGES[1:-1]), right=True)
    return [(low, high, pairs[which == index, 1]) for index, (low, high) in enumerate(pairwise(IOU_EDGES))]


def draw(result: Disagreement, numbers: dict[str, Any], outputs: DetectorOutputs, *, threshold: float) -> Figure:
    """Images at the quartiles of disagreement, and what it depends on."""
    examples = _at_quartiles(result.images)
    side = panel_side(outputs.containing(0)[0].images)
    figure = new_figure(3 * side + 0.4, len(examples) * side + 3.3)
    grid = figure.add_gridspec(2, 1, height_ratios=(len(examples) * side + 0.6, 2.5))
    upper, lower = (figure.add_subfigure(grid[row]) for row in (0, 1))
    panels: Any = upper.subplots(len(examples), 3, squeeze=False) if examples else ()
    for axes, place in zip(panels, examples, strict=True):
        _draw_example(axes, outputs, place, threshold=threshold)
        axes[0].set_ylabel(f"disagreement {result.images[place]:.0%}")
    for axes in panels[:1]:
        for one, title in zip(axes, ("by ground truth", "by pseudo-boxes", "compared"), strict=True):
            one.set_title(title, fontsize="medium")
    left, right = lower.subplots(1, 2)
    levels = [(f"stride {one['stride']}\n{one['foreground']:,}", one["disagreement"]) for one in numbers["levels"]]
    _draw_bars(left, levels, title="by level", xlabel="level and its foreground")
    pairs = [(f"{one['from']}-{one['to']}\n{one['pairs']:,}", one["disagreement"]) for one in numbers["by_iou"]]
    _draw_bars(right, pairs, title="of matched boxes", xlabel="IoU and number of pairs")
    mark_legend(figure, (_AGREE, _TRUTH, _PSEUDO))
    figure.suptitle(f"Foreground by ground truth and by pseudo-boxes above {threshold}")
    return figure


def _at_quartiles(shares: list[float | None]) -> list[int]:
    """Places of the images at the quartiles, those with foreground alone."""
    order = sorted((one, place) for place, one in enumerate(shares) if one is not None)
    chosen = (order[round(quartile * (len(order) - 1))][1] for quartile in _QUARTILES) if order else ()
    return list(dict.fromkeys(chosen))


def _draw_example(panels: Sequence[Axes], outputs: DetectorOutputs, place: int, *, threshold: float) -> None:
    batch, row = outputs.containing(place)
    found = compare(outputs, batch, threshold=threshold)
    truth, pseudo = found.truth[row], found.pseudo[row]
    height, width = batch.images.sizes[row].tolist()
    for axes in panels:
        show_image(axes, batch.images.pixels[row, :, :height, :width])
    objects, boxes = batch.objects.boxes[row][batch.objects.mask[row]], found.found.boxes[row][found.found.mask[row]]
    for axes in (panels[0], panels[2]):
        show_boxes(axes, objects, color=BLUE, linestyle="-")
    for axes in panels[1:]:
        show_boxes(axes, boxes, color=VERMILLION, linestyle="--")
    strides = torch.tensor(outputs.detector.strides, device=truth.device)[outputs.levels(batch)]
    shown = [
        (0, _AGREE._replace(color=BLUE, marker="^"), truth),
        (1, _AGREE._replace(color=VERMILLION, marker="X"), pseudo),
        (2, _AGREE, truth & pseudo),
        (2, _TRUTH, truth & ~pseudo),
        (2, _PSEUDO, pseudo & ~truth),
    ]
    for panel, mark, which in shown:
        show_locations(
            panels[panel], batch.output.anchors[which], strides[which], mark, inches=panel_side(batch.images)
        )


def _draw_bars(axes: Axes, bars: Sequence[tuple[str, float | None]], *, title: str, xlabel: str) -> None:
    known = [(name, height) for name, height in bars if height is not None]
    drawn = axes.bar([name for name, _ in known], [height for _, height in known], color=BLUE, width=0.5)
    axes.bar_label(drawn, [f"{height:.0%}" for _, height in known], fontsize="small")
    label_axes(axes, title=f"disagreement {title}", xlabel=xlabel, ylabel="share")
    axes.set_ylim(0, 1.12)
    if not known:
        axes.set_xticks([])
    axes.tick_params(axis="x", labelsize="small")
