"""One-stage detectors behind one contract (``base.DenseDetector``)."""

from denseteacher.detectors.base import DenseDetector
from denseteacher.detectors.fcos import FCOS, FCOSConfig
from denseteacher.detectors.files import (
    DetectorCard,
    build_detector,
    load_detector,
    load_weights,
    save_detector,
)
from denseteacher.detectors.torchvision_weights import load_torchvision_fcos

__all__ = [
    "FCOS",
    "DenseDetector",
    "DetectorCard",
    "FCOSConfig",
    "build_detector",
    "load_detector",
    "load_torchvision_fcos",
    "load_weights",
    "save_detector",
]
