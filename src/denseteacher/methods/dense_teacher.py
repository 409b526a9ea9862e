"""Dense Teacher (Zhou et al., ECCV 2022)."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, Self

from pydantic import Field
from torch import Tensor

from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import PAPER_MULTIPLE, PAPER_RATIO, Ratio, Shown
from denseteacher.methods.mean_teacher import MeanTeacher, StudentTask
from denseteacher.ops.losses import giou_loss, quality_focal_loss, quality_loss
from denseteacher.pseudo_labels.dense import DensePseudoLabels, DenseTargets, dense_pseudo_labels, on_group_canvas
from denseteacher.pseudo_labels.dense_mix import mixed_partners, mixed_tiles
from denseteacher.structures import (
    DenseOutput,
    ImageBatch,
    LabeledBatch,
    LossDict,
    MethodState,
    Targets,
    UnlabeledBatch,
    cat,
    chunk,
)

_LEAST_WEIGHT = 1e-3
"""Sum of a region's weights below which its teacher says nothing."""


class DenseTeacher(MeanTeacher):
    """The student repeats the teacher's dense, un-thresholded predictions on unlabeled images.

    The class loss is the quality focal loss over all locations against the teacher's scores, which are kept
    in the richest ``ratio`` of the locations and 0 elsewhere (paper, eqs. 2 to 4); boxes and quality are
    learned in the selected region alone. The unlabeled losses begin after the burn-in and ramp up linearly.

    On a detector whose class and quality are trained as one (``detector.cls_loss: joint``) that score is the product of
    both, and the class loss trains the product, as on labeled images. That is not published with Dense Teacher.
    """

    name: Literal["dense_teacher"] = "dense_teacher"
    region: Literal["all", "top", "suppress", "ignore"] = "top"
    """``top`` selects by feature richness; ``all`` keeps every location (paper, Table 1, second row).

    ``suppress`` and ``ignore`` are for analysis (Table 5): of the selected locations they drop the hard
    negatives, those that the assigner gives no hidden ground-truth box, and train them as background or not at
    all. They need ``data.hidden_labels``, so labels of the "unlabeled" images."""
    ratio: Ratio = PAPER_RATIO
    """Selected share of the locations. ``auto`` is set before training from the labeled data: ``ratio_multiple``
    times the share of foreground locations."""
    ratio_multiple: float = Field(PAPER_MULTIPLE, gt=0)
    """What ``ratio: auto`` multiplies the share of foreground locations by. 2.5 is the paper's 1 % to COCO's 0.4 %
    (section 4.4). A teacher of few labels is less sure of its objects, and what it does not select is trained as
    background: the recipes for users take more (docs/small-data.md)."""
    cls_weight: float = Field(4.0, ge=0)
    """Weight of the class loss on unlabeled images."""
    box_weight: float = Field(1.0, ge=0)
    """Weight of the box loss on unlabeled images."""
    quality_weight: float = Field(1.0, ge=0)
    """Weight of the quality loss on unlabeled images."""
    box: bool = True
    """Learn boxes from the teacher."""
    quality: bool = True
    """Learn the quality branch from the teacher."""
    region_weights: Literal["equal", "score", "certainty"] = "equal"
    """What the selected locations count in the box and quality losses: ``equal`` as published, or ``score``, the
    teacher's highest class score there. In a region much larger than the foreground most locations hold no object,
    and no detector is ever trained to put a sensible box there. ``certainty`` is the score times how sure the teacher
    is of its box, which a detector of distributions says (GFL); on others it is the score."""
    distribution_weight: float = Field(0.0, ge=0)
    """Weight of a loss by which the student repeats the teacher's distributions of boxes too, on a detector that has
    them (GFL, or ``detector.coding.name: distribution``): their Kullback-Leibler divergence in the region. Not
    published with Dense Teacher."""
    gamma: float = Field(2.0, ge=0)
    """Power of the distance between teacher and student that weights the class loss of a location."""
    group_size: int | None = Field(None, gt=0)
    """Images that share one selection and one normalizer; None is the process's whole batch."""
    count_padding: bool = True
    """Padded locations count in the share and may be selected, as in the published run."""
    mix: Literal["none", "mixup", "mosaic", "both"] = "none"
    """``mixup`` shows each strong view half and half with another one, which teaches what either teacher output has;
    ``mosaic`` adds images of four strong views at half size, which teach the teacher's maps one level down; ``both``.
    See ``pseudo_labels.dense_mix``. Not published: the dense form of what MixPL does with pseudo-boxes."""
    mosaic_weight: float = Field(0.5, ge=0)
    """Weight of the losses on mosaics, beside 1 of those on strong views."""
    group_canvas: bool = False
    """The ``group_size`` images have a canvas of their own, as in the published run: ``ratio`` is a share of the
    smallest one that holds them, and nothing is learned beyond it. Else it is a share of the process's canvas."""

    @property
    def images_a_selection(self) -> int | None:
        """See ``Method``."""
        return self.group_size

    @property
    def needs_hidden_labels(self) -> bool:
        """See ``Method``."""
        return self.region in ("suppress", "ignore")

    @property
    def needs_distributions(self) -> bool:
        """See ``Method``."""
        return self.distribution_weight > 0

    @property
    def measures_ratio(self) -> bool:
        """See ``Method``."""
        return self.ratio == "auto"

    @property
    def foreground_multiple(self) -> float:
        """See ``Method``."""
        return self.ratio_multiple

    @property
    def selected_share(self) -> float | None:
        """See ``Method``."""
        return None if self.region == "all" or isinstance(self.ratio, str) else self.ratio

    def with_ratio(self, ratio: float) -> Self:
        """See ``Method``."""
        return self.model_copy(update={"ratio": ratio}) if self.ratio == "auto" else self

    def show(self, detector: DenseDetector, teacher_output: DenseOutput, weak: ImageBatch) -> Shown:
        """See ``Method``: the highest score of a dense pseudo-label, all images in one group."""
        labels = self.model_copy(update={"group_size": None}).pseudo_labels(detector, teacher_output, weak.sizes)
        return Shown(region=labels.targets.amax(-1))

    def legend(self) -> str:
        """See ``Method``."""
        share = "all locations" if self.region == "all" else f"the richest {float(self.ratio):.1%} of the locations"
        return (
            f"The dense pseudo-label keeps the teacher's scores at {share} and trains all others as background; "
            "bright is high. A method of pseudo-boxes would keep only the detections above its threshold: move the "
            "slider to see which."
        )

    def pseudo_labels(
        self, detector: DenseDetector, teacher_output: DenseOutput, sizes: Tensor | None = None
    ) -> DensePseudoLabels:
        """The teacher's predictions as this method's training targets, hard negatives included.

        Args:
            detector: Whose predictions they are.
            teacher_output: Predictions on B images.
            sizes: (B, 2) their heights and widths, for ``group_canvas``; without them all share one canvas.
        """
        if isinstance(self.ratio, str):
            raise ValueError("ratio is still 'auto': give a share, or train through a recipe, which sets it")
        return dense_pseudo_labels(
            teacher_output._replace(logits=detector.class_logits(teacher_output)),
            ratio=1.0 if self.region == "all" else self.ratio,
            group_size=self.group_size,
            count_padding=self.count_padding,
            sizes=sizes if self.group_canvas else None,
        )

    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        """See ``MeanTeacher``: ``cls``, ``box`` and ``quality`` against the dense pseudo-labels, mean over groups."""
        return self.dense_task(detector, self.dense_targets(detector, teacher_output, unlabeled), unlabeled)

    def dense_targets(
        self, detector: DenseDetector, teacher_output: DenseOutput, unlabeled: UnlabeledBatch
    ) -> DenseTargets:
        """What the teacher's output teaches on the strong views."""
        sizes = unlabeled.weak.sizes
        labels = self.pseudo_labels(detector, teacher_output, sizes)
        ignored = ~on_group_canvas(teacher_output, sizes, self.group_size) if self.group_canvas else None
        if self.needs_hidden_labels:
            hidden = unlabeled.hidden_targets
            if hidden is None:
                raise ValueError(f"region {self.region!r} needs the hidden labels of the unlabeled images")
            labels, hard = _without_hard_negatives(labels, detector, teacher_output, hidden)
            if self.region == "ignore":
                ignored = hard if ignored is None else hard | ignored
        quality = None if teacher_output.quality is None else teacher_output.quality.sigmoid()
        asks = self.distribution_weight > 0 or self.region_weights == "certainty"
        deltas = teacher_output.deltas if asks else None
        return DenseTargets(labels, detector.decode_boxes(teacher_output), quality, ignored, deltas=deltas)

    def dense_task(self, detector: DenseDetector, targets: DenseTargets, unlabeled: UnlabeledBatch) -> StudentTask:
        """What the student is shown of the strong views, and its losses against what they teach."""
        labels = targets.labels
        metrics = {
            "pseudo/locations": labels.selected.sum() / labels.selected.shape[0],
            "pseudo/score": labels.normalizer.sum() / labels.selected.sum().clamp(min=1),
        }
        images, parts = self._mixed(detector, targets, unlabeled)
        return StudentTask(images, partial(self._part_losses, detector, parts), metrics)

    def _mixed(
        self, detector: DenseDetector, targets: DenseTargets, unlabeled: UnlabeledBatch
    ) -> tuple[ImageBatch, Sequence[DenseTargets]]:
        """What is shown of the strong views, and what it teaches: that of the B views, then that of mosaics."""
        images, parts = unlabeled.strong, [targets]
        if self.mix in ("mixup", "both"):
            images, parts[0] = mixed_partners(images, targets, unlabeled.random)
        if self.mix in ("mosaic", "both"):
            mosaics, tiles = mixed_tiles(detector, unlabeled.strong, targets, unlabeled.random)
            images = cat(images, mosaics)
            parts.append(tiles)
        return images, parts

    def _part_losses(self, detector: DenseDetector, parts: Sequence[DenseTargets], output: DenseOutput) -> LossDict:
        """The losses on strong views and, times a weight, on mosaics."""
        outputs = chunk(output, [len(part.boxes) for part in parts])
        losses = self._losses(detector, parts[0], outputs[0])
        for part, own in zip(parts[1:], outputs[1:], strict=True):
            learned = self._losses(detector, part, own)
            losses = {name: value + self.mosaic_weight * learned[name] for name, value in losses.items()}
        return losses

    def _losses(self, detector: DenseDetector, targets: DenseTargets, output: DenseOutput) -> LossDict:
        labels = targets.labels
        entropy = quality_focal_loss(detector.class_logits(output), labels.targets, gamma=self.gamma)
        if targets.ignored is not None:
            entropy = entropy.masked_fill(targets.ignored[..., None], 0)
        groups = labels.normalizer.shape[0]
        losses: LossDict = {"cls": self.cls_weight * (entropy.view(groups, -1).sum(1) / labels.normalizer).mean()}
        certainty = self._certainty(detector, targets, output)
        if self.box:
            error = giou_loss(detector.decode_boxes(output), targets.boxes)
            losses["box"] = self.box_weight * self._mean_over_region(error, labels, certainty)
        if self.quality and output.quality is not None and targets.quality is not None:
            error = _where_a_teacher_said(quality_loss(output.quality, targets.quality), targets)
            losses["quality"] = self.quality_weight * self._mean_over_region(error, labels, certainty)
        if self.distribution_weight > 0 and targets.deltas is not None:
            divergence = detector.box_divergence(output, targets.deltas)
            if divergence is not None:
                error = _where_a_teacher_said(divergence, targets)
                losses["distribution"] = self.distribution_weight * self._mean_over_region(error, labels, certainty)
        return losses

    def _certainty(self, detector: DenseDetector, targets: DenseTargets, output: DenseOutput) -> Tensor | None:
        """(B, N) in [0, 1] how sure the teacher is of its boxes; None where that doesn't count."""
        if self.region_weights != "certainty" or targets.deltas is None:
            return None
        uncertainty = detector.box_uncertainty(output._replace(deltas=targets.deltas))
        if uncertainty is None:
            return None
        return 1 - (uncertainty if targets.true is None else uncertainty.masked_fill(targets.true, 0))

    def _mean_over_region(self, error: Tensor, labels: DensePseudoLabels, certainty: Tensor | None) -> Tensor:
        """(B, N) errors to their mean over each group's learning region, then over groups."""
        groups = labels.normalizer.shape[0]
        errors, selected = error.view(groups, -1), labels.selected.view(groups, -1)
        if self.region_weights == "equal":
            total = errors.masked_fill(~selected, 0).sum(1)
            return (total / selected.sum(1).clamp(min=1)).mean()
        # 0 where nothing is selected, as the targets are
        richness = labels.targets.amax(-1).view(groups, -1)
        if certainty is None:
            return ((errors * richness).sum(1) / labels.normalizer).mean()
        weights = richness * certainty.view(groups, -1)
        return ((errors * weights).sum(1) / weights.sum(1).clamp(min=_LEAST_WEIGHT)).mean()


def _where_a_teacher_said(error: Tensor, targets: DenseTargets) -> Tensor:
    """(B, N) errors, 0 where the targets are an object's and not a teacher's."""
    return error if targets.true is None else error.masked_fill(targets.true, 0)


def _without_hard_negatives(
    labels: DensePseudoLabels, detector: DenseDetector, teacher_output: DenseOutput, hidden: Targets
) -> tuple[DensePseudoLabels, Tensor]:
    """The pseudo-labels in true foreground alone, and the (B, N) selected locations outside of it.

    The normalizer stays that of the whole selection, so that the strategies of Table 5 differ in what is
    learned at hard negatives and not in the scale of the loss elsewhere.
    """
    hard = labels.selected & ~detector.foreground(hidden, teacher_output.anchors, teacher_output)
    kept = labels._replace(targets=labels.targets.masked_fill(hard[..., None], 0), selected=labels.selected & ~hard)
    return kept, hard
