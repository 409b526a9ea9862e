"""Where two recipes differ, and what a run may have different from the one that it goes on from."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

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
    now, then = (flat_recipe(one, may_change) for one in (recipe.model_dump(mode="json"), _with_new_keys(other)))
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
    then = _with_new_keys(json.loads(other))
    changed = changed_keys(recipe, then, may_change)
    if changed:
        now = flat_recipe(recipe.model_dump(mode="json"))
        raise InputError(
            f"the run in {source} was begun with {changed[0]}={flat_recipe(then).get(changed[0])}, not "
            f"{now.get(changed[0])}{f' (and {len(changed) - 1} more differ)' if changed[1:] else ''}: use the same, or "
            "start a new run"
        )


def _with_new_keys(content: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped recipe, perhaps of an older version, with the keys that it could not say yet."""
    new: dict[str, Any] = {"init": "backbone", "extra_from": "pyramid", "ignore_rule": "covered"}
    stored = with_moved_options(content["detector"])
    new |= {"cls_loss": "focal", "location_offset": 0.0, "scale_per_level": True}
    if stored.get("name") == "retinanet":
        new |= {
            "quality": "none",
            "anchor_scales": [2 ** (one / 3) for one in range(3)],
            "anchor_ratios": [0.5, 1.0, 2.0],
        }
        parts: dict[str, dict[str, Any]] = {"assigner": {"name": "max_iou"}, "coding": {"name": "delta"}}
    else:
        parts = {"assigner": {"name": "fcos"}, "coding": {"name": "ltrb", "initial_distance": 2.0}}
    detector = new | with_old_statistics(stored) | {key: new | stored.get(key, {}) for key, new in parts.items()}
    detector = {key: list(one) if isinstance(one, tuple) else one for key, one in detector.items()}
    learns_from_unlabeled = "ramp" in content["method"]
    method = ({"unlabeled_weight": 1.0} if learns_from_unlabeled else {}) | content["method"]
    data = {
        "bad_images": "error",
        "empty_images": "keep",
        "ignore_regions": "background",
        "labels_complete": True,
        "sure_score": 0.4,
    } | content["data"]
    return {**content, "detector": detector, "method": method, "data": data}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value  # an empty one is a value too
        flat |= _flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
