"""What mkdocs can't do by itself: links out of ``docs``, and the reference of recipe keys.

The pages are written to be read on GitHub too, where ``../benchmarks/results/NAME.json`` leads to a file. Here the
measurements become part of the site, and the reference is made from the schema, so that it can't go stale.
"""

import ast
import inspect
import itertools
import json
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from denseteacher.recipes.schema import Recipe

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"
_KEYS = "<!-- keys -->"
_WHICH = "Which of them it is."
_KINDS = {bool: "true, false", int: "whole number", float: "number", str: "text", Path: "path"}


def on_files(files: "Files", config: "MkDocsConfig") -> "Files":
    """Adds the measurements to the site."""
    from mkdocs.structure.files import File

    for path in sorted(RESULTS.glob("*.json")):
        files.append(File.generated(config, f"benchmarks/results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Turns links out of ``docs`` into links within the site, and writes the reference."""
    markdown = markdown.replace("../benchmarks/results/", "benchmarks/results/").replace("../README.md", "index.md")
    return markdown.replace(_KEYS, key_reference()) if _KEYS in markdown else markdown


def key_reference() -> str:
    """All keys of a recipe as Markdown: a table for every part of the schema."""
    return "\n".join(_tables("", Recipe, "The recipe itself", set()))


def _tables(prefix: str, model: type[BaseModel], heading: str, seen: set[str]) -> Iterator[str]:
    """The table of a model's own keys, then those of the models in it, each heading once."""
    if heading in seen:
        return
    seen.add(heading)
    texts, inner = _docstrings(model), []
    yield f"## {heading}\n\n{_line((inspect.getdoc(model) or '').partition(chr(10) * 2)[0])}\n"
    yield "| key | value | default | |\n|---|---|---|---|"
    for name, field in model.model_fields.items():
        models = [option for option in _options(field.annotation) if _is_model(option)]
        for option in models:
            tag = f": `{option.model_fields['name'].default}`" if len(models) > 1 else ""
            inner.append((f"{prefix}{name}.", option, f"`{prefix}{name}`{tag}"))
        if not models or prefix:
            text = _line(texts.get(name, _WHICH if _is_tag(field) else ""))
            yield f"| `{prefix}{name}` | {_values(field)} | {_default(field)} | {text} |"
    yield ""
    for part in inner:
        yield from _tables(*part, seen)


def _options(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a type, one by one, without their annotations."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return tuple(inner for option in get_args(annotation) for inner in _options(option))
    if hasattr(annotation, "__metadata__"):
        return _options(annotation.__origin__)
    if origin is tuple:
        return (annotation, *filter(_is_model, _options(get_args(annotation)[0])))
    return (annotation,)


def _is_tag(field: FieldInfo) -> bool:
    """Whether a field has one possible value, which says which of several models it is."""
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def _is_model(option: Any) -> bool:
    return isinstance(option, type) and issubclass(option, BaseModel)


def _values(field: FieldInfo) -> str:
    """What may stand there: kinds or words, and their bounds."""
    kinds = []
    for option in _options(field.annotation):
        if get_origin(option) is Literal:
            kinds += [f"`{value}`" for value in get_args(option)]
        elif option is type(None):
            kinds.append("`null`")
        elif get_origin(option) is tuple:
            kinds.append("list")
        else:
            kinds.append("mapping" if _is_model(option) else _KINDS[option])
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    bounds = [
        f"{sign} {getattr(one, name):g}" for one in field.metadata for name, sign in signs.items() if hasattr(one, name)
    ]
    return ", ".join(dict.fromkeys(kinds)) + (f"; {' and '.join(bounds)}" if bounds else "")


def _default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    value = field.default
    if isinstance(value, BaseModel) or (isinstance(value, tuple) and value and isinstance(value[0], BaseModel)):
        return "see below"
    return f"`{value}`" if isinstance(value, str) and value else f"`{json.dumps(value)}`"


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """The text under each field, in the model and those it extends."""
    texts: dict[str, str] = {}
    for parent in reversed(model.__mro__):
        if parent is BaseModel or not issubclass(parent, BaseModel):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(parent))).body[0].body  # type: ignore[attr-defined]
        for statement, following in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                texts[ast.unparse(statement.target)] = inspect.cleandoc(ast.literal_eval(following.value))
    return texts


def _line(text: str) -> str:
    return " ".join(text.replace("``", "`").replace("|", "\\|").split())
