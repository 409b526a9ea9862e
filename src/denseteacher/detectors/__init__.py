"""One-stage detectors behind one contract (``base.DenseDetector``)."""

from denseteacher.detectors.base import DenseDetector
from denseteacher.detectors.fcos import FCOS, FCOSConfig
from denseteacher.detectors.files import (
    DetectorCard,
    DetectorConfig,
    build_detector,
    load_detector,
    load_weights,
    save_detector,
)
from denseteacher.detectors.retinanet import RetinaNet, RetinaNetConfig
from denseteacher.detectors.torchvision_weights import load_torchvision_fcos, load_torchvision_retinanet

__all__ = [
    "FCOS",
    "DenseDetector",
    "DetectorCard",
    "DetectorConfig",
    "FCOSConfig",
    "RetinaNet",
    "RetinaNetConfig",
    "build_detector",
    "load_detector",
    "load_torchvision_fcos",
    "load_torchvision_retinanet",
    "load_weights",
    "save_detector",
]
