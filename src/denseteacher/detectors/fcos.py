"""FCOS (Tian et al., 2019) as Dense Teacher uses it: GroupNorm head, IoU quality on the box tower."""

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from denseteacher.detectors.pyramid import (
    PyramidConfig,
    PyramidDetector,
    flatten,
    initialize_head,
    tower,
    tower_features,
)
from denseteacher.ops.anchors import location_anchors
from denseteacher.ops.assigners import Assignment, assign_fcos
from denseteacher.ops.boxes import decode_ltrb, encode_ltrb, giou_and_iou
from denseteacher.ops.losses import quality_loss
from denseteacher.structures import DenseOutput, LossDict, Targets


class FCOSConfig(PyramidConfig):
    """Everything that makes one FCOS differ from another, apart from the classes."""

    architecture: ClassVar[tuple[str, ...]] = (*PyramidConfig.architecture, "quality", "location_offset")
    learned: ClassVar[tuple[str, ...]] = ("size_factor",)

    name: Literal["fcos"] = "fcos"
    scale_per_level: bool = True
    """Each level learns a factor of its own for the distances."""
    quality: Literal["iou", "centerness"] = "iou"
    """What the quality branch predicts, with which class scores are multiplied: the IoU of the predicted box, or how
    central the location is. That is then the location's weight in the box loss too."""
    center_radius: float = Field(1.5, ge=0)
    """Strides around a box's center that are trained on it; 0 takes the whole box."""
    size_factor: float = Field(8.0, gt=0)
    """Largest distance to a box's side that a level is trained on, in its strides."""
    location_offset: float = Field(0.0, ge=0, lt=1)
    """Where in its cell a location lies, in strides: 0 is the upper left corner, 0.5 the middle."""

    initial_distance: float = Field(2.0, ge=0)
    """Distance to each side that an untrained box branch says, in strides. At 0, as published, half of the rectified
    distances begin without gradient."""

    def build(self, num_classes: int) -> "FCOS":
        """See ``OneStageConfig``."""
        return FCOS(num_classes=num_classes, **dict(self))


class FCOSHead(nn.Module):
    """Two towers shared by all levels: classes on one, distances and quality on the other."""

    def __init__(self, config: FCOSConfig, num_classes: int, num_levels: int) -> None:
        super().__init__()
        self.cls_tower = tower(config)
        self.box_tower = tower(config)
        channels = tower_features(config)
        self.cls = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box = nn.Conv2d(channels, 4, 3, padding=1)
        self.quality = nn.Conv2d(channels, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(num_levels), requires_grad=config.scale_per_level)
        initialize_head(self, self.cls)
        nn.init.constant_(self.box.bias, config.initial_distance)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Pyramid features to fp32 (B, N, K) logits, (B, N, 4) distances in strides, (B, N) quality logits."""
        logits, distances, quality = [], [], []
        for level, feature in enumerate(features):
            cls_feature, box_feature = self.cls_tower(feature), self.box_tower(feature)
            logits.append(flatten(self.cls(cls_feature), self.cls.out_channels))
            distances.append((flatten(self.box(box_feature), 4).float() * self.scales[level]).relu())
            quality.append(flatten(self.quality(box_feature), 1))
        return torch.cat(logits, 1).float(), torch.cat(distances, 1), torch.cat(quality, 1).float()[..., 0]


class FCOS(PyramidDetector):
    """A dense detector (``detectors.base.DenseDetector``) whose anchors are locations."""

    config: FCOSConfig

    def __init__(self, *, num_classes: int, **options: Any) -> None:
        """Builds the detector.

        Args:
            num_classes: K.
            **options: The fields of ``FCOSConfig``.
        """
        config = FCOSConfig(**options)
        super().__init__(config, num_classes)
        self.head = FCOSHead(config, num_classes, len(self.strides))

    def assign(
        self, targets: Targets, anchors: Tensor, levels: Tensor, output: DenseOutput | None = None
    ) -> Assignment:
        """Which location is trained on which box; see ``ops.assigners.assign_fcos``."""
        return assign_fcos(
            anchors,
            targets,
            center_radius=self.config.center_radius,
            size_factor=self.config.size_factor,
        )

    def anchors(self, canvas: tuple[int, int], device: torch.device) -> Tensor:
        """See ``DenseDetector``: (N, 4) squares around the locations."""
        return location_anchors(self.shapes(canvas), self.strides, self.config.location_offset, device)

    def location_losses(self, output: DenseOutput, boxes: Tensor) -> LossDict:
        """See ``OneStageDetector``: GIoU loss, and binary cross-entropy of the quality."""
        giou, iou = giou_and_iou(self.decode_boxes(output), boxes)
        losses = {"box": 1 - giou}
        if output.quality is not None:
            target = iou.detach() if self.config.quality == "iou" else _centerness(boxes, output.anchors)
            losses["quality"] = quality_loss(output.quality, target)
        return losses

    def box_shares(self, boxes: Tensor, anchors: Tensor) -> Tensor | None:
        """See ``OneStageDetector``: the centerness, where that is the quality, as in the code of FCOS."""
        return _centerness(boxes, anchors) if self.config.quality == "centerness" else None

    def decode_boxes(self, output: DenseOutput) -> Tensor:
        """See ``OneStageDetector``: (B, N, 4) xyxy pixels."""
        return decode_ltrb(output.deltas, output.anchors)


def _centerness(boxes: Tensor, anchors: Tensor) -> Tensor:
    """(B, N) in [0, 1]: how central the locations lie in their assigned boxes."""
    distances = encode_ltrb(boxes, anchors).clamp(min=0)  # background rows lie outside their box
    x, y = distances[..., 0::2], distances[..., 1::2]
    ratio = (x.amin(-1) * y.amin(-1)) / (x.amax(-1) * y.amax(-1)).clamp(min=1e-7)
    return ratio.sqrt()
