"""Where two recipes differ, and what a run may have different from the one that it goes on from."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from denseteacher.config import Config
from denseteacher.detectors import with_moved_options, with_old_statistics
from denseteacher.errors import InputError
from denseteacher.recipes.schema import Recipe

MAY_CHANGE = (
    "description",
    "runtime.workers",
    "runtime.device",
    "runtime.log",
    "evaluation.batch",
    "evaluation.metrics",
    "schedule.evaluate_every",
    "schedule.checkpoint_every",
    "schedule.log_every",
    "schedule.preview_every",
    "schedule.keep_checkpoints",
    "schedule.max_nonfinite",
    "schedule.max_nonfinite_share",
)
"""What a continued run may have different: none of it says what the losses are. Where they are computed may change
them in the last digits, as another machine does; their precision stays."""
BURN_IN_MAY_CHANGE = (*MAY_CHANGE, "name", "method", "augment.affine", "data.hidden_labels")
"""What a run may have different from the one whose burn-in it starts from: none of it matters before its end."""


def changed_keys(recipe: Recipe, other: Mapping[str, Any], may_change: Sequence[str]) -> list[str]:
    """Dotted keys of a recipe whose values are others in a dumped one.

    Args:
        recipe: As it is now.
        other: As it was written, perhaps by another version.
        may_change: Keys that don't count, and all below them.
    """
    if "burn_in" not in other["method"]:  # that of supervised, which an older version did not have
        may_change = (*may_change, "method.burn_in")
    contents = (recipe.model_dump(mode="json"), _with_new_keys(other, recipe))
    now, then = (flat_recipe(content, may_change) for content in contents)
    return [key for key in sorted(now.keys() | then.keys()) if now.get(key) != then.get(key)]


def flat_recipe(content: Mapping[str, Any], without: Sequence[str] = ()) -> dict[str, Any]:
    """A dumped recipe as dotted keys and values, but for some keys and all below them."""
    return {
        key: value
        for key, value in _flat(content).items()
        if not any(key == free or key.startswith(f"{free}.") for free in without)
    }


def require_same_recipe(recipe: Recipe, other: str, source: object, may_change: Sequence[str]) -> None:
    """Refuses to go on with what another recipe began.

    Args:
        recipe: As it is now.
        other: The recipe that the run was begun with, as JSON.
        source: The run, for the message.
        may_change: Keys that don't count, and all below them.

    Raises:
        InputError: If another key differs.
    """
    then = _with_new_keys(json.loads(other), recipe)
    changed = changed_keys(recipe, then, may_change)
    if changed:
        now = flat_recipe(recipe.model_dump(mode="json"))
        raise InputError(
            f"the run in {source} was begun with {changed[0]}={flat_recipe(then).get(changed[0])}, not "
            f"{now.get(changed[0])}{f' (and {len(changed) - 1} more differ)' if changed[1:] else ''}: use the same, or "
            "start a new run"
        )


def _with_new_keys(content: Mapping[str, Any], recipe: Recipe) -> dict[str, Any]:
    """A dumped recipe, perhaps of an older version, with the keys that it could not say yet.

    Args:
        content: Of a recipe.
        recipe: Of this version, for its options.
    """
    detector = with_old_statistics(with_moved_options(content["detector"]))
    return _filled({**content, "detector": detector}, recipe)


def _filled(stored: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """Stored options with the defaults of those that are not there: a new option's default is what was done before."""
    filled = type(config).model_construct().model_dump(mode="json", warnings=False) | dict(stored)
    for key, value in stored.items():
        own = getattr(config, key, None)
        if isinstance(own, Config) and isinstance(value, Mapping):
            filled[key] = _filled(value, own)
        elif isinstance(value, tuple):
            filled[key] = list(value)
    return filled


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value  # an empty one is a value too
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
