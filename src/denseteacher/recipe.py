"""Recipes: one YAML file describes one run, and this schema says what may stand in it."""

import difflib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, SerializeAsAny, ValidationError, model_validator

from denseteacher.config import Config
from denseteacher.data.affine import AffineView
from denseteacher.data.geometry import WeakView
from denseteacher.data.photometry import StrongView
from denseteacher.data.sources import DataConfig
from denseteacher.detectors import DetectorConfig, FCOSConfig
from denseteacher.errors import InputError
from denseteacher.methods import DenseTeacher, Method, MethodConfig, SemiSupervised
from denseteacher.training.optim import OptimConfig
from denseteacher.training.runtime import RuntimeConfig
from denseteacher.training.teacher import EMAConfig
from denseteacher.training.trainer import ScheduleConfig

_LARGEST_FILE = 1_000_000  # bytes; a recipe is a page


class AugmentConfig(Config):
    """The two views."""

    weak: WeakView = WeakView()
    strong: StrongView = StrongView()
    affine: AffineView | None = None
    """Own geometry of the strong views of unlabeled images; only for methods whose labels can follow it."""


class EvaluationConfig(Config):
    """How detectors are evaluated and used."""

    short_side: int = Field(800, gt=0)
    max_side: int = Field(1333, gt=0)
    batch: int = Field(8, gt=0)


class Recipe(Config):
    """One run."""

    name: str
    description: str = ""
    seed: int = Field(1, ge=0)
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    detector: DetectorConfig = FCOSConfig()
    method: SerializeAsAny[MethodConfig] = DenseTeacher()
    ema: EMAConfig = EMAConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _check(self) -> "Recipe":
        _check_recipe(self)
        return self


def builtin_recipes() -> dict[str, str]:
    """Names and descriptions of the recipes that come with the package."""
    return {name: load_recipe(name).description for name in _builtin_names()}


def load_recipe(source: str | Path, overrides: Mapping[str, Any] | Iterable[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        source: Name of a built-in recipe, or path of a YAML file.
        overrides: ``{"optim.lr": 0.02}``, or ``KEY=VALUE`` texts whose values are read as YAML.

    Raises:
        InputError: If there is no such recipe, or a key or value is wrong.
    """
    content = _read_with_parents(str(source), ())
    for key, value in _pairs(overrides):
        content = _merge(content, _nest(key, value))
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        raise InputError(f"recipe {str(source)!r}: {_explain(error)}") from error


def with_method(recipe: Recipe, method: Method) -> Recipe:
    """The recipe with another method, which needs not be one that a YAML file can name.

    Raises:
        InputError: If the method doesn't fit the rest of the recipe.
    """
    changed = recipe.model_copy(update={"method": method})
    try:
        _check_recipe(changed)
    except ValueError as error:
        raise InputError(f"recipe {recipe.name!r}: {error}") from error
    return changed


def resolve_auto(recipe: Recipe, *, labeled: int, unlabeled: int) -> Recipe:
    """Fills in what a recipe leaves to the size of the data.

    The steps give 120 passes over the labeled images or two over the unlabeled ones, whichever is longer,
    within 5,000 and 90,000; the burn-in is a sixth of them; the teacher remembers a thirtieth of the run, as
    far as the paper's 2,500 steps, and starts half-way through the burn-in.

    Args:
        recipe: Possibly with ``auto`` values.
        labeled: Labeled images.
        unlabeled: Unlabeled images.
    """
    schedule, method, ema = recipe.schedule, recipe.method, recipe.ema
    steps = schedule.max_steps
    if isinstance(steps, str):
        passes = max(120 * labeled / recipe.data.labeled_batch, 2 * unlabeled / recipe.data.unlabeled_batch)
        steps = int(min(max(passes, 5_000), 90_000))
    burn_in = getattr(method, "burn_in", "auto")
    if isinstance(burn_in, str):
        burn_in = steps // 6
        if isinstance(method, SemiSupervised):
            method = method.model_copy(update={"burn_in": burn_in})
    decay = ema.decay
    if isinstance(decay, str):
        decay = 1 - 1 / min(max(steps / 30, 50), 2500)
    start = burn_in // 2 if isinstance(ema.start, str) else ema.start
    return recipe.model_copy(
        update={
            "schedule": schedule.model_copy(update={"max_steps": steps}),
            "method": method,
            "ema": EMAConfig(decay=decay, start=start),
        }
    )


def dump_recipe(recipe: Recipe) -> str:
    """The recipe, complete, as YAML that ``load_recipe`` reads."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def _check_recipe(recipe: Recipe) -> None:
    """What no part of a recipe can see alone.

    Raises:
        ValueError: If the parts don't fit.
    """
    _check_batches(recipe)
    _check_labels_can_follow(recipe)
    _check_teacher_is_ready(recipe)
    _check_burn_in_ends(recipe)


def _check_batches(recipe: Recipe) -> None:
    parts = recipe.runtime.devices * recipe.runtime.nodes * recipe.schedule.accumulate
    for key in ("labeled_batch", "unlabeled_batch"):
        if getattr(recipe.data, key) % parts:
            raise ValueError(
                f"data.{key} is {getattr(recipe.data, key)}, no multiple of the {parts} parts that devices, "
                "nodes and accumulation cut it into"
            )
    group = getattr(recipe.method, "group_size", None)
    if group is not None and recipe.data.unlabeled_batch // parts % group:
        raise ValueError(
            f"method.group_size is {group}, but each part of a step has {recipe.data.unlabeled_batch // parts} "
            "unlabeled images: it must divide them"
        )


def _check_labels_can_follow(recipe: Recipe) -> None:
    if recipe.augment.affine is not None and not recipe.method.moves_labels:
        raise ValueError(
            f"augment.affine moves the strong views, but method {recipe.method.name!r} compares teacher and "
            "student location by location: leave it out (null)"
        )
    if getattr(recipe.method, "needs_hidden_labels", False) and not recipe.data.hidden_labels:
        raise ValueError(
            "method.region 'suppress' and 'ignore' are analyses that look at the labels of the unlabeled "
            "images: say so with data.hidden_labels=true, on data that a split cuts"
        )


def _check_teacher_is_ready(recipe: Recipe) -> None:
    burn_in, start = getattr(recipe.method, "burn_in", "auto"), recipe.ema.start
    if not isinstance(burn_in, str) and not isinstance(start, str) and start > burn_in:
        raise ValueError(f"ema.start is {start}, after the burn-in of {burn_in} steps that needs the teacher")


def _check_burn_in_ends(recipe: Recipe) -> None:
    burn_in, steps = getattr(recipe.method, "burn_in", "auto"), recipe.schedule.max_steps
    if not isinstance(burn_in, str) and not isinstance(steps, str) and burn_in >= steps:
        raise ValueError(
            f"method.burn_in is {burn_in}, but the run has {steps} steps, so unlabeled images would never be "
            "used: shorten it, or take method.name=supervised"
        )


def _recipe_folder() -> Any:
    return resources.files("denseteacher") / "recipes"


def _builtin_names() -> list[str]:
    names = (file.name for file in _recipe_folder().iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def _read_with_parents(source: str, children: tuple[str, ...]) -> dict[str, Any]:
    if source in children:
        raise InputError(f"recipe {source!r} extends itself by way of {', '.join(children)}")
    content = _read_yaml(source)
    parent = content.pop("extends", None)
    if parent is None:
        return content
    if not isinstance(parent, str):
        raise InputError(f"recipe {source!r}: extends names one recipe, not {parent!r}")
    beside = Path(source).parent / parent
    return _merge(
        _read_with_parents(str(beside) if beside.suffix and beside.is_file() else parent, (*children, source)),
        content,
    )


def _read_yaml(source: str) -> dict[str, Any]:
    file = Path(source) if source.endswith((".yaml", ".yml")) else _recipe_folder() / f"{source}.yaml"
    if not file.is_file():
        names = _builtin_names()
        raise InputError(
            f"there is no recipe {source!r}{_suggest(source, names)}: give a YAML file or one of {', '.join(names)}"
        )
    text = file.read_text(encoding="utf-8", errors="replace")
    if len(text) > _LARGEST_FILE:
        raise InputError(f"recipe {source!r} is larger than any recipe")
    try:
        content = yaml.load(text, _RecipeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        first = " ".join(str(error).split())
        raise InputError(f"recipe {source!r} is no valid YAML: {first[:200]}") from error
    if not isinstance(content, dict):
        raise InputError(f"recipe {source!r} must be a YAML mapping with keys such as name, data and method")
    return content


class _RecipeLoader(yaml.SafeLoader):
    """Refuses aliases, whose expansion can be endless, and keys that stand twice."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed in a recipe")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {str(key) for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"the key {min(twice)!r} stands twice")
        return super().construct_mapping(node, deep)


def _pairs(overrides: Mapping[str, Any] | Iterable[str]) -> list[tuple[str, Any]]:
    if isinstance(overrides, Mapping):
        return list(overrides.items())
    pairs = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"--set takes KEY=VALUE, for example --set optim.lr=0.02, not {text!r}")
        try:
            pairs.append((key.strip(), yaml.load(value, _RecipeLoader)))
        except yaml.YAMLError as error:
            raise InputError(f"--set {key}: {value!r} is no valid YAML value") from error
    return pairs


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    nested: dict[str, Any] = value
    return nested


def _merge(parent: dict[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """The child over the parent, mapping by mapping.

    Another ``name`` in a mapping (of a method, a detector) keeps those of the parent's options that it has
    too (a method's burn-in, say) and drops the others, which belong to something else.
    """
    merged = dict(parent)
    for key, value in child.items():
        before = merged.get(key)
        if not isinstance(value, Mapping) or not isinstance(before, dict):
            merged[key] = value
        elif "name" in value and value["name"] != before.get("name", value["name"]):
            merged[key] = _shared_options(key, before, value["name"]) | dict(value)
        else:
            merged[key] = _merge(before, value)
    return merged


def _shared_options(key: str, before: Mapping[str, Any], name: str) -> dict[str, Any]:
    field = Recipe.model_fields.get(key)
    options = getattr(field.annotation, "__args__", ()) if field is not None else ()
    fields: Iterable[str] = next((option.model_fields for option in options if _default_name(option) == name), {})
    return {option: value for option, value in before.items() if option in fields}


def _explain(error: ValidationError) -> str:
    """One sentence on the first thing that pydantic found wrong."""
    first = error.errors()[0]
    key, valid = _locate([str(part) for part in first["loc"]])
    if first["type"] == "extra_forbidden":
        name = key.rpartition(".")[2]
        return f"there is no key {key!r}{_suggest(name, valid)}; valid here: {', '.join(valid)}"
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = f", not {given!r}" if isinstance(given, str | int | float | bool) else ""
    return f"{key}: {message}{shown}" if key else message


def _locate(place: list[str]) -> tuple[str, list[str]]:
    """The dotted key of an error's place, and the valid keys beside it.

    A place also holds the tags of unions (``method``, ``dense_teacher``, ``ratio``), which are no keys.
    """
    key: list[str] = []
    valid: list[str] = []
    schema: Any = Recipe
    for part in place:
        if isinstance(schema, tuple):
            tagged = next((option for option in schema if _default_name(option) == part), None)
            schema = tagged or next((option for option in schema if hasattr(option, "model_fields")), None)
            if tagged is not None:
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


def _suggest(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
