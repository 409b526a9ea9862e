"""Dense pseudo-labels under objects that were pasted into the images: this project's own."""

import torch

from denseteacher.detectors.base import DenseDetector
from denseteacher.ops.assignment import BACKGROUND, IGNORED, centers_inside
from denseteacher.pseudo_labels.dense import DensePseudoLabels, DenseTargets
from denseteacher.structures import DenseOutput, Targets


@torch.no_grad()
def with_pasted(
    detector: DenseDetector, teacher_output: DenseOutput, targets: DenseTargets, pasted: Targets
) -> DenseTargets:
    """What images teach into which objects of known class and box were pasted.

    Where an object covers a location, nothing that the teacher said of it is left: it learns the object as ground truth
    if the detector's assigner trains it on that, and background otherwise. All other locations are as they were. The
    sum that a group's losses are over grows by one for each location that an object gets.

    Args:
        detector: For its assigner; one that looks at predictions is not given any, since the teacher never saw the
            objects.
        teacher_output: Predictions on the images as they were, for their anchors.
        targets: What the teacher's output teaches.
        pasted: The pasted objects.
    """
    anchors, labels = teacher_output.anchors, targets.labels
    assignment = detector.assign(pasted, anchors, detector.levels(anchors))
    true = assignment.labels > BACKGROUND
    replaced = centers_inside(anchors, pasted.boxes, pasted.mask) | true
    scores = labels.targets.masked_fill(replaced[..., None], 0)
    index = assignment.labels.clamp(min=0)[..., None]
    scores = scores.scatter_add(2, index, true[..., None].to(scores.dtype))
    amount = labels.normalizer + true.view(len(labels.normalizer), -1).sum(1)
    ignored = assignment.labels == IGNORED
    if targets.ignored is not None:
        ignored = ignored | (targets.ignored & ~replaced)
    return DenseTargets(
        DensePseudoLabels(scores, (labels.selected & ~replaced) | true, amount),
        torch.where(true[..., None], assignment.boxes, targets.boxes),
        targets.quality,
        ignored,
        true,
        targets.deltas,
    )
