"""Dense Teacher with objects of known class and place pasted into the unlabeled images: this project's own method."""

from functools import partial
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import state_or_initial
from denseteacher.methods.dense_teacher import DenseTeacher
from denseteacher.methods.mean_teacher import StudentTask
from denseteacher.methods.pasting import PastingTeacher
from denseteacher.ops.assigners import BACKGROUND, centers_inside
from denseteacher.ops.boxes import giou_and_iou
from denseteacher.ops.losses import quality_focal_loss, quality_loss
from denseteacher.pseudo_labels.dense import DensePseudoLabels, dense_pseudo_labels
from denseteacher.structures import (
    DenseOutput,
    LabeledBatch,
    LossDict,
    MethodState,
    Targets,
    UnlabeledBatch,
)


class DenseTargets(NamedTuple):
    """What the student learns at every location: the teacher's labels, and pasted objects over them."""

    labels: DensePseudoLabels
    """Class scores, the learning region with the pasted foreground in it, and the normalizers."""
    boxes: Tensor
    """(B, N, 4) xyxy pixels; meaningless outside of the region."""
    quality: Tensor | None
    """(B, N) in [0, 1] of the teacher; None without a quality branch."""
    true: Tensor
    """(B, N) bool, locations of the region whose box is known to be right."""


class DenseTeacherPlus(PastingTeacher, DenseTeacher):
    """See the module."""

    name: Literal["dense_teacher_plus"] = "dense_teacher_plus"
    richness: Literal["class", "joint"] = "class"
    crops: int = Field(32, gt=0)

    def initial_state(self, *, classes: int, unlabeled: int) -> MethodState:
        return super().initial_state(classes=classes, unlabeled=unlabeled) if self.pastes else {}

    def pseudo_labels(self, teacher_output: DenseOutput, sizes: Tensor | None = None) -> DensePseudoLabels:
        if self.richness == "class" or teacher_output.quality is None:
            return super().pseudo_labels(teacher_output, sizes)
        joint = (teacher_output.logits.sigmoid().amax(-1) * teacher_output.quality.sigmoid()).sqrt()
        return dense_pseudo_labels(
            teacher_output,
            ratio=1.0 if self.region == "all" else float(self.ratio),
            group_size=self.group_size,
            count_padding=self.count_padding,
            sizes=sizes if self.group_canvas else None,
            richness=joint,
        )

    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        if not self.pastes:
            return super().student_task(detector, teacher_output, labeled, unlabeled, state)
        state = state_or_initial(self, state, detector, unlabeled)
        labels = self.pseudo_labels(teacher_output, unlabeled.weak.sizes)
        batch, device = len(unlabeled.strong.sizes), unlabeled.strong.sizes.device
        empty = Targets(
            torch.zeros(batch, 0, 4, device=device),
            torch.zeros(batch, 0, dtype=torch.int64, device=device),
            torch.zeros(batch, 0, dtype=torch.bool, device=device),
        )
        collage = self.paste(unlabeled, empty, state)
        targets = self.with_pasted(detector, teacher_output, labels, collage.targets)
        metrics = {
            "pseudo/locations": labels.selected.sum() / labels.selected.shape[0],
            "pseudo/score": labels.normalizer.sum() / labels.selected.sum(),
            "pseudo/pasted": collage.targets.mask.sum() / len(collage.targets.mask),
        }
        return StudentTask(
            collage.images,
            partial(self._pasted_losses, detector, targets),
            metrics,
            self.remember(
                labeled.weak,
                labeled.targets._replace(ignored=None),
                labeled.targets.mask,
                labeled.targets,
                state,
            ),
        )

    def with_pasted(
        self, detector: DenseDetector, teacher_output: DenseOutput, labels: DensePseudoLabels, pasted: Targets
    ) -> DenseTargets:
        anchors = teacher_output.anchors
        boxes = detector.decode_boxes(teacher_output)
        quality = None if teacher_output.quality is None else teacher_output.quality.sigmoid()
        covered = centers_inside(anchors, pasted.boxes, pasted.mask)
        assignment = detector.assign(pasted, anchors, detector.levels(anchors))
        true = assignment.labels > BACKGROUND
        scores = labels.targets.masked_fill((covered | true)[..., None], 0)
        scores = scores.scatter(2, assignment.labels.clamp(min=0)[..., None], true[..., None].to(scores.dtype), reduce="add")
        selected = (labels.selected & ~covered) | true
        groups = len(labels.normalizer)
        normalizer = labels.normalizer + true.view(groups, -1).sum(1)
        boxes = torch.where(true[..., None], assignment.boxes, boxes)
        return DenseTargets(DensePseudoLabels(scores, selected, normalizer), boxes, quality, true)

    def _pasted_losses(self, detector: DenseDetector, targets: DenseTargets, output: DenseOutput) -> LossDict:
        labels = targets.labels
        entropy = quality_focal_loss(output.logits, labels.targets, gamma=self.gamma)
        groups = labels.normalizer.shape[0]
        losses: LossDict = {"cls": self.cls_weight * (entropy.view(groups, -1).sum(1) / labels.normalizer).mean()}
        giou, iou = giou_and_iou(detector.decode_boxes(output), targets.boxes)
        if self.box:
            losses["box"] = self.box_weight * self._mean_over_region(1 - giou, labels)
        if self.quality and output.quality is not None and targets.quality is not None:
            wanted = torch.where(targets.true, iou.detach().clamp(0, 1), targets.quality)
            losses["quality"] = self.quality_weight * self._mean_over_region(quality_loss(output.quality, wanted), labels)
        return losses
