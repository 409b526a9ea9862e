"""The base of everything that a recipe can describe."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
"""A share of a whole, or a probability."""


class Config(BaseModel):
    """A frozen, validated value: parsing its part of a recipe constructs it, an unknown key is an error.

    A number is finite, and every field that is one has its bounds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)
