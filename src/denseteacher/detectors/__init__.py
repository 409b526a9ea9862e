"""One-stage detectors behind one contract (``base.DenseDetector``)."""

from denseteacher.detectors.base import DenseDetector
from denseteacher.detectors.fcos import FCOS, FCOSConfig
from denseteacher.detectors.files import (
    DETECTOR_FILE,
    DetectorCard,
    DetectorConfig,
    build_detector,
    load_detector,
    load_weights,
    save_detector,
    with_old_statistics,
)
from denseteacher.detectors.initial_weights import (
    InitialWeights,
    TakenOver,
    adopt,
    find_initial,
    starts_from_detector,
    take_over,
    with_options,
)
from denseteacher.detectors.retinanet import RetinaNet, RetinaNetConfig
from denseteacher.detectors.torchvision_weights import load_torchvision_fcos, load_torchvision_retinanet

__all__ = [
    "DETECTOR_FILE",
    "FCOS",
    "DenseDetector",
    "DetectorCard",
    "DetectorConfig",
    "FCOSConfig",
    "InitialWeights",
    "RetinaNet",
    "RetinaNetConfig",
    "TakenOver",
    "adopt",
    "build_detector",
    "find_initial",
    "load_detector",
    "load_torchvision_fcos",
    "load_torchvision_retinanet",
    "load_weights",
    "save_detector",
    "starts_from_detector",
    "take_over",
    "with_old_statistics",
    "with_options",
]
