"""Fig. 2(c, d): false and missed pseudo-boxes at every score threshold."""

from typing import Any, NamedTuple

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from denseteacher.analysis.outputs import MATCH_IOU, DetectorOutputs, match_boxes
from denseteacher.evaluation.matching import UNMATCHED
from denseteacher.visualization.figure import BLUE, GREEN, VERMILLION, label_axes, new_figure

THRESHOLDS = tuple(tenth / 10 for tenth in range(1, 10))


class Errors(NamedTuple):
    """Boxes of all images at each of ``THRESHOLDS``."""

    false_positives: list[int]
    """Pseudo-boxes that are not an object; those in a region to ignore don't count."""
    false_negatives: list[int]
    """Objects without a pseudo-box."""
    objects: int


def count_errors(outputs: DetectorOutputs) -> Errors:
    """Counts once for all thresholds.

    Boxes are matched by falling score, so those above a threshold are matched as if there were no others; and NMS
    after a threshold keeps what a threshold after NMS does.
    """
    scores, hits, objects = [], [], 0
    for batch in outputs:
        found = outputs.pseudo_boxes(batch, THRESHOLDS[0])
        scores.append(found.scores.cpu().flatten())
        hits.append(match_boxes(found, batch.objects, batch.ignored).flatten())
        objects += int(batch.objects.mask.sum())
    score, hit = torch.cat(scores), torch.cat(hits)
    above = score > torch.tensor(THRESHOLDS)[:, None]
    false, right = (above & (hit == UNMATCHED)).sum(1), (above & (hit >= 0)).sum(1)
    return Errors(false.tolist(), (objects - right).tolist(), objects)


def describe(errors: Errors) -> dict[str, Any]:
    """The counts, and the threshold at which there are about as many errors of either kind."""
    pairs = list(zip(errors.false_positives, errors.false_negatives, strict=True))
    balance = min(range(len(pairs)), key=lambda place: abs(pairs[place][0] - pairs[place][1]))
    false, missed = pairs[balance]
    return {
        "summary": f"both kinds of errors balance near a threshold of {THRESHOLDS[balance]}: {false} false "
        f"pseudo-boxes, and {missed} missed of {errors.objects} objects",
        "iou": MATCH_IOU,
        "thresholds": list(THRESHOLDS),
        **errors._asdict(),
        "balanced_at": THRESHOLDS[balance],
    }


def draw(errors: Errors, images: int) -> Figure:
    """Both counts over the threshold, and the number of objects."""
    figure = new_figure(6.0, 3.8)
    axes = figure.add_subplot()
    axes.plot(
        THRESHOLDS, errors.false_positives, color=VERMILLION, marker="o", label="false positives (boxes of no object)"
    )
    axes.plot(
        THRESHOLDS,
        errors.false_negatives,
        color=BLUE,
        marker="s",
        linestyle="--",
        label="false negatives (objects without a box)",
    )
    axes.axhline(errors.objects, color=GREEN, linestyle=":", linewidth=2, label="objects (ground truth)")
    label_axes(
        axes,
        title=f"Errors of the teacher's pseudo-boxes on {images} images",
        xlabel="score threshold",
        ylabel="boxes (logarithmic)",
    )
    axes.set_yscale("symlog", linthresh=10)  # there may be a hundred times as many boxes as objects, or none
    axes.set_ylim(0, 3 * max(errors.objects, errors.false_positives[0], 10))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xticks(THRESHOLDS)
    axes.legend(frameon=False, fontsize="small")
    return figure
