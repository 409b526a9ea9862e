"""RetinaNet (Lin et al., ICCV 2017): anchor boxes, and no quality branch (paper, Table 6)."""

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from denseteacher.detectors.assigners import AssignerConfig, MaxIoUAssigner
from denseteacher.detectors.class_losses import ClassLoss
from denseteacher.detectors.codings import CodingConfig, DeltaCoding
from denseteacher.detectors.composed import ComposedConfig, ComposedDetector
from denseteacher.ops.anchors import box_anchors

_Shapes = Annotated[tuple[Annotated[float, Field(gt=0, le=1000)], ...], Field(min_length=1, max_length=16)]


class RetinaNetConfig(ComposedConfig):
    """Shifted and grown anchor boxes, several at a location."""

    architecture: ClassVar[tuple[str, ...]] = (
        *ComposedConfig.architecture,
        "anchor_scale",
        "anchor_scales",
        "anchor_ratios",
    )
    anchor_boxes: ClassVar[bool] = True

    name: Literal["retinanet"] = "retinanet"
    coding: CodingConfig = DeltaCoding()
    assigner: AssignerConfig = MaxIoUAssigner()
    quality: Literal["none", "iou", "centerness"] = "none"
    cls_loss: ClassLoss = "focal"
    head_norm: Literal["group", "none"] = "none"
    anchor_scale: float = Field(4.0, gt=0)
    """Side of a level's smallest square anchor, in strides: 32 to 512 px for strides 8 to 128 as published."""
    anchor_scales: _Shapes = (2 ** (0 / 3), 2 ** (1 / 3), 2 ** (2 / 3))
    """Sides of a location's square anchors, in that one's."""
    anchor_ratios: _Shapes = (0.5, 1.0, 2.0)
    """Height over width of a location's anchors; each has one of every side."""
    nms_threshold: float = Field(0.5, gt=0, le=1)

    @property
    def anchors_per_location(self) -> int:
        """See ``ComposedConfig``."""
        return len(self.anchor_scales) * len(self.anchor_ratios)

    def anchors(self, shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device) -> Tensor:
        """See ``ComposedConfig``: (N, 4) boxes around the locations."""
        sides = tuple(self.anchor_scale * scale for scale in self.anchor_scales)
        return box_anchors(shapes, strides, sides, self.anchor_ratios, device, offset=self.location_offset)

    def build(self, num_classes: int) -> "RetinaNet":
        """See ``OneStageConfig``."""
        return RetinaNet(num_classes=num_classes, **dict(self))


class RetinaNet(ComposedDetector):
    """A dense detector (``detectors.base.DenseDetector``) with nine anchor boxes at a location.

    The anchors of a location come ratio by ratio (height over width 1/2, 1, 2), each in three sizes: the
    order of torchvision, whose weights ``load_torchvision_retinanet`` takes.
    """

    config: RetinaNetConfig

    def __init__(self, *, num_classes: int, **options: Any) -> None:
        """Builds the detector.

        Args:
            num_classes: K.
            **options: The fields of ``RetinaNetConfig``.
        """
        super().__init__(RetinaNetConfig(**options), num_classes)
