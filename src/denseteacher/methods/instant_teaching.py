"""Instant-Teaching (Zhou et al., CVPR 2021) on one-stage detectors."""

from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from denseteacher.data.augment.mix import Mixed, mixup, mosaic, unmixed, with_rows
from denseteacher.data.randomness import to_device
from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import boxes_per_image
from denseteacher.methods.mean_teacher import StudentTask
from denseteacher.methods.pseudo_box import PseudoBoxTeacher, to_strong_view
from denseteacher.pseudo_labels.boxes import PseudoBoxes, fuse
from denseteacher.pseudo_labels.rectify import rectify
from denseteacher.structures import (
    DenseOutput,
    ImageBatch,
    LabeledBatch,
    LossWeights,
    MethodState,
    Targets,
    UnlabeledBatch,
    cat,
    chunk,
    take,
)


class Pairs(NamedTuple):
    """Which unlabeled images are mixed, with which labeled ones and how."""

    rows: Tensor
    """(n,) int64 the unlabeled images."""
    partners: Tensor
    """(n,) int64 the labeled ones."""
    share: Tensor
    """(n,) fp32 of the unlabeled image; in a mosaic where the cut is."""
    beside: Tensor
    """(n,) bool, whether the tiles of a mosaic lie side by side."""


class InstantTeaching(PseudoBoxTeacher):
    """The student labels the weak views for itself, and learns on strong views mixed with labeled images.

    Published (code, docs/sources.md, Instant-Teaching): labels by the current weights instead of an average of
    them; class and box learned with weight 1; half of the strong views mixed with a random labeled image of
    the process's batch, by mixup with uniform shares or as a mosaic of two tiles, each as likely; and
    co-rectify, in which two models correct each other's boxes.

    Adapted: there is a burn-in, as for all methods here. In mixup a location counts as its image's share in
    the box and quality loss too, where the original learns boxes at full weight. The labeled partner is
    a strong view. Strong views are the recipe's. The original threshold of 0.9 is for the softmax scores of
    a two-stage detector; the default is that of Unbiased Teacher on FCOS, as for ``STAC``.

    Co-rectify, adapted: the original trains two models from different initial weights, each in its RoI head
    scores and regresses anew what both have found, and a box becomes the mean of its own and the new version.
    Here the averaged teacher stands in for the second model, which halves the cost but makes the two more
    alike; and as there is no RoI head, what each finds is compared with the other's dense predictions (see
    ``pseudo_labels.rectify``), once. Without ``co_rectify`` the teacher only serves to be evaluated.
    """

    name: Literal["instant_teaching"] = "instant_teaching"
    cls_weight: float = Field(1.0, ge=0)
    box_weight: float = Field(1.0, ge=0)
    box: bool = True
    co_rectify: bool = True
    """Let student and teacher correct each other's boxes before the threshold is applied a second time."""
    mix_probability: float = Field(0.5, ge=0, le=1)
    """Probability of mixing a strong view with a labeled image."""

    def teacher_output(self, student: DenseDetector, teacher: DenseDetector, unlabeled: UnlabeledBatch) -> DenseOutput:
        """The student's predictions on the B weak views; with ``co_rectify`` the teacher's on them come after.

        The student stays in training mode, as published: a batch norm that is not frozen sees these views too.
        """
        own = student(unlabeled.weak)
        return cat(own, teacher(unlabeled.weak)) if self.co_rectify else own

    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        """See ``MeanTeacher``: the losses on mixed images, against their joint boxes."""
        found = to_strong_view(self.labels(detector, teacher_output, unlabeled.weak).targets, unlabeled)
        mixed = self.mix(found, labeled, unlabeled)
        weights = LossWeights(boxes=mixed.weights)
        task = self.box_task(detector, unlabeled, mixed.targets, images=mixed.images, weights=weights)
        return task._replace(metrics={"pseudo/boxes": boxes_per_image(found)})

    def labels(self, detector: DenseDetector, teacher_output: DenseOutput, weak: ImageBatch) -> PseudoBoxes:
        """What is believed to be on the weak views."""
        if not self.co_rectify:
            return self.pseudo_boxes(detector, teacher_output, weak, self.threshold)
        own, other = chunk(teacher_output, 2)
        rectified = []
        for one, judge in ((own, other), (other, own)):
            found = self.pseudo_boxes(detector, one, weak, self.threshold)
            second = detector.decode(judge)
            new = rectify(found, second.boxes, second.scores, weak.sizes)
            rectified.append(new._replace(mask=new.mask & (new.scores > self.threshold)))
        return fuse(*rectified, classes=detector.num_classes, nms_threshold=self.nms_threshold)

    def mix(self, found: Targets, labeled: LabeledBatch, unlabeled: UnlabeledBatch) -> Mixed:
        """The strong views and the boxes on them, some mixed with labeled strong views of the batch."""
        strong = unlabeled.strong
        if labeled.targets.ignored is not None:  # then the mixed images have such regions too
            found = found._replace(ignored=torch.zeros_like(found.mask))
        mixed = unmixed(strong, found, room=labeled.targets.mask.shape[1])
        kinds = self.pairs(unlabeled.random, partners=len(labeled.strong.sizes))
        for pairs, tiles in zip(kinds, (False, True), strict=True):
            if len(pairs.rows):
                rows, partners, share, beside = (to_device(strong.sizes.device, field) for field in pairs)
                both = (
                    take(strong, rows),
                    take(found, rows),
                    take(labeled.strong, partners),
                    take(labeled.targets, partners),
                )
                mixed = with_rows(mixed, rows, mosaic(*both, share, beside) if tiles else mixup(*both, share))
        return mixed

    def pairs(self, random: Tensor, *, partners: int) -> tuple[Pairs, Pairs]:
        """The images for mixup, and those for a mosaic.

        Args:
            random: (B, ``METHOD_RANDOM``) uniform in [0, 1) on the host. Every decision has its own.
            partners: Number of labeled images that there are to choose from.
        """
        gate, kind, partner, share, direction = random[:, :5].unbind(1)
        # a number that close to 1 may be rounded up to the count
        chosen = (partner * partners).long().clamp(max=partners - 1)
        mixed, tiles = gate < self.mix_probability, kind < 0.5
        pairs = []
        for those, shares in ((mixed & ~tiles, share), (mixed & tiles, 0.25 + share / 2)):
            rows = those.nonzero()[:, 0]
            pairs.append(Pairs(rows, chosen[rows], shares[rows], direction[rows] < 0.5))
        return pairs[0], pairs[1]
