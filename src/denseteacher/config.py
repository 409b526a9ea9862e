"""The base of everything that a recipe can describe."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen, validated value: parsing its part of a recipe constructs it, an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
