"""Li et al., "Rethinking Pseudo Labels for Semi-Supervised Object Detection" (AAAI 2022), on one-stage detectors."""

from typing import Literal

from pydantic import Field

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import state_or_initial
from denseteacher.methods.mean_teacher import StudentTask
from denseteacher.methods.pseudo_box import PseudoBoxTeacher, to_strong_view
from denseteacher.pseudo_labels.class_statistics import accumulate_mass, even_mass, relative_mass
from denseteacher.structures import DenseOutput, LabeledBatch, LossWeights, MethodState, UnlabeledBatch


class DynamicThreshold(PseudoBoxTeacher):
    """Classes with few pseudo-labels get a lower threshold and a higher loss weight.

    With ``F_c`` the pseudo-label mass of class c, a moving average of the summed scores of its pseudo-boxes in
    an image, and ``r_c = F_c / max F``: boxes of class c must score above ``threshold * r_c ** threshold_power``,
    and count ``r_c ** -weight_power`` in the class, box and quality loss.

    What is known of the paper: its abstract, which has thresholds and loss weights adapted to each category,
    after the quality of classification and localization (docs/sources.md, Li et al.). From memory, with low
    confidence: the two formulas, the powers 0.05 and 0.6, and a threshold of 0.7. Ours: what exactly is
    averaged and over how long, the even start, ``least_share``, and the threshold of 0.5, since scores of a
    sigmoid are lower than those of a softmax.

    Not reproduced: localization as a classification of intervals, whose certainty is a box's quality. The score
    that is compared here has the detector's own quality in it (``DenseDetector.scores``): the predicted IoU on
    FCOS, nothing on RetinaNet.
    """

    name: Literal["dynamic_threshold"] = "dynamic_threshold"
    box: bool = True
    threshold_power: float = Field(0.05, ge=0)
    """How much rare classes lower their threshold; 0 leaves one threshold for all."""
    weight_power: float = Field(0.6, ge=0)
    """How much more the boxes of rare classes count; 0 leaves one weight for all."""
    least_share: float = Field(0.05, gt=0, le=1)
    """Classes with less mass than this share of the largest are treated as if they had it: with the default
    powers no threshold is more than 14 % lower, no weight above 6."""
    memory: float = Field(0.999, ge=0, lt=1)
    """Share of the mass that stays from step to step: the default looks back over about 1,000 steps."""

    def initial_state(self, *, classes: int, unlabeled: int) -> MethodState:
        """``mass``: (K,) fp32, even."""
        return {"mass": even_mass(classes)}

    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        """See ``MeanTeacher``; thresholds and weights are those of the steps before."""
        mass = state_or_initial(self, state, detector, unlabeled)["mass"]
        share = relative_mass(mass, least=self.least_share)
        thresholds = self.threshold * share**self.threshold_power
        found = self.pseudo_boxes(detector, teacher_output, unlabeled.weak, thresholds)
        weights = LossWeights(boxes=(share**-self.weight_power)[found.labels])
        after = {"mass": accumulate_mass(mass, found.labels, found.scores, memory=self.memory)}
        targets = to_strong_view(found.targets, unlabeled)
        task = self.box_task(detector, unlabeled, targets, weights=weights, state=after)
        return task._replace(metrics=task.metrics | {"pseudo/threshold": thresholds.mean()})
