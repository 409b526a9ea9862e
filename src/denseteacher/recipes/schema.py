"""Recipes: one YAML file describes one run, and this schema says what may stand in it."""

import functools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, SerializeAsAny, ValidationError, model_validator

from denseteacher.config import Config, MaxSide, ShortSide
from denseteacher.data.augment.config import AugmentConfig
from denseteacher.data.augment.weak import AutoSizes, EvalView
from denseteacher.data.config import DataConfig
from denseteacher.detectors import ComposedConfig, DetectorConfig, FCOSConfig
from denseteacher.errors import InputError
from denseteacher.evaluation.metrics import Metric
from denseteacher.methods import DenseTeacher, Method, MethodConfig
from denseteacher.recipes.files import builtin_names, read_chain, read_overrides, suggest
from denseteacher.recipes.fitting_parts import check_parts
from denseteacher.training.ema import EMAConfig
from denseteacher.training.optim import OptimConfig
from denseteacher.training.runtime import RuntimeConfig
from denseteacher.training.schedule import ScheduleConfig


class EvaluationConfig(Config):
    """How detectors are evaluated and used."""

    short_side: ShortSide | Literal["auto"] = 800
    """Length of the shorter side in pixels; ``auto`` is the longest of the training views."""
    max_side: MaxSide | Literal["auto"] = 1333
    """Bound of the longer side in pixels; ``auto`` follows the short side."""
    batch: int = Field(8, gt=0)
    """Images a forward; changes the speed alone."""
    metrics: tuple[Metric, ...] = ("coco",)
    """What to measure; COCO's AP is always, since it decides which teacher is the best."""

    @property
    def view(self) -> EvalView:
        """What images are made of.

        Raises:
            ValueError: If a size is still ``auto``.
        """
        if isinstance(self.short_side, str) or isinstance(self.max_side, str):
            raise ValueError("a size of evaluation is still 'auto': give lengths in pixels")
        return EvalView(short_side=self.short_side, max_side=self.max_side)


def _plain_name(name: str) -> str:
    if not re.fullmatch(r"[^/\\:*?\[\]\x00-\x1f]{1,100}", name) or name.startswith("."):
        raise ValueError(
            "a run's name is that of a folder too: 1 to 100 characters without / \\ : * ? [ ], and no point first"
        )
    return name


class Recipe(Config):
    """One run."""

    name: Annotated[str, AfterValidator(_plain_name)]
    """What the run is called, and its folder below ``runs`` if no other is given."""
    description: str = ""
    """What it is for, in one line."""
    seed: int = Field(1, ge=0)
    """Random seed of the run: of every random draw but the split."""
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    sizes: AutoSizes = AutoSizes()
    detector: DetectorConfig = FCOSConfig()
    method: SerializeAsAny[MethodConfig] = DenseTeacher()
    ema: EMAConfig = EMAConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        check_parts(self)
        return self


def builtin_recipes() -> dict[str, str]:
    """Names and descriptions of the recipes that come with the package."""
    return {name: load_recipe(name).description for name in builtin_names()}


def load_recipe(source: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        source: Name of a built-in recipe, or path of a YAML file.
        overrides: ``{"optim.lr": 0.02}``, or ``KEY=VALUE`` texts whose values are read as YAML.

    Raises:
        InputError: If there is no such recipe, or a key or value is wrong.
    """
    content = functools.reduce(_merge, [*read_chain(str(source)), *read_overrides(overrides)])
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"recipe {str(source)!r}: {_explain(error)}") from error


def with_method(recipe: Recipe, method: Method) -> Recipe:
    """The recipe with another method, which needs not be one that a YAML file can name.

    Raises:
        InputError: If the method doesn't fit the rest of the recipe.
    """
    return with_part(recipe, "method", method)


def dump_recipe(recipe: Recipe) -> str:
    """The recipe, complete, as YAML that ``load_recipe`` reads."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def with_part(recipe: Recipe, key: str, part: Any) -> Recipe:
    """The recipe with another part, if it fits the others."""
    changed = recipe.model_copy(update={key: part})
    try:
        check_parts(changed)
    except ValueError as error:
        raise InputError(f"recipe {recipe.name!r}: {error}") from error
    return changed


def _merge(parent: dict[str, Any], child: Mapping[str, Any], schema: Any = None) -> dict[str, Any]:
    """The child over the parent, mapping by mapping.

    Another ``name`` in a mapping of the recipe (of a method, a detector) keeps those of the parent's options that it
    has too (a method's burn-in, say) and drops the others, which belong to something else. A detector also drops parts
    that are the other's own, and another name in a part of it drops all options.

    Args:
        parent: What the child extends.
        child: What counts.
        schema: The model of both; the recipe if not given.
    """
    merged = dict(parent)
    for key, value in child.items():
        before = merged.get(key)
        if not isinstance(value, Mapping):
            merged[key] = value
            continue
        field = (schema or Recipe).model_fields.get(key)
        was = (before if isinstance(before, dict) else {}).get("name", getattr(_default(field), "name", None))
        if not isinstance(before, dict):
            merged[key] = value
        elif value.get("name", was) == was:
            merged[key] = _merge(before, value, _option(field, was) or Config)
        else:
            kept = _shared_options(field, before, was, value["name"]) if schema is None else {}
            merged[key] = _merge(kept, value, _option(field, value["name"]) or Config)
    return merged


def _shared_options(field: Any, before: Mapping[str, Any], was: Any, name: Any) -> dict[str, Any]:
    """The options of what had a name that what has another one keeps."""
    old, new = _option(field, was), _option(field, name)
    if old is None or new is None:
        return {}
    kept = old.kept_by(new, before) if issubclass(old, ComposedConfig) else before
    return {option: value for option, value in kept.items() if option in new.model_fields}


def _default(field: Any) -> Any:
    return None if field is None else field.default


def _option(field: Any, name: Any) -> Any:
    """The alternative of a field that has a name; its type where it has no alternatives."""
    if field is None:
        return None
    if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
        return field.annotation
    options = getattr(field.annotation, "__args__", ())
    return next((option for option in options if _default_name(option) == name), None)


def _explain(error: ValidationError) -> str:
    """One sentence on the first thing that pydantic found wrong."""
    first = error.errors()[0]
    key, valid = _locate([str(part) for part in first["loc"]])
    if first["type"] == "extra_forbidden":
        name = key.rpartition(".")[2]
        return f"there is no key {key!r}{suggest(name, valid)}; valid here: {', '.join(valid)}"
    if first["type"] == "union_tag_invalid":
        tag, known = first["ctx"]["tag"], [text.strip("'") for text in first["ctx"]["expected_tags"].split(", ")]
        return f"there is no {key} {tag!r}{suggest(tag, known)}: use one of {', '.join(known)}"
    message = first["msg"].removeprefix("Value error, ")
    message += "".join(
        f", or {other['ctx']['expected']}"
        for other in error.errors()[1:]
        if other["type"] == "literal_error" and _locate([str(part) for part in other["loc"]])[0] == key
    )
    given = first.get("input")
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) else ""
    return f"{key}: {message}{shown}" if key else message


def _locate(place: list[str]) -> tuple[str, list[str]]:
    """The dotted key of an error's place, and the valid keys beside it.

    A place also holds the tags of unions (``method``, ``dense_teacher``, ``ratio``) and the types of alternatives
    (``schedule``, ``max_steps``, ``int``), which are not keys.
    """
    key: list[str] = []
    valid: list[str] = []
    schema: Any = Recipe
    for part in place:
        if isinstance(schema, tuple):
            tagged = next((option for option in schema if _default_name(option) == part), None)
            schema = tagged or next((option for option in schema if hasattr(option, "model_fields")), None)
            if tagged is not None or schema is None:  # the name of an alternative, or a position in a list
                continue
        fields = getattr(schema, "model_fields", {})
        key.append(part)
        valid = sorted(fields)
        annotation = fields[part].annotation if part in fields else None
        schema = getattr(annotation, "__args__", annotation)
    return ".".join(key), valid


def _default_name(option: Any) -> str | None:
    field = getattr(option, "model_fields", {}).get("name")
    return None if field is None else str(field.default)
