"""One-stage detectors behind one contract (``base.DenseDetector``)."""

from typing import Annotated

from pydantic import Field

from denseteacher.detectors.base import DenseDetector, OneStageDetector
from denseteacher.detectors.composed import ComposedConfig, ComposedDetector
from denseteacher.detectors.fcos import FCOS, FCOSConfig
from denseteacher.detectors.gfl import GFL, GFLConfig
from denseteacher.detectors.older_options import with_moved_options, with_old_statistics
from denseteacher.detectors.pyramid import PyramidConfig, PyramidDetector, shape_detector
from denseteacher.detectors.retinanet import RetinaNet, RetinaNetConfig

DetectorConfig = Annotated[
    FCOSConfig
    | RetinaNetConfig
    | GFLConfig,
    Field(discriminator="name"),
]  # fmt: skip
"""Every detector that a recipe can name."""

# after what a detector's card is made of
from denseteacher.detectors.adopted_options import adopt, with_options  # noqa: E402
from denseteacher.detectors.files import (  # noqa: E402
    DETECTOR_FILE,
    BestScores,
    DetectorCard,
    add_best_scores,
    load_detector,
    load_weights,
    save_detector,
)
from denseteacher.detectors.initial_weights import (  # noqa: E402
    InitialWeights,
    TakenOver,
    find_initial,
    starts_from_detector,
    take_over,
)
from denseteacher.detectors.torchvision_weights import (  # noqa: E402
    load_torchvision_fcos,
    load_torchvision_retinanet,
)

__all__ = [
    "DETECTOR_FILE",
    "FCOS",
    "GFL",
    "BestScores",
    "ComposedConfig",
    "ComposedDetector",
    "DenseDetector",
    "DetectorCard",
    "DetectorConfig",
    "FCOSConfig",
    "GFLConfig",
    "InitialWeights",
    "OneStageDetector",
    "PyramidConfig",
    "PyramidDetector",
    "RetinaNet",
    "RetinaNetConfig",
    "TakenOver",
    "add_best_scores",
    "adopt",
    "find_initial",
    "load_detector",
    "load_torchvision_fcos",
    "load_torchvision_retinanet",
    "load_weights",
    "save_detector",
    "shape_detector",
    "starts_from_detector",
    "take_over",
    "with_moved_options",
    "with_old_statistics",
    "with_options",
]
