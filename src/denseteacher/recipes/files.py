"""Recipe files as nested mappings: YAML, the recipes it extends, and ``KEY=VALUE`` over it."""

import difflib
import os
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from denseteacher.data.safe_yaml import parse_yaml, yaml_text
from denseteacher.detectors import with_moved_options
from denseteacher.errors import InputError

_LONGEST_CHAIN = 20


def builtin_names() -> list[str]:
    """The recipes that come with the package."""
    names = (file.name for file in _recipe_folder().iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_chain(source: str, children: tuple[str, ...] = (), *, built_in: bool = True) -> list[dict[str, Any]]:
    """The content of a recipe and of all that it extends, as it stands, the first parent first.

    Args:
        source: Name of a built-in recipe, or path of a YAML file.
        children: The recipes by way of which it is read.
        built_in: Whether to give what the package's own recipes say too.

    Raises:
        InputError: If there is no such recipe, or it is not a YAML mapping.
    """
    if len(children) > _LONGEST_CHAIN:
        raise InputError(f"recipe {children[0]!r} extends more than {_LONGEST_CHAIN} others, one by way of the other")
    if source in children:
        raise InputError(f"recipe {source!r} extends itself by way of {', '.join(children)}")
    content = _read_yaml(source)
    parent = content.pop("extends", None)
    own = [in_todays_places(content)] if built_in or _is_file(source) else []
    if parent is None:
        return own
    if not isinstance(parent, str):
        raise InputError(f"recipe {source!r}: extends names one recipe, not {parent!r}")
    beside = Path(source).parent / parent
    # not Path.is_file, which raises for names of more than 255 bytes
    parent = str(beside) if beside.suffix and os.path.isfile(beside) else parent  # noqa: PTH113
    return [*read_chain(parent, (*children, source), built_in=built_in), *own]


def keys_by_hand(part: str, source: str, overrides: Iterable[str]) -> set[str]:
    """The keys of a part of a recipe that the user has set: in a YAML file of their own, or by overrides.

    What a built-in recipe sets is a suggestion, which may give way to what is found in the user's data or files.

    Args:
        part: ``detector``, for example.
        source: Name of a built-in recipe, or path of a YAML file.
        overrides: ``KEY=VALUE`` texts.

    Returns:
        The keys below the part; of a mapping in it those of its content, ``assigner.name``, too.
    """
    contents = [*read_chain(source, built_in=False), *read_overrides(overrides)]
    given: set[str] = set()
    for content in contents:
        if isinstance(mapping := content.get(part), Mapping):
            inner = [(key, value) for key, value in mapping.items() if isinstance(value, Mapping)]
            given |= mapping.keys() | {f"{key}.{option}" for key, value in inner for option in value}
    return given


def in_todays_places(content: dict[str, Any]) -> dict[str, Any]:
    """A recipe's content, or a part of it, in which older spellings of keys are today's (``with_moved_options``)."""
    detector = content.get("detector")
    return content | {"detector": with_moved_options(detector)} if isinstance(detector, Mapping) else content


def read_overrides(overrides: Mapping[str, Any] | Iterable[str]) -> list[dict[str, Any]]:
    """Overrides as nested mappings, in their order.

    Args:
        overrides: ``{"optim.lr": 0.02}``, or ``KEY=VALUE`` texts whose values are read as YAML.

    Raises:
        InputError: If a text is not a ``KEY=VALUE``.
    """
    if isinstance(overrides, Mapping):
        return [in_todays_places(_nest(key, value)) for key, value in overrides.items()]
    nested = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise InputError(f"--set takes KEY=VALUE, for example --set optim.lr=0.02, not {text!r}")
        nested.append(in_todays_places(_nest(key.strip(), parse_yaml(value, f"--set {key}: {value[:200]!r}"))))
    return nested


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint at what the user may have meant; empty where nothing comes close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _recipe_folder() -> Any:
    return resources.files("denseteacher") / "recipes"


def _is_file(source: str) -> bool:
    """Whether a recipe is the user's file, and not a name."""
    return source.endswith((".yaml", ".yml"))


def _read_yaml(source: str) -> dict[str, Any]:
    file = Path(source) if _is_file(source) else _recipe_folder() / f"{source}.yaml"
    if not os.path.isfile(file):  # noqa: PTH113 (as above)
        names = builtin_names()
        raise InputError(
            f"there is no recipe {source!r}{suggest(source, names)}: give a YAML file or one of {', '.join(names)}"
        )
    content = parse_yaml(yaml_text(Path(file)), f"recipe {source!r}")
    if not isinstance(content, dict):
        raise InputError(f"recipe {source!r} must be a YAML mapping with keys such as name, data and method")
    return content


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    nested: dict[str, Any] = value
    return nested
