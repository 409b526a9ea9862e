"""RetinaNet (Lin et al., ICCV 2017): anchor boxes, and no quality branch (paper, Table 6)."""

from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from denseteacher.detectors.base import Misses
from denseteacher.detectors.pyramid import (
    PyramidConfig,
    PyramidDetector,
    flatten,
    initialize_head,
    tower,
    tower_features,
)
from denseteacher.ops.anchors import box_anchors
from denseteacher.ops.assigners import Assignment, areas_inside, assign_max_iou
from denseteacher.ops.boxes import decode_deltas, encode_deltas
from denseteacher.ops.losses import giou_loss
from denseteacher.structures import DenseOutput, LossDict, Targets

ANCHOR_SCALES = (2 ** (0 / 3), 2 ** (1 / 3), 2 ** (2 / 3))
"""Sides of a location's square anchors, in the smallest one's."""
ANCHOR_RATIOS = (0.5, 1.0, 2.0)
"""Height over width."""
ANCHORS_PER_LOCATION = len(ANCHOR_SCALES) * len(ANCHOR_RATIOS)


class RetinaNetConfig(PyramidConfig):
    """Everything that makes one RetinaNet differ from another, apart from the classes."""

    architecture: ClassVar[tuple[str, ...]] = (*PyramidConfig.architecture, "anchor_scale")
    misses: ClassVar[Misses] = Misses(
        "object that no anchor fits",
        "at the size of the training views, only their best anchor is trained on them",
        0.1,
    )

    name: Literal["retinanet"] = "retinanet"
    head_norm: Literal["group", "none"] = "none"
    anchor_scale: float = Field(4.0, gt=0)
    """Side of a level's smallest square anchor, in strides: 32 to 512 px for strides 8 to 128 as published."""
    foreground_iou: float = Field(0.5, gt=0, le=1)
    """Anchors that overlap a box this much are trained on it."""
    background_iou: float = Field(0.4, ge=0, le=1)
    """Anchors that overlap every box less than this are background; those in between are not trained."""
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    """Loss on the coded deltas, or on the decoded boxes."""
    beta: float = Field(0.1, ge=0)
    """Where smooth L1 turns from square to linear; 0 is L1."""
    nms_threshold: float = Field(0.5, gt=0, le=1)

    @model_validator(mode="after")
    def _check_ious(self) -> Self:
        if self.background_iou > self.foreground_iou:
            raise ValueError(
                f"background_iou is {self.background_iou}, above foreground_iou {self.foreground_iou}: "
                "an anchor can't be both"
            )
        return self

    def build(self, num_classes: int) -> "RetinaNet":
        """See ``OneStageConfig``."""
        return RetinaNet(num_classes=num_classes, **dict(self))


class RetinaNetHead(nn.Module):
    """Two towers shared by all levels, classes on one and box deltas on the other."""

    def __init__(self, config: RetinaNetConfig, num_classes: int, anchors: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.cls_tower = tower(config)
        self.box_tower = tower(config)
        channels = tower_features(config)
        self.cls = nn.Conv2d(channels, anchors * num_classes, 3, padding=1)
        self.box = nn.Conv2d(channels, anchors * 4, 3, padding=1)
        initialize_head(self, self.cls)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor, None]:
        """Pyramid features to fp32 (B, N, K) logits and (B, N, 4) deltas; there is not a quality branch."""
        logits = [flatten(self.cls(self.cls_tower(feature)), self.num_classes) for feature in features]
        deltas = [flatten(self.box(self.box_tower(feature)), 4) for feature in features]
        return torch.cat(logits, 1).float(), torch.cat(deltas, 1).float(), None


class RetinaNet(PyramidDetector):
    """A dense detector (``detectors.base.DenseDetector``) with nine anchor boxes at a location.

    The anchors of a location come ratio by ratio (height over width 1/2, 1, 2), each in three sizes: the
    order of torchvision, whose weights ``load_torchvision_retinanet`` takes.
    """

    anchors_per_location: ClassVar[int] = ANCHORS_PER_LOCATION
    config: RetinaNetConfig

    def __init__(self, *, num_classes: int, **options: Any) -> None:
        """Builds the detector.

        Args:
            num_classes: K.
            **options: The fields of ``RetinaNetConfig``.
        """
        config = RetinaNetConfig(**options)
        super().__init__(config, num_classes)
        self.head = RetinaNetHead(config, num_classes, self.anchors_per_location)

    def assign(
        self, targets: Targets, anchors: Tensor, levels: Tensor, output: DenseOutput | None = None
    ) -> Assignment:
        """Which anchor is trained on which box; see ``ops.assigners.assign_max_iou``."""
        return assign_max_iou(
            anchors, targets, foreground_iou=self.config.foreground_iou, background_iou=self.config.background_iou
        )

    def anchors(self, canvas: tuple[int, int], device: torch.device) -> Tensor:
        """See ``DenseDetector``: (N, 4) boxes around the locations."""
        sides = tuple(self.config.anchor_scale * scale for scale in ANCHOR_SCALES)
        return box_anchors(self.shapes(canvas), self.strides, sides, ANCHOR_RATIOS, device)

    def fitting(self, targets: Targets, anchors: Tensor) -> Tensor:
        """See ``OneStageDetector``: anchors that overlap a box too much to be background."""
        overlap = box_iou(targets.boxes.flatten(0, 1), anchors).view(*targets.mask.shape, -1)
        fits: Tensor = overlap >= self.config.background_iou
        return (fits & targets.mask[..., None]).any(1)

    def covered(self, anchors: Tensor, boxes: Tensor, mask: Tensor) -> Tensor:
        """See ``OneStageDetector``: half of an anchor's area is enough."""
        return areas_inside(anchors, boxes, mask)

    def location_losses(self, output: DenseOutput, boxes: Tensor) -> LossDict:
        """See ``OneStageDetector``: smooth L1 on the coded deltas, or GIoU loss."""
        if self.config.box_loss == "giou":
            return {"box": giou_loss(self.decode_boxes(output), boxes)}
        wanted = encode_deltas(boxes, output.anchors)
        return {"box": F.smooth_l1_loss(output.deltas, wanted, beta=self.config.beta, reduction="none").sum(-1)}

    def decode_boxes(self, output: DenseOutput) -> Tensor:
        """See ``OneStageDetector``: (B, N, 4) xyxy pixels."""
        return decode_deltas(output.deltas, output.anchors)
