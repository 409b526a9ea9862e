"""Every number of every recipe key has its bounds, and is finite."""

import types
import typing

import pytest
from annotated_types import Ge, Gt
from pydantic import BaseModel

from denseteacher.config import Config
from denseteacher.errors import InputError
from denseteacher.recipes.schema import Recipe, load_recipe


def _numbers(annotation, metadata, key):
    """(key, type, constraints) of every number below an annotation, in tuples and alternatives too."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        constraints = [one for part in inner[1:] for one in getattr(part, "metadata", [part])]
        yield from _numbers(inner[0], [*metadata, *constraints], key)
    elif origin in (typing.Union, types.UnionType):
        for option in inner:
            yield from _numbers(option, metadata, key)
    elif origin is tuple:
        for position, part in enumerate(inner):
            if part is not Ellipsis:
                yield from _numbers(part, [], f"{key}[{position}]")
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _fields(annotation, key)
    elif annotation in (int, float):
        yield key, annotation, metadata


def _fields(config, key=""):
    for name, field in config.model_fields.items():
        yield from _numbers(field.annotation, field.metadata, f"{key}.{name}".strip("."))


NUMBERS = list(_fields(Recipe))


def test_every_number_has_a_lower_bound():
    assert len(NUMBERS) > 150
    assert not [key for key, _, constraints in NUMBERS if not any(isinstance(one, Ge | Gt) for one in constraints)]


def _configs(config):
    for child in config.__subclasses__():
        yield child
        yield from _configs(child)


def test_no_config_takes_what_is_not_finite():
    assert not [one.__name__ for one in _configs(Config) if one.model_config.get("allow_inf_nan") is not False]


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "-1"])
@pytest.mark.parametrize("key", sorted({key for key, _, _ in NUMBERS if "[" not in key and key.startswith("optim.")}))
def test_a_wrong_number_is_one_sentence(key, value):
    with pytest.raises(InputError, match=rf"recipe 'custom': {key}: Input should be"):
        load_recipe("custom", [f"{key}={value}"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("method.ratio", 5), ("method.ratio", 0), ("ema.decay", 1.5), ("ema.decay", -1), ("ema.decay", ".nan"),
        ("method.cls_weight", ".inf"), ("schedule.max_steps", 0), ("optim.milestones", "[0.5,2]"),
        ("augment.strong.blur_sigma", "[0,1]"), ("detector.levels", "[0,5]"), ("augment.weak.short_side", "[0,3]"),
        ("detector.mean", "[1,2,.nan]"), ("data.percent", ".nan"), ("method.burn_in", -1),
    ],
)  # fmt: skip
def test_a_number_out_of_its_bounds_names_key_and_bound(key, value):
    with pytest.raises(InputError, match=rf"recipe 'custom': {key}[.\d]*: Input should be"):
        load_recipe("custom", [f"{key}={value}"])
