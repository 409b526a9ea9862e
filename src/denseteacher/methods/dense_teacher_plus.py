"""Dense Teacher with objects of known class and box among what it learns: this project's own method."""

from typing import Literal

import torch
from pydantic import Field

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import state_or_initial
from denseteacher.methods.dense_teacher import DenseTeacher
from denseteacher.methods.mean_teacher import StudentTask
from denseteacher.methods.pasting import MOST_PASTES, PastingTeacher
from denseteacher.pseudo_labels.dense_paste import with_pasted
from denseteacher.structures import DenseOutput, LabeledBatch, MethodState, Targets, UnlabeledBatch


class DenseTeacherPlus(PastingTeacher, DenseTeacher):
    """Dense Teacher whose unlabeled images carry labeled objects, which are learned as ground truth.

    A dense pseudo-label repeats what the teacher knows. So that the student meets more of what is certain, objects of
    the labeled images are cut out, kept in a bank, and pasted into the strong views (as in ACRST, which pastes into
    images with pseudo-boxes). A location that a pasted object covers learns that object, all others the teacher's
    scores (``pseudo_labels.dense_paste``). Only ground truth is cut out: an error in the bank would be pasted again and
    again. The teacher sees the images as they are.

    Not published. What each part gives is measured in docs/results.md.
    """

    name: Literal["dense_teacher_plus"] = "dense_teacher_plus"  # type: ignore[assignment]
    crops: int = Field(32, gt=0)
    """Crops kept of a class; fewer where there are many classes, so that all have 4,096 at most. With the default
    side 80 classes take 71 MB."""
    pastes: int = Field(6, ge=0, le=MOST_PASTES)
    """Most objects pasted into an image; every number up to this is as likely."""

    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        """See ``MeanTeacher``; what is pasted is from the steps before."""
        if self.pastes == 0:
            return super().student_task(detector, teacher_output, labeled, unlabeled, state)
        state = state_or_initial(self, state, detector, unlabeled)
        targets = self.dense_targets(detector, teacher_output, unlabeled)
        collage = self.paste(unlabeled, _nothing(unlabeled), state)
        targets = with_pasted(detector, teacher_output, targets, collage.targets)
        task = self.dense_task(detector, targets, unlabeled._replace(strong=collage.images))
        objects = labeled.targets._replace(ignored=None)
        after = self.remember(labeled.weak, objects, objects.mask, objects, state)
        pasted = collage.targets.mask.sum() / len(collage.targets.mask)
        return task._replace(state=after, metrics=task.metrics | {"pseudo/pasted": pasted})


def _nothing(unlabeled: UnlabeledBatch) -> Targets:
    """Ground truth of the B images without a box."""
    sizes = unlabeled.strong.sizes
    boxes, labels = sizes.new_zeros(len(sizes), 0, 4, dtype=torch.float32), sizes.new_zeros(len(sizes), 0)
    return Targets(boxes, labels, labels.bool())
