"""ISMT (Yang et al., "Interactive Self-Training with Mean Teachers", CVPR 2021) on one-stage detectors."""

from typing import Literal

from pydantic import Field

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import boxes_per_image, state_or_initial
from denseteacher.methods.mean_teacher import StudentTask
from denseteacher.methods.pseudo_box import PseudoBoxTeacher, to_strong_view
from denseteacher.pseudo_labels.boxes import fuse
from denseteacher.pseudo_labels.label_memory import empty_memory, memorize, recall
from denseteacher.structures import DenseOutput, LabeledBatch, MethodState, UnlabeledBatch


class ISMT(PseudoBoxTeacher):
    """What the teacher finds on an image now is fused with what was found on it in earlier steps.

    A memory holds the pseudo-boxes of every unlabeled image. At each visit new detections and remembered ones
    go through one class-wise NMS; what is left is learned from, and remembered.

    What is known of the paper: its abstract and readers' notes, not its text (docs/sources.md, ISMT).
    From them: the memory of labels, its fusion by NMS instead of averaging, mean teachers. Not found, so the
    family's or ours: all thresholds and weights. Ours: boxes are kept in the pixels of the image file and
    carried to the view of the day; at most ``memory_boxes`` an image are kept; and scores fade (``forget``).

    Not reproduced: the two RoI heads with DropBlock whose teachers label for each other, since a one-stage
    detector has no RoI head; there they only make labels for a detector that is trained in the end.
    """

    name: Literal["ismt"] = "ismt"
    box: bool = True
    memory_boxes: int = Field(20, gt=0)
    """Most boxes remembered of an image, the best ones. The memory takes 22 bytes for each: 54 MB on the 123,000
    images of COCO's unlabeled2017, on the device and in each checkpoint."""
    forget: float = Field(0.9, gt=0, le=1)
    """Factor of a remembered score at each visit of its image. NMS keeps the higher score, so with 1 a confident
    error would stay for ever; with 0.9 and a threshold of 0.5 one that scored 0.9 is gone at the sixth visit."""

    def initial_state(self, *, classes: int, unlabeled: int) -> MethodState:
        """An empty memory, see ``pseudo_labels.memory``."""
        return empty_memory(unlabeled, self.memory_boxes)

    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        """See ``MeanTeacher``: the losses against what is found and remembered."""
        state = state_or_initial(self, state, detector, unlabeled)
        remembered = recall(
            state,
            unlabeled.positions,
            unlabeled.to_weak,
            unlabeled.weak.sizes,
            threshold=self.threshold,
            forget=self.forget,
        )
        fused = fuse(
            self.pseudo_boxes(detector, teacher_output, unlabeled.weak, self.threshold),
            remembered,
            classes=detector.num_classes,
            nms_threshold=self.nms_threshold,
        )
        after = memorize(state, unlabeled.positions, unlabeled.to_weak, fused)
        task = self.box_task(detector, unlabeled, to_strong_view(fused.targets, unlabeled), state=after)
        return task._replace(metrics=task.metrics | {"pseudo/remembered": boxes_per_image(remembered.targets)})
