"""The assigners that recipes can name, one a file: which location is trained on which box."""

from typing import Annotated

from pydantic import Field

from denseteacher.detectors.assigners.base import Assigner, Locations, Misses, Predictions
from denseteacher.detectors.assigners.fcos import FCOSAssigner
from denseteacher.detectors.assigners.max_iou import MaxIoUAssigner

AssignerConfig = Annotated[
    FCOSAssigner
    | MaxIoUAssigner,
    Field(discriminator="name"),
]  # fmt: skip
"""Every assigner that a recipe can name."""

__all__ = [
    "Assigner",
    "AssignerConfig",
    "FCOSAssigner",
    "Locations",
    "MaxIoUAssigner",
    "Misses",
    "Predictions",
]
