"""The box codings that recipes can name, one a file: what the numbers of a box branch mean."""

from typing import Annotated

from pydantic import Field

from denseteacher.detectors.codings.base import Coding
from denseteacher.detectors.codings.delta import DeltaCoding
from denseteacher.detectors.codings.distribution import DistributionCoding
from denseteacher.detectors.codings.ltrb import LTRBCoding

CodingConfig = Annotated[
    LTRBCoding
    | DeltaCoding
    | DistributionCoding,
    Field(discriminator="name"),
]  # fmt: skip
"""Every box coding that a recipe can name."""

__all__ = ["Coding", "CodingConfig", "DeltaCoding", "DistributionCoding", "LTRBCoding"]
