"""Arguments of a call as keys of a recipe."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from denseteacher.data.formats.litdata import is_url

_ABOUT = {
    "labeled": ("images", "subset", "format"),
    "unlabeled": ("unlabeled_images",),
    "val": ("val_images", "val_subset"),
}
"""Keys that say how to read another one's path."""


def given_paths(**paths: str | Path | Sequence[str | Path] | None) -> dict[str, Any]:
    """Recipe keys of paths, which are relative to where the user is, not to a recipe's root.

    What a recipe says about its own data (``data.subset``, ``data.val_images``) says nothing about the user's.
    """
    given: dict[str, Any] = {}
    for key, value in paths.items():
        if value:
            several = [str(one) if is_url(one) else str(Path(one).absolute()) for one in as_list(value)]
            given |= {f"data.{about}": None for about in _ABOUT.get(key, ())}
            given[f"data.{key}"] = several if len(several) > 1 else several[0]
    return given


def given_data(**options: str | None) -> dict[str, Any]:
    """Recipe keys of what else is said of the data, where something is."""
    return {f"data.{key}": value for key, value in options.items() if value is not None}


def given_runtime(**options: int | list[str] | None) -> dict[str, Any]:
    """Recipe keys of what is said of processes and trackers, where something is."""
    return {f"runtime.{key}": value for key, value in options.items() if value}


def as_list(paths: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    """One path as several."""
    return [paths] if isinstance(paths, str | Path) else paths


def as_texts(overrides: Mapping[str, Any] | Iterable[str]) -> list[str]:
    """Recipe keys as ``KEY=VALUE`` texts."""
    if isinstance(overrides, Mapping):
        return [f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items()]
    return list(overrides)
