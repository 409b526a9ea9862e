"""Dense pseudo-labels: the teacher's own scores, everywhere or in the region where they are richest."""

from typing import NamedTuple

import torch
from torch import Tensor

from denseteacher.ops.anchors import valid_locations
from denseteacher.ops.padding import group_canvases
from denseteacher.structures import DenseOutput

# An untrained head says 0.01 of every class. A selected region whose scores sum to less than a tenth of that
# belongs to a collapsed teacher, and dividing by its sum would blow the loss up (it is unclamped as published).
LEAST_MEAN_SCORE = 1e-3


class DensePseudoLabels(NamedTuple):
    """The teacher's scores as training targets."""

    targets: Tensor
    """(B, N, K) scores in [0, 1]; 0 at every location that is not selected (paper, eq. 4)."""
    selected: Tensor
    """(B, N) bool, the learning region."""
    normalizer: Tensor
    """(B / group_size,) sum of the selected locations' highest scores, one a group."""


class DenseTargets(NamedTuple):
    """What each location of B images is taught."""

    labels: DensePseudoLabels
    """Class scores and the region."""
    boxes: Tensor
    """(B, N, 4) xyxy pixels."""
    quality: Tensor | None
    """(B, N) in [0, 1]; None where the detector has no such branch."""
    ignored: Tensor | None
    """(B, N) bool, where the class loss does not count; None where it counts everywhere."""
    true: Tensor | None = None
    """(B, N) bool, locations of the region whose class and box are known, and whose quality no teacher has said; None
    where there are none."""
    deltas: Tensor | None = None
    """(B, N, D) numbers of the teacher's boxes in the detector's coding; None where no loss asks for them."""


@torch.no_grad()
def dense_pseudo_labels(
    output: DenseOutput,
    *,
    ratio: float,
    group_size: int | None = None,
    count_padding: bool = True,
    sizes: Tensor | None = None,
) -> DensePseudoLabels:
    """Selects the learning region by feature richness, the highest class score (paper, eqs. 3 and 4).

    Args:
        output: The teacher's predictions.
        ratio: Share of a group's locations that is selected; at least one is.
        group_size: Images whose locations compete with each other. The published run has 2 (those of one
            GPU); None takes the whole batch.
        count_padding: True counts locations in the padding and lets them compete, as the published run does.
            False leaves them out of both, so that the share does not depend on the canvas.
        sizes: (B, 2) height and width of the images. Where they are given, a group has a canvas of its own as in the
            published run (``on_group_canvas``): what lies beyond it counts in no share and is never selected.

    Raises:
        ValueError: If the batch is not a multiple of ``group_size`` or ``ratio`` is not in (0, 1].
    """
    batch, locations = output.valid.shape
    size = group_size or batch
    if batch % size:
        raise ValueError(f"a batch of {batch} unlabeled images can't be cut into groups of {size}")
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio is a share in (0, 1], not {ratio}")
    scores = output.logits.float().sigmoid()
    richness = scores.amax(-1)
    counted: Tensor | None = output.valid
    if count_padding:
        counted = None if sizes is None else on_group_canvas(output, sizes, size)
    if counted is not None:
        richness = richness.masked_fill(~counted, -1.0)  # behind every location that counts
    richness = richness.view(batch // size, size * locations)
    best, index = richness.topk(max(1, int(ratio * size * locations)), dim=1)
    kept = torch.ones_like(best, dtype=torch.bool)
    if counted is not None:
        # each group keeps its share of its own locations; a mask keeps the shapes static
        own = counted.view(batch // size, -1).sum(1, keepdim=True)
        share = (own.double() * ratio).long().clamp(min=1)
        kept = (torch.arange(best.shape[1], device=best.device) < share) & (best >= 0)
    selected = torch.zeros_like(richness, dtype=torch.bool).scatter_(1, index, kept).view(batch, locations)
    floor = LEAST_MEAN_SCORE * kept.sum(1).clamp(min=1)
    normalizer = (best * kept).sum(1).clamp(min=floor)
    return DensePseudoLabels(scores * selected[..., None], selected, normalizer)


def on_group_canvas(output: DenseOutput, sizes: Tensor, group_size: int | None) -> Tensor:
    """(B, N) bool, which locations a group of images would have on a canvas of its own.

    Args:
        output: Predictions on B images on one canvas.
        sizes: (B, 2) their heights and widths.
        group_size: Images of a group; None takes all.
    """
    return valid_locations(output.anchors, group_canvases(sizes, group_size or len(sizes)))
