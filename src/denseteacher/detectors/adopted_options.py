"""Options that a detector has from the one that it starts from: those that weights bring along."""

from collections.abc import Collection, Mapping
from typing import Any

from denseteacher.detectors.composed import ComposedConfig
from denseteacher.detectors.initial_weights import InitialWeights
from denseteacher.errors import InputError


def adopt(
    config: ComposedConfig, initial: InitialWeights, by_hand: Collection[str]
) -> tuple[ComposedConfig, InitialWeights]:
    """The config with the architecture of what it starts from, which says then what was adopted.

    Args:
        config: Config of the recipe.
        initial: What it starts from.
        by_hand: Options that the user has set.

    Raises:
        InputError: If one of them contradicts.
    """
    by_hand = {key for key in by_hand if _option(config, key) != "auto"}
    other = differences(config, initial.config)
    for key, value in other.items():
        if key in by_hand and key in initial.config.architecture:
            raise InputError(
                f"detector.{key} is set to {_plain(_option(config, key))}, but {initial.source} has "
                f"{_plain(value)}: leave detector.{key} out, or start from another detector"
            )
    new = {
        key: _plain(value)
        for key, value in other.items()
        if key not in by_hand
        and _option(config, key) not in ("auto", None)
        and not _implied(initial.config, other, key)
    }
    return with_options(config, initial.config, by_hand), initial._replace(adopted=new)


def with_options(config: ComposedConfig, other: ComposedConfig, by_hand: Collection[str]) -> ComposedConfig:
    """The config with what weights bring along as another one has it, but for the options that the user has set."""
    changes = {key: value for key, value in differences(config, other).items() if key not in by_hand}
    if "name" not in changes:
        return _with(config, changes, other)
    fields = type(other).model_fields.keys() - {"name", "coding", "quality", "cls_loss"}
    own = {key: getattr(config, key) for key in config.model_fields_set}
    kept = {key: value for key, value in type(config).kept_by(type(other), own).items() if key in fields}
    begun = type(other)(**kept)
    carried = {key: _option(other, key) for key in _carried(other) if key not in by_hand}
    return _with(begun, {key: value for key, value in carried.items() if key != "name" and value is not None}, other)


def _with(config: ComposedConfig, changes: Mapping[str, Any], other: ComposedConfig) -> ComposedConfig:
    """The config with options of another one, ``part.option`` too; a part of another kind comes as a whole."""
    update = {key: value for key, value in changes.items() if "." not in key}
    for part in {key.partition(".")[0] for key in changes if "." in key}:
        own, new = getattr(config, part), getattr(other, part)
        options = {key.partition(".")[2]: value for key, value in changes.items() if key.startswith(f"{part}.")}
        update[part] = own.model_copy(update=options) if own.name == new.name else new
    return config.model_copy(update=update)


def differences(config: ComposedConfig, other: ComposedConfig) -> dict[str, Any]:
    """The options that weights bring along, as another config has them, where they differ."""
    differing = (key for key in _carried(other) if _meaning(config, key) != _meaning(other, key))
    return {key: _option(other, key) for key in differing if not _begins_anew(config, other, key)}


def _begins_anew(config: ComposedConfig, other: ComposedConfig, key: str) -> bool:
    """Whether an option needs not be as weights have it: of another assigner, or a branch that they lack."""
    if "." in key and _option(other, key) is None:
        return True
    if config.name != other.name:
        return False
    return (key in other.learned and _option(config, key) is None) or (key == "quality" and other.quality == "none")


def _implied(config: ComposedConfig, differing: Collection[str], key: str) -> bool:
    """Whether an option needs not be said of another detector, since it is what that one has anyway."""
    part, _, option = key.partition(".")
    default = type(config).model_fields[part].default
    usual = getattr(default, option, None) if option else default
    return "name" in differing and key != "name" and _option(config, key) == usual


def _carried(config: ComposedConfig) -> tuple[str, ...]:
    """The options that weights bring along."""
    return (*config.architecture, *config.learned)


def _option(config: ComposedConfig, key: str) -> Any:
    """An option, or one of a part, ``part.option``; None where there is none."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name, None)
    return value


def _meaning(config: ComposedConfig, key: str) -> Any:
    """An option's value, the same for values that mean the same."""
    value = _option(config, key)
    if key == "backbone":
        return str(value).partition(".")[0]  # what follows names its weights
    if key == "head_channels":
        return value or config.channels
    if key in ("mean", "std") and value != "auto":
        return tuple(round(float(one), 3) for one in value)
    return value


def _plain(value: Any) -> Any:
    return [round(one, 3) for one in value] if isinstance(value, tuple) else value
