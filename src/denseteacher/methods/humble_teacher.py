"""Humble Teacher (Tang et al., CVPR 2021) on one-stage detectors."""

from functools import partial
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import Ratio
from denseteacher.methods.mean_teacher import MeanTeacher, StudentTask
from denseteacher.ops.distributed import mean_over_processes
from denseteacher.ops.losses import bernoulli_divergence, giou_loss, quality_loss
from denseteacher.pseudo_labels.flip_ensemble import Belief, belief_of, mirror_ensemble, mirror_images
from denseteacher.pseudo_labels.proposals import balanced_proposals
from denseteacher.structures import (
    DenseOutput,
    ImageBatch,
    LabeledBatch,
    LossDict,
    MethodState,
    UnlabeledBatch,
    cat,
    chunk,
)

_LEAST_MEAN_SCORE = 1e-3  # below, a teacher sees nothing at all, and its scores are no divisor


class HumbleTeacher(MeanTeacher):
    """The student learns the teacher's soft class scores and boxes at many proposals, and nothing elsewhere.

    Published (abstract; docs/sources.md, Humble Teacher): an EMA teacher, soft labels on many proposals instead of
    hard ones on few, and a teacher that averages over the image and its mirror image. From memory, not verified
    (the repository has no code): 640 proposals an image, as many on foreground as on background, a weight of 0.5
    on all losses on unlabeled images, and an EMA decay of 0.999.

    Adapted to one-stage detectors: (1) Proposals are locations (anchors, on RetinaNet). One half are the image's
    richest, those with the highest class probability; the other half are drawn from all others, evenly, since
    without an assigner there is no telling what is background. Locations outside are ignored, whereas
    ``DenseTeacher`` trains them as background. (2) A softmax's soft cross-entropy becomes the sum over classes of
    binary cross-entropies with the teacher's probabilities, mean over proposals; the teacher's own entropy is
    taken off, which changes no gradient. (3) Where the original learns
    offsets of every class with smooth L1, boxes are decoded and compared by GIoU, each with the teacher's highest
    probability as its weight, so that background counts next to nothing; so is quality, where there is such a
    branch. (4) The mirror image's locations lie up to half a stride from the image's (``pseudo_labels.flip_ensemble``);
    locations that are not in both keep what they say of the image alone.
    """

    name: Literal["humble_teacher"] = "humble_teacher"
    mirror: bool = True
    """Average over the mirror image too. Off where mirroring makes another class of an object, as of digits."""
    ratio: Ratio = 0.03
    """Share of an image's locations that are proposals. The default takes 670 of FCOS's 22,300 on an image of
    800 x 1333, about the 640 of the original. ``auto``: as for ``DenseTeacher``."""
    cls_weight: float = Field(0.5, ge=0)
    """Weight of the class loss on unlabeled images."""
    box_weight: float = Field(0.5, ge=0)
    """Weight of the box loss on unlabeled images."""
    quality_weight: float = Field(0.5, ge=0)
    """Weight of the quality loss on unlabeled images."""
    box: bool = True
    """Learn boxes from the teacher, and their quality."""

    @property
    def measures_ratio(self) -> bool:
        """See ``Method``."""
        return self.ratio == "auto"

    def with_ratio(self, ratio: float) -> Self:
        """See ``Method``."""
        return self.model_copy(update={"ratio": ratio}) if self.ratio == "auto" else self

    def teacher_output(self, student: DenseDetector, teacher: DenseDetector, unlabeled: UnlabeledBatch) -> DenseOutput:
        """The teacher's predictions on the B weak views and then, with ``mirror``, on their B mirror images."""
        weak = unlabeled.weak
        return teacher(cat(weak, mirror_images(weak)) if self.mirror else weak)

    def belief(self, detector: DenseDetector, teacher_output: DenseOutput, images: ImageBatch) -> Belief:
        """What the teacher's output says of the images, B of them."""
        if not self.mirror:
            return belief_of(detector, teacher_output)
        plain, mirrored = chunk(teacher_output, 2)
        return mirror_ensemble(detector, plain, mirrored, images)

    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        """See ``MeanTeacher``: ``cls``, ``box`` and ``quality`` at the proposals."""
        if isinstance(self.ratio, str):
            raise ValueError("ratio is still 'auto': give a share, or train through a recipe, which sets it")
        belief = self.belief(detector, teacher_output, unlabeled.weak)
        richness = belief.scores.amax(-1)
        chosen = balanced_proposals(richness, belief.valid, ratio=self.ratio, draws=unlabeled.random[:, 0])
        metrics = {
            "pseudo/locations": chosen.sum() / chosen.shape[0],
            "pseudo/score": (richness * chosen).sum() / chosen.sum().clamp(min=1),
        }
        return StudentTask(unlabeled.strong, partial(self._losses, detector, belief, chosen), metrics)

    def _losses(self, detector: DenseDetector, belief: Belief, chosen: Tensor, output: DenseOutput) -> LossDict:
        weight = belief.scores.amax(-1) * chosen
        count, total = mean_over_processes(torch.stack([chosen.sum().float(), weight.sum()])).unbind()
        count = count.clamp(min=1)
        divergence = bernoulli_divergence(detector.class_logits(output), belief.scores).sum(-1)
        losses: LossDict = {"cls": self.cls_weight * (divergence * chosen).sum() / count}
        if not self.box:
            return losses
        total = torch.maximum(total, _LEAST_MEAN_SCORE * count)
        error = giou_loss(detector.decode_boxes(output), belief.boxes)
        losses["box"] = self.box_weight * (error * weight).sum() / total
        if output.quality is not None and belief.quality is not None:
            error = quality_loss(output.quality, belief.quality)
            losses["quality"] = self.quality_weight * (error * weight).sum() / total
        return losses
