"""The assigners that recipes can name, one a file: which location is trained on which box."""

from typing import Annotated

from pydantic import Field

from denseteacher.detectors.assigners.asa import ASAAssigner
from denseteacher.detectors.assigners.atss import ATSSAssigner
from denseteacher.detectors.assigners.base import Assigner, Locations, Misses, Predictions
from denseteacher.detectors.assigners.fcos import FCOSAssigner
from denseteacher.detectors.assigners.max_iou import MaxIoUAssigner
from denseteacher.detectors.assigners.tal import TALAssigner

AssignerConfig = Annotated[
    FCOSAssigner
    | MaxIoUAssigner
    | ATSSAssigner
    | ASAAssigner
    | TALAssigner,
    Field(discriminator="name"),
]  # fmt: skip
"""Every assigner that a recipe can name."""

__all__ = [
    "ASAAssigner",
    "ATSSAssigner",
    "Assigner",
    "AssignerConfig",
    "FCOSAssigner",
    "Locations",
    "MaxIoUAssigner",
    "Misses",
    "Predictions",
    "TALAssigner",
]
