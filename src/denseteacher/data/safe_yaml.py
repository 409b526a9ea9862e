"""YAML from elsewhere: plain values within bounds, or one sentence on what is wrong."""

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from denseteacher.errors import InputError
from denseteacher.files import decode_text, read_regular

LARGEST_FILE = 1_000_000
"""Bytes. A recipe is a page, and PyYAML takes seconds for a megabyte."""
_MOST_NODES = 100_000  # with every alias written out
_LARGEST_INT = 2**63
_DEEPEST = 40  # a recipe has five levels; Python's stack ends at some hundred


def read_yaml(file: Path, *, as_text: bool = False) -> Any:
    """The content of a YAML file; see ``parse_yaml``.

    Raises:
        InputError: If it is not a regular file, too large, or no YAML.
    """
    return parse_yaml(yaml_text(file), str(file), as_text=as_text)


def yaml_text(file: Path) -> str:
    """The text of a YAML file.

    Raises:
        InputError: If it is not a regular file, too large, or no text.
    """
    try:
        return decode_text(read_regular(file, LARGEST_FILE))[0]
    except ValueError as error:
        raise InputError(f"{file} can't be read as YAML: {error}") from error


def parse_yaml(text: str, source: str, *, as_text: bool = False) -> Any:
    """What a YAML document says: mappings, lists, texts, numbers, dates, true and false.

    Args:
        text: The document.
        source: What a message calls it.
        as_text: Keep every single value as it is written, so that a class called ``no`` is not false and one called
            ``007`` not 7; what is left empty is an empty text.

    Raises:
        InputError: If it is not a YAML, has tags of other types, is nested deeply, names a key twice, or grows beyond
            all bounds where its aliases are written out.
    """
    try:
        if len(text) > LARGEST_FILE:
            raise yaml.YAMLError(f"it is longer than {LARGEST_FILE:,} characters")
        loader = (_TextLoader if as_text else _Loader)(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except Exception as error:
        # PyYAML's constructors raise what their conversions do: ValueError for the date 2001-99-99, KeyError, ...
        raise InputError(f"{source} can't be read as YAML: {_reason(error, text)}") from error


def _reason(error: Exception, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        what = "" if isinstance(error, yaml.YAMLError) else "it has a value that is none of its type: "
        return what + (" ".join(str(error).split())[:200] or type(error).__name__)
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in str(getattr(error, "problem", "")):
        return f"line {mark.line + 1} has a tab where YAML needs spaces"
    problem = " ".join(str(getattr(error, "problem", "") or getattr(error, "context", "")).split())[:200]
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


class _Loader(yaml.SafeLoader):
    """Refuses what has no end: deep nesting, and aliases of aliases of aliases."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}  # nodes below a finished node, itself included

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self._depth >= _DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {_DEEPEST} levels deep")
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if not is_alias:
            self._measure(node)
        elif id(node) not in self._sizes:
            raise yaml.YAMLError("an alias (*name) stands inside of what it names")
        return node

    def _measure(self, node: Any) -> None:
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        self._sizes[id(node)] = 1 + sum(self._sizes[id(part)] for part in inner)
        if self._sizes[id(node)] > _MOST_NODES:
            raise yaml.YAMLError(f"it has more than {_MOST_NODES:,} values, its aliases (*name) written out")

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if not _is_merge(key)]
        seen: set[Any] = set()
        for key in (key for key in keys if isinstance(key, Hashable)):
            if key in seen:
                raise yaml.YAMLError(f"the key {str(key)[:80]!r} stands twice")
            seen.add(key)
        return super().construct_mapping(node, deep)


def _bounded_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    number = int(loader.construct_yaml_int(node))
    if abs(number) >= _LARGEST_INT:
        raise yaml.YAMLError(f"the number {node.value[:20]}... of {len(node.value)} digits is larger than any here")
    return number


_Loader.add_constructor("tag:yaml.org,2002:int", _bounded_int)


def _is_merge(key: yaml.Node) -> bool:
    return bool(key.tag == "tag:yaml.org,2002:merge")


class _TextLoader(_Loader):
    """Gives every scalar as it is written."""


def _as_written(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    return str(loader.construct_scalar(node))


for _type in ("null", "bool", "int", "float", "timestamp", "value", "str"):
    _TextLoader.add_constructor(f"tag:yaml.org,2002:{_type}", _as_written)
