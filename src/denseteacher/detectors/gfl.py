"""GFL, the detector of Generalized Focal Loss (Li et al., NeurIPS 2020): distributions of distances, IoU as score."""

from typing import Any, Literal

from pydantic import Field

from denseteacher.detectors.assigners import AssignerConfig, ATSSAssigner
from denseteacher.detectors.class_losses import ClassLoss
from denseteacher.detectors.codings import CodingConfig, DistributionCoding
from denseteacher.detectors.composed import ComposedConfig, ComposedDetector


class GFLConfig(ComposedConfig):
    """Distributions of distances, class scores that say how well the box fits, and hence not a quality branch.

    Losses, weights, bins and assigner are the published ones. Locations lie in the middle of their cells; the published
    code has them at the upper left corner, which is ``location_offset: 0``.
    """

    name: Literal["gfl"] = "gfl"
    coding: CodingConfig = DistributionCoding()
    assigner: AssignerConfig = ATSSAssigner()
    quality: Literal["none", "iou", "centerness"] = "none"
    cls_loss: ClassLoss = "quality_focal"
    location_offset: float = Field(0.5, ge=0, lt=1)

    def build(self, num_classes: int) -> "GFL":
        """See ``OneStageConfig``."""
        return GFL(num_classes=num_classes, **dict(self))


class GFL(ComposedDetector):
    """A dense detector (``detectors.base.DenseDetector``) whose boxes know how sure they are (``box_uncertainty``)."""

    config: GFLConfig

    def __init__(self, *, num_classes: int, **options: Any) -> None:
        """Builds the detector.

        Args:
            num_classes: K.
            **options: The fields of ``GFLConfig``.
        """
        super().__init__(GFLConfig(**options), num_classes)
