"""The base of everything that a recipe can describe."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
"""A share of a whole, or a probability."""
ShortSide = Annotated[int, Field(gt=0, le=8192)]
"""Pixels that the shorter side of an image is resized to."""
MaxSide = Annotated[int, Field(gt=0, le=1_000_000)]
"""Pixels that the longer side has at most; what is far above any image is not a bound."""


class Config(BaseModel):
    """A frozen, validated value: parsing its part of a recipe constructs it, an unknown key is an error.

    A number is finite, and every field that is one has its bounds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
