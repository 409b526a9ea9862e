"""ACRST (Zhang et al., "Adaptive Class-Rebalancing Self-Training", AAAI 2022) on one-stage detectors."""

from functools import partial
from typing import Literal

import torch
from pydantic import Field

from denseteacher.data.augment.copy_paste import Collage
from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import state_or_initial
from denseteacher.methods.mean_teacher import StudentTask
from denseteacher.methods.pasting import PastingTeacher
from denseteacher.methods.pseudo_box import PseudoBoxTeacher, to_strong_view
from denseteacher.pseudo_labels.boxes import PseudoBoxes
from denseteacher.structures import (
    DenseOutput,
    LabeledBatch,
    LossDict,
    LossWeights,
    MethodState,
    Targets,
    UnlabeledBatch,
    cat,
)


class ACRST(PastingTeacher, PseudoBoxTeacher):
    """Objects from a crop bank are pasted into the student's unlabeled images, those of rare classes more often.

    What is known of the paper: its abstracts, not its text (docs/sources.md, ACRST). From them: the bank
    of instance crops from ground truth and pseudo-labels, foreground against background balanced by pasting
    them, foreground classes balanced by drawing rare ones more often after the statistics of pseudo-labels, a
    filter of pseudo-labels in two stages, and selective supervision. Not found, so ours: every number, and

    - the bank: a ring of the latest crops of each class, cut from the weak views, all resized to one square;
    - the draw: first how many, then for each a class with odds ``r_c ** -balance``, ``r_c`` being its share of
      the boxes (ground truth and pseudo-boxes, a moving average) over that of the most frequent class;
    - the paste: a rectangle at about the object's own size, wholly inside the image, on the strong view, after
      its changes of color; boxes that one pasted object covers for the most part are dropped;
    - selective supervision: pasted ground truth teaches class, box and quality; pseudo-boxes, pasted or not,
      teach the class alone, since a score says nothing of a box's place.

    Not reproduced: the filter's second stage, a classifier of whole images, for which the detectors here have
    no branch. Only the score stage is left: ``threshold``, and ``crop_threshold`` for what enters the bank.
    Labeled images get no pasted objects, so that the supervised part is that of the other methods.
    """

    name: Literal["acrst"] = "acrst"
    box: bool = True
    crop_threshold: float = Field(0.7, ge=0, lt=1)
    """Pseudo-boxes must score above this to be cut out: an error in the bank is pasted again and again."""

    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        """See ``MeanTeacher``; what is pasted is from the steps before."""
        state = state_or_initial(self, state, detector, unlabeled)
        found = self.pseudo_boxes(detector, teacher_output, unlabeled.weak, self.threshold)
        collage = self.paste(unlabeled, to_strong_view(found.targets, unlabeled), state)
        after = self.remember_found(labeled, unlabeled, found, state)
        task = self.box_task(detector, unlabeled, collage.targets, images=collage.images, state=after)
        pasted = collage.targets.mask[:, found.mask.shape[1] :].sum() / len(found.mask)
        losses = partial(self.selective_losses, detector, collage)
        return task._replace(loss=losses, metrics=task.metrics | {"pseudo/pasted": pasted})

    def remember_found(
        self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, found: PseudoBoxes, state: MethodState
    ) -> MethodState:
        """The state with this step's objects: ground truth of the labeled images, and confident pseudo-boxes."""
        sure = found.targets._replace(mask=found.mask & (found.scores > self.crop_threshold))
        objects = _together(labeled.targets, sure)
        true = torch.arange(len(objects.mask), device=objects.mask.device) < len(labeled.targets.mask)
        return self.remember(
            cat(labeled.weak, unlabeled.weak),
            objects,
            true[:, None].expand_as(objects.mask),
            _together(labeled.targets, found.targets),
            state,
        )

    def selective_losses(self, detector: DenseDetector, collage: Collage, output: DenseOutput) -> LossDict:
        """``cls`` of all boxes, ``box`` and ``quality`` of those that are known to be right."""
        losses = self.box_losses(detector, collage.targets, None, output)
        if self.box:
            weights = LossWeights(boxes=collage.true.to(output.logits.dtype))
            losses = self.box_losses(detector, collage.targets, weights, output) | {"cls": losses["cls"]}
        return losses


def _together(first: Targets, second: Targets) -> Targets:
    """The objects of two batches of images as those of one, padded alike."""
    room = max(first.mask.shape[1], second.mask.shape[1])
    return cat(_padded(first, room), _padded(second, room))


def _padded(targets: Targets, room: int) -> Targets:
    """The objects with zeros up to ``room`` rows an image."""
    spare = room - targets.mask.shape[1]
    columns = (torch.cat((rows, rows.new_zeros(len(rows), spare, *rows.shape[2:])), dim=1) for rows in targets[:3])
    return Targets(*columns)
