"""A dense detector of parts: backbone, pyramid, head, box coding, assigner, quality target and class loss."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from denseteacher.detectors.assigners import AssignerConfig, Locations, Misses, Predictions
from denseteacher.detectors.class_losses import JOINT_QUALITY_WEIGHT, ClassLoss, Fit, class_loss
from denseteacher.detectors.codings import CodingConfig
from denseteacher.detectors.head import DenseHead
from denseteacher.detectors.older_options import with_moved_options
from denseteacher.detectors.pyramid import PyramidConfig, PyramidDetector
from denseteacher.ops.anchors import location_anchors
from denseteacher.ops.assignment import BACKGROUND, Assignment, areas_inside, location_weights
from denseteacher.ops.boxes import centers, encode_ltrb, giou_and_iou
from denseteacher.ops.distributed import mean_over_processes
from denseteacher.ops.losses import joint_log_scores, quality_loss
from denseteacher.structures import Decoded, DenseOutput, LossDict, LossWeights, Targets, cat

_PRIOR_SIDE = 8.0  # strides


class ComposedConfig(PyramidConfig):
    """The parts that every detector is made of, and what makes one differ from another, apart from the classes."""

    architecture: ClassVar[tuple[str, ...]] = (
        *PyramidConfig.architecture,
        "coding.name",
        "coding.bins",
        "quality",
        "align",
        "location_offset",
    )
    learned: ClassVar[tuple[str, ...]] = ("assigner.size_factor",)
    anchor_boxes: ClassVar[bool] = False
    """Whether anchors are boxes to start from; else they are squares of side stride around the locations."""

    coding: CodingConfig
    """What the numbers of the box branch mean, and their loss."""
    assigner: AssignerConfig
    """Which location is trained on which box."""
    quality: Literal["none", "iou", "centerness"]
    """What the quality branch predicts, with which class scores are multiplied: the IoU of the predicted box, or how
    central the location is. That is then the location's weight in the box loss too. ``none`` is a head without it."""
    align: Literal["none", "fam3d"] = "none"
    """Whether each side of a box is taken from the level and the place that see it best: ``fam3d``, the feature
    alignment of Consistent-Teacher, for one anchor a location and a coding of four numbers (``ltrb``, ``delta``)."""
    cls_loss: ClassLoss
    """Class loss: ``focal`` with hard labels; ``quality_focal`` (Generalized Focal Loss), where a score should be the
    IoU of the predicted box; ``joint`` (ARSL), where the product of class and quality score should be that."""
    box_weight: float = Field(1.0, ge=0)
    """Weight of the box loss, on labeled images and on pseudo-boxes."""
    scale_per_level: bool = True
    """Each level learns a factor of its own for the distances; a coding of deltas has none."""
    location_offset: float = Field(0.0, ge=0, lt=1)
    """Where in its cell a location lies, in strides: 0 is the upper left corner, 0.5 the middle."""

    @model_validator(mode="before")
    @classmethod
    def _place_options(cls, content: Any) -> Any:
        """Moves options to their parts (``with_moved_options``); a part without a name is the detector's own."""
        if not isinstance(content, Mapping):
            return content
        options = with_moved_options(content)
        for part in ("assigner", "coding"):
            given = options.get(part)
            if isinstance(given, Mapping):
                options[part] = {"name": cls.model_fields[part].default.name, **given}
        return options

    @model_validator(mode="after")
    def _check_parts(self) -> Self:
        if self.cls_loss == "joint" and self.quality == "none":
            raise ValueError("cls_loss 'joint' needs a quality branch: set detector.quality to iou")
        if self.align != "none":
            self._check_alignment()
        return self

    def _check_alignment(self) -> None:
        if self.anchors_per_location != 1:
            raise ValueError(
                f"align 'fam3d' moves one box a location, and there are {self.anchors_per_location} anchors at one: "
                "give it one (on RetinaNet anchor_scales [1.0] and anchor_ratios [1.0]), or set detector.align to none"
            )
        if self.coding.outputs != 4:
            raise ValueError(
                f"align 'fam3d' moves the sides of boxes, which coding {self.coding.name!r} has no numbers for: "
                "set detector.coding.name to ltrb or delta, or detector.align to none"
            )
        if self.head_convs == 0:
            raise ValueError("align 'fam3d' looks at the head's towers, and head_convs is 0: set it to 1 or more")

    @classmethod
    def kept_by(cls, other: type["ComposedConfig"], options: Mapping[str, Any]) -> dict[str, Any]:
        """The options that another detector keeps from one of this kind: without parts that are this one's own."""
        kept = dict(options)
        for key in ("assigner", "coding", "quality", "cls_loss"):
            default, others = (one.model_fields[key].default for one in (cls, other))
            part = kept.get(key, default)
            name = part.get("name", default.name) if isinstance(part, Mapping) else getattr(part, "name", part)
            own = getattr(default, "name", default)
            if name == own != getattr(others, "name", others):
                kept.pop(key, None)
        return kept

    @property
    def anchors_per_location(self) -> int:
        """Anchors side by side at a location."""
        return 1

    def anchors(self, shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device) -> Tensor:
        """(N, 4) the anchors of feature maps of these heights and widths."""
        return location_anchors(shapes, strides, self.location_offset, device)

    @abstractmethod
    def build(self, num_classes: int) -> "ComposedDetector":
        """See ``OneStageConfig``."""


class ComposedDetector(PyramidDetector):
    """A dense detector (``detectors.base.DenseDetector``) of the parts that its config names."""

    config: ComposedConfig

    def __init__(self, config: ComposedConfig, num_classes: int) -> None:
        """Builds the detector.

        Args:
            config: Its parts.
            num_classes: K.
        """
        super().__init__(config, num_classes)
        self.anchors_per_location = config.anchors_per_location
        self.head = DenseHead(config, num_classes, len(self.strides))

    @property
    def misses(self) -> Misses:  # type: ignore[override]
        """See ``OneStageDetector``: those of the assigner."""
        return self.config.assigner.misses

    def anchors(self, canvas: tuple[int, int], device: torch.device) -> Tensor:
        """See ``DenseDetector``."""
        return self.config.anchors(self.shapes(canvas), self.strides, device)

    def covered(self, anchors: Tensor, boxes: Tensor, mask: Tensor) -> Tensor:
        """See ``OneStageDetector``: of an anchor that is a box, half of its area is enough."""
        if self.config.anchor_boxes:
            return areas_inside(anchors, boxes, mask)
        return super().covered(anchors, boxes, mask)

    def locations(self, anchors: Tensor, levels: Tensor) -> Locations:
        """What an assigner is told of (N, 4) anchors of (N,) levels."""
        strides = (torch.full_like(levels, self.strides[0]) << levels).to(anchors.dtype)
        if self.config.anchor_boxes:
            return Locations(anchors, anchors, strides, levels)
        place, half = centers(anchors), _PRIOR_SIDE / 2 * strides[:, None]
        return Locations(anchors, torch.cat((place - half, place + half), -1), strides, levels)

    def assign(
        self, targets: Targets, anchors: Tensor, levels: Tensor, output: DenseOutput | None = None
    ) -> Assignment:
        """See ``DenseDetector``: what the recipe's assigner says."""
        assigner, locations = self.config.assigner, self.locations(anchors, levels)
        if output is None or not assigner.looks:
            return assigner.assign(targets, locations, None)
        with torch.no_grad():
            predictions = Predictions(self.class_logits(output).detach(), self.decode_boxes(output))
        views = len(output.logits) // len(targets.mask)
        return assigner.assign(cat(*[targets] * views), locations, predictions)

    def fitting(self, targets: Targets, anchors: Tensor) -> Tensor:
        """See ``OneStageDetector``: those that the assigner calls so."""
        return self.config.assigner.fitting(targets, self.locations(anchors, self.levels(anchors)))

    def decode_boxes(self, output: DenseOutput) -> Tensor:
        """See ``OneStageDetector``: (B, N, 4) xyxy pixels."""
        return self.config.coding.decode(output.deltas, output.anchors)

    def box_uncertainty(self, output: DenseOutput) -> Tensor | None:
        """See ``DenseDetector``."""
        return self.config.coding.uncertainty(output.deltas)

    def box_divergence(self, output: DenseOutput, wanted: Tensor) -> Tensor | None:
        """See ``DenseDetector``."""
        return self.config.coding.divergence(output.deltas, wanted)

    def class_logits(self, output: DenseOutput) -> Tensor:
        """See ``DenseDetector``."""
        if self.config.cls_loss != "joint" or output.quality is None:
            return output.logits
        positive, negative = joint_log_scores(output.logits, output.quality)
        return positive - negative

    def class_scores(self, output: DenseOutput) -> Tensor:
        """See ``OneStageDetector``: the final ones where class and quality were trained as one."""
        if self.config.cls_loss == "joint":
            return self.decode(output).scores
        return super().class_scores(output)

    def decode(self, output: DenseOutput) -> Decoded:
        """See ``OneStageDetector``: where class and quality were trained as one, scores are their product itself."""
        if self.config.cls_loss != "joint" or output.quality is None:
            return super().decode(output)
        quality = output.quality.sigmoid()
        scores = output.logits.sigmoid() * quality[..., None] * output.valid[..., None]
        return Decoded(self.decode_boxes(output), scores, quality, output.valid)

    def supervised_losses(self, output: DenseOutput, targets: Targets, weights: LossWeights | None = None) -> LossDict:
        """See ``DenseDetector``: over the foreground count of all processes, or the sum of its assigned weights."""
        images = len(output.logits)
        assignment = _on_views(self.assignment(targets, output.anchors, output), images)
        foreground = assignment.labels > BACKGROUND
        count = mean_over_processes(foreground.sum().float()).clamp(min=1)
        amount = count
        if assignment.weights is not None:
            amount = mean_over_processes((assignment.weights * foreground).sum()).clamp(min=1)

        fit = self._fit(output, assignment.boxes)
        entropy = class_loss(self.config.cls_loss, output, assignment, self._class_targets(assignment, fit))
        counted: Tensor = foreground
        if weights is not None:
            share = location_weights(assignment, _weights_on_views(weights, images))
            entropy, counted = entropy * share[..., None], foreground * share
        losses = {"cls": entropy.sum() / amount}
        losses["box"] = self.config.box_weight * self._box_loss(output, assignment, fit, counted, count)
        if output.quality is not None:
            target = fit.iou if self.config.quality == "iou" else fit.centerness
            factor = JOINT_QUALITY_WEIGHT if self.config.cls_loss == "joint" else 1.0
            losses["quality"] = factor * ((quality_loss(output.quality, target) * counted).sum() / count)
        return losses

    def _box_loss(
        self, output: DenseOutput, assignment: Assignment, fit: Fit, counted: Tensor, count: Tensor
    ) -> Tensor:
        """The box loss: a mean over the foreground by what each location counts in it."""
        errors = self.config.coding.loss(output.deltas, output.anchors, assignment.boxes, fit.giou)
        shares = self._box_shares(output, assignment, fit)
        if shares is None:
            return (errors * counted).sum() / count
        total = mean_over_processes((shares * (assignment.labels > BACKGROUND)).sum()).clamp(min=1)
        return (errors * shares * counted).sum() / total

    def _box_shares(self, output: DenseOutput, assignment: Assignment, fit: Fit) -> Tensor | None:
        """(B, N) what each location counts in the box loss; None if all count the same.

        That is what the assigner says; else the class score (Generalized Focal Loss), or the centerness, as in the code
        of FCOS where that is the quality, and in that of ARSL.
        """
        if assignment.weights is not None:
            return assignment.weights
        if self.config.cls_loss == "quality_focal":
            return output.logits.detach().sigmoid().amax(-1)
        return fit.centerness if self.config.cls_loss == "joint" or self.config.quality == "centerness" else None

    def _class_targets(self, assignment: Assignment, fit: Fit) -> Tensor | None:
        """(B, N) what the class score should be at foreground; None for 1."""
        if self.config.cls_loss == "focal":
            return None
        return assignment.weights if self.config.assigner.soft_labels and assignment.weights is not None else fit.iou

    def _fit(self, output: DenseOutput, boxes: Tensor) -> Fit:
        """How the predictions fit the boxes that they are trained on; what no loss asks for is 0."""
        config, nothing = self.config, output.deltas.new_zeros(())
        giou, iou, centerness = nothing, nothing, nothing
        if config.coding.compares_boxes or config.quality == "iou" or config.cls_loss != "focal":
            giou, iou = giou_and_iou(self.decode_boxes(output), boxes)
        if config.quality == "centerness" or config.cls_loss == "joint":
            centerness = _centerness(boxes, output.anchors)
        return Fit(giou, iou.detach(), centerness)


def _on_views(assignment: Assignment, images: int) -> Assignment:
    """The assignment of B views of images, one view after the other, from that of each image or each view."""
    views = images // len(assignment.labels)
    labels, boxes, matched, weights = assignment
    return Assignment(
        labels.repeat(views, 1),
        boxes.repeat(views, 1, 1),
        matched.repeat(views, 1),
        None if weights is None else weights.repeat(views, 1),
    )


def _weights_on_views(weights: LossWeights, images: int) -> LossWeights:
    """Weights of B views of images, one view after the other, from those of the images."""
    return LossWeights(*(None if each is None else each.repeat(images // len(each), 1) for each in weights))


def _centerness(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(B, N) in [0, 1]: how central the locations lie in their assigned boxes."""
    distances = encode_ltrb(boxes, anchors).clamp(min=0)  # background rows lie outside their box
    x, y = distances[..., 0::2], distances[..., 1::2]
    ratio = (x.amin(-1) * y.amin(-1)) / (x.amax(-1) * y.amax(-1)).clamp(min=1e-7)
    return ratio.sqrt()
