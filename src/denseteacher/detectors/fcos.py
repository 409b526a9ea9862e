"""FCOS (Tian et al., 2019) as Dense Teacher uses it: GroupNorm head, IoU quality on the box tower."""

from typing import Any, Literal

from denseteacher.detectors.assigners import AssignerConfig, FCOSAssigner
from denseteacher.detectors.class_losses import ClassLoss
from denseteacher.detectors.codings import CodingConfig, LTRBCoding
from denseteacher.detectors.composed import ComposedConfig, ComposedDetector


class FCOSConfig(ComposedConfig):
    """Distances from locations to the sides of boxes, and a quality branch."""

    name: Literal["fcos"] = "fcos"
    coding: CodingConfig = LTRBCoding()
    assigner: AssignerConfig = FCOSAssigner()
    quality: Literal["none", "iou", "centerness"] = "iou"
    cls_loss: ClassLoss = "focal"

    def build(self, num_classes: int) -> "FCOS":
        """See ``OneStageConfig``."""
        return FCOS(num_classes=num_classes, **dict(self))


class FCOS(ComposedDetector):
    """A dense detector (``detectors.base.DenseDetector``) whose anchors are locations."""

    config: FCOSConfig

    def __init__(self, *, num_classes: int, **options: Any) -> None:
        """Builds the detector.

        Args:
            num_classes: K.
            **options: The fields of ``FCOSConfig``.
        """
        super().__init__(FCOSConfig(**options), num_classes)
