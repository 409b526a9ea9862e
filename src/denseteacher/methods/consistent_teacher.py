"""Consistent-Teacher (Wang et al., CVPR 2023) on one-stage detectors."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import state_or_initial
from denseteacher.methods.mean_teacher import StudentTask
from denseteacher.methods.pseudo_box import PseudoBoxTeacher, to_strong_view
from denseteacher.ops.distributed import mean_over_processes
from denseteacher.pseudo_labels.boxes import PseudoBoxes, pseudo_boxes
from denseteacher.pseudo_labels.score_mixture import TOLERANCE, mixture_thresholds, remember_scores
from denseteacher.structures import (
    DenseOutput,
    ImageBatch,
    LabeledBatch,
    LossDict,
    MethodState,
    UnlabeledBatch,
)

_MOST_BOXES = 100  # of an image, as in the published post-processing
_MOST_CANDIDATES = 1000  # of an image before NMS


class ConsistentTeacher(PseudoBoxTeacher):
    """Each class has a threshold that follows its last scores, found by a mixture of two Gaussians.

    Published (paper and code, docs/sources.md, Consistent-Teacher) and kept: of an image's detections above 0.05, as
    many as their scores add up to, rounded, and one more, are believed to be objects. Their scores go to a memory
    of the last 100 of their class. Two Gaussians are fitted to it, and pseudo-boxes are the believed detections that
    score above the likeliest score of the upper one. Where fewer than half of the images have a pseudo-box, the
    unlabeled losses count a hundredth. Class and box loss have the weights of the labeled ones, times 2.

    The paper's other two changes are the detector's: cost-based assignment (``detector.assigner.name: asa``), for
    labeled images and pseudo-boxes alike, and feature alignment (``detector.align: fam3d``).

    Ours: there is one memory, with the scores of all processes, and the images that have a pseudo-box are counted
    over all processes; published, each GPU has a memory of its own and counts its four images. Before NMS an image
    has 1,000 candidates at most; published, a level has. Burn-in and ramp are those of the other methods here:
    published are 10,000 steps and no ramp, the values of the recipe ``consistent_teacher``.
    """

    name: Literal["consistent_teacher"] = "consistent_teacher"
    threshold: float = Field(0.05, ge=0, lt=1)
    """Detections must score above this to be looked at; which of them become pseudo-boxes the mixtures say."""
    remembered_scores: int = Field(100, ge=4)
    """Last scores of a class that its mixture is fitted to."""
    mixture_tolerance: float = Field(TOLERANCE, ge=0)
    """A class's fit ends when its mean log-likelihood gains less than this in an iteration. With the published 0.001
    that is often before the two Gaussians have parted, and the threshold is then the lower edge of the upper heap of
    scores; 0 fits on, and the threshold is its top."""
    background_weight: float = Field(0.01, ge=0, le=1)
    """Factor of the unlabeled losses where fewer than half of the images have a pseudo-box."""
    unlabeled_weight: float = Field(2.0, ge=0)
    """Full weight of all losses on unlabeled images."""
    cls_weight: float = Field(1.0, ge=0)
    """Weight of the class loss on unlabeled images, in the detector's own."""
    box: bool = True

    def initial_state(self, *, classes: int, unlabeled: int) -> MethodState:
        """``scores``: (K, R) fp32, see ``pseudo_labels.score_mixture``; none so far."""
        return {"scores": torch.zeros(classes, self.remembered_scores)}

    def pseudo_boxes(
        self, detector: DenseDetector, teacher_output: DenseOutput, weak: ImageBatch, threshold: float | Tensor
    ) -> PseudoBoxes:
        """The best detections of each image: as many as scores above a threshold add up to, rounded, and one more."""
        decoded = detector.decode(teacher_output)
        scores = decoded.scores.flatten(1)
        if scores.shape[1] > _MOST_CANDIDATES:
            last = scores.topk(_MOST_CANDIDATES, 1, sorted=False).values.amin(1)
            scores = scores.masked_fill(scores < last[:, None], 0)
        found = pseudo_boxes(
            decoded.boxes,
            scores.view_as(decoded.scores),
            weak.sizes,
            threshold=threshold,
            nms_threshold=self.nms_threshold,
            max_boxes=_MOST_BOXES,
        )
        objects = (found.scores.sum(1, keepdim=True) + 0.5).floor()
        rank = torch.arange(found.mask.shape[1], device=objects.device)  # the best box of an image comes first
        has_area = (found.boxes[..., 2:] > found.boxes[..., :2]).all(-1)
        return found.only((rank <= objects) & has_area)

    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        """See ``MeanTeacher``; the thresholds are those of the memory with this step's scores."""
        memory = state_or_initial(self, state, detector, unlabeled)["scores"]
        believed = self.pseudo_boxes(detector, teacher_output, unlabeled.weak, self.threshold)
        scores, labels, mask = (
            F.pad(field, (0, _MOST_BOXES - field.shape[1]))
            for field in (believed.scores, believed.labels, believed.mask)
        )
        memory = remember_scores(memory, scores, labels, mask)
        thresholds = mixture_thresholds(memory, tolerance=self.mixture_tolerance)[believed.labels]
        kept = believed.only(believed.scores > thresholds)
        share = mean_over_processes(kept.mask.any(1).float().mean())
        factor = torch.where(share < 0.5, self.background_weight, 1.0)
        task = self.box_task(detector, unlabeled, to_strong_view(kept.targets, unlabeled), state={"scores": memory})
        watched = {
            "pseudo/threshold": (thresholds * believed.mask).sum() / believed.mask.sum().clamp(min=1),
            "pseudo/images_with_boxes": share,
        }
        return task._replace(loss=partial(_scaled, task.loss, factor), metrics=task.metrics | watched)

    def legend(self) -> str:
        """See ``Method``."""
        return (
            "Boxes are the teacher's best detections of an image, as many as their scores add up to and one more. The "
            "student takes those for ground truth that score above the threshold of their class, which follows the "
            "class's last scores."
        )


def _scaled(loss: Callable[[DenseOutput], LossDict], factor: Tensor, output: DenseOutput) -> LossDict:
    return {name: value * factor for name, value in loss(output).items()}
