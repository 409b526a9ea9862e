"""CSD, consistency-based semi-supervised detection (Jeong et al., NeurIPS 2019), on FCOS and RetinaNet."""

from typing import Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import boxes_per_image, weighted
from denseteacher.methods.mean_teacher import SemiSupervised
from denseteacher.methods.supervised import Supervised
from denseteacher.ops.boxes import centers
from denseteacher.ops.distributed import mean_over_processes
from denseteacher.ops.losses import bernoulli_divergence
from denseteacher.pseudo_labels.flip_ensemble import mirror_back, mirror_images
from denseteacher.pseudo_labels.missing_labels import missing_labels
from denseteacher.structures import MethodOutput, MethodState, SemiBatch, cat, chunk

_LEAST_SIDE = 1.0  # pixels; keeps the logarithm of a collapsed box finite


class CSD(SemiSupervised):
    """The student must say the same of an image and of its mirror image, where it sees an object.

    No teacher, no pseudo-labels, no strong view of unlabeled images. Published (code of CSD-SSD,
    docs/sources.md, CSD) and kept: labeled and unlabeled images and their mirror images go through the
    student in one pass; locations are kept where it holds an object for more likely than background on the image
    itself; there, half of both Kullback-Leibler divergences, each with the other side's prediction as a
    constant (the text's name for it is Jensen-Shannon divergence), and the mean of four squared differences: of
    the box's center in x, with the sign turned, and in y, and of the logarithms of its sides, all with gradients
    to both sides. One weight for both terms, ``unlabeled_weight``.

    Adapted to FCOS and RetinaNet: (1) Sigmoid scores have no background class, so a location is kept where its
    highest class probability is above ``threshold``, and the divergence is the sum over the classes' Bernoulli
    ones. (2) Centers are compared in units of the box's own sides, the mean of both sides' and constant, where
    the original has those of the default box: FCOS has no default boxes, only strides, in which a box may
    be eight wide. The logarithms are the same for any coding. (3) Of the labeled images it is the weak view
    whose mirror image is seen; the supervised losses are those of ``Supervised``, on both views. (4) Burn-in and
    ramp are those of the other methods here; the original has no burn-in, ramps up as
    ``exp(-5 (1 - t)^2)`` over the first quarter of training, and down again at its end.

    Not for data where mirroring makes another class of an object, as of digits.
    """

    name: Literal["csd"] = "csd"
    threshold: float = Field(0.4, ge=0, lt=1)
    """Class probability above which a location is kept. An object is then more likely than not: focal loss with its
    usual alpha of 0.25 and gamma of 2 is least at 0.40 where the chance is one half."""
    box: bool = True
    """Compare boxes too."""
    variances: tuple[PositiveFloat, PositiveFloat] = (0.1, 0.2)
    """What differences of centers and of logarithms of sides are divided by, as in SSD's coding: with the published
    ones a center's square counts 100 times and a side's 25 times."""

    def losses(
        self,
        student: DenseDetector,
        teacher: DenseDetector | None,
        batch: SemiBatch,
        step: int,
        state: MethodState | None = None,
    ) -> MethodOutput:
        """See ``Method``: the supervised losses, and ``unsup/cls`` and ``unsup/box`` over all images."""
        weight = self.weight_at(step)
        if weight == 0 or batch.unlabeled is None:
            return Supervised().losses(student, teacher, batch, step)
        labeled_batch = batch.labeled
        weak, strong, targets = labeled_batch.weak, labeled_batch.strong, labeled_batch.targets
        images = cat(weak, batch.unlabeled.weak)
        output = student(cat(strong, images, mirror_images(images)))
        labeled, seen = len(weak.sizes), len(images.sizes)
        supervised, _ = chunk(output, [2 * labeled, 2 * seen - labeled])
        _, plain, mirror = chunk(output, [labeled, seen, seen])
        mirrored = mirror_back(student, mirror, images)

        logits = student.class_logits(plain)
        kept = mirrored.valid & (logits.detach().sigmoid().amax(-1) > self.threshold)
        count = mean_over_processes(kept.sum().float()).clamp(min=1)
        divergence = symmetric_divergence(logits, mirrored.logits)
        consistency = {"cls": (divergence * kept).sum() / count}
        if self.box:
            difference = box_difference(student.decode_boxes(plain), mirrored.boxes, self.variances)
            consistency["box"] = (difference * kept).sum() / count
        weights, watched = (None, {}) if teacher is None else missing_labels(teacher, labeled_batch)
        losses = weighted("sup", student.supervised_losses(supervised, targets, weights))
        losses |= weighted("unsup", consistency, weight)
        metrics = {
            "labeled/boxes": boxes_per_image(targets),
            "consistency/locations": kept.sum() / kept.shape[0],
        }
        return MethodOutput(losses, metrics | watched)


def symmetric_divergence(logits1: Tensor, logits2: Tensor) -> Tensor:
    """Half of ``KL(q || p) + KL(p || q)``, summed over classes; in each the first one is a constant.

    Args:
        logits1: (..., K) of p.
        logits2: (..., K) of q.

    Returns:
        (...) fp32.
    """
    there = bernoulli_divergence(logits1, logits2.detach().float().sigmoid())
    back = bernoulli_divergence(logits2, logits1.detach().float().sigmoid())
    return ((there + back) / 2).sum(-1)


def box_difference(boxes1: Tensor, boxes2: Tensor, variances: tuple[float, float]) -> Tensor:
    """Mean squared difference of boxes: of centers, in their mean sides, and of logarithms of sides.

    Args:
        boxes1: (..., 4) xyxy.
        boxes2: (..., 4) xyxy.
        variances: What the differences of centers and of logarithms are divided by.

    Returns:
        (...) fp32.
    """
    boxes1, boxes2 = boxes1.float(), boxes2.float()
    sides1, sides2 = ((boxes[..., 2:] - boxes[..., :2]).clamp(min=_LEAST_SIDE) for boxes in (boxes1, boxes2))
    shift = (centers(boxes1) - centers(boxes2)) / ((sides1 + sides2) / 2).detach()
    growth = sides1.log() - sides2.log()
    of_center, of_side = variances
    return torch.cat((shift / of_center, growth / of_side), dim=-1).square().mean(-1)
