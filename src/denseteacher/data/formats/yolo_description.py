"""What describes a YOLO data set: Ultralytics' ``data.yaml``, or Darknet's and CVAT's ``obj.data``."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.data.formats.files import is_file, text_lines
from denseteacher.data.formats.yolo_lines import Classes
from denseteacher.data.safe_yaml import parse_yaml, yaml_text
from denseteacher.errors import InputError

PARTS = ("train", "val", "valid", "test")
"""Keys under which a description names images."""
_EMPTY = ("", "~", "null", "none")
_HAS_NAMES = re.compile(r"""^["']?names["']?\s*:""", re.MULTILINE)


class Description(NamedTuple):
    """What a ``data.yaml`` or ``obj.data`` says."""

    file: Path
    base: str
    """Folder that its places are relative to; often that of another machine."""
    parts: dict[str, list[str]]
    classes: Classes


def describe(path: Path) -> Description | None:
    """What a file, or the one of a folder, says; None where a folder has none.

    Raises:
        InputError: If it can't be read, or a folder has several.
    """
    if path.is_file():
        return _read_data(path) if path.suffix.lower() == ".data" else _read_yaml(path)
    files = yamls_in(path)
    if len(files) > 1:
        described = [file for file in files if _has_parts(file)]
        files = [file for file in described if file.stem.lower() == "data"] or described or files
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise InputError(f"{path} holds {len(files)} YAML files with class names ({names}): name the one to read")
    if files:
        return _read_yaml(files[0])
    data = data_in(path)
    return None if data is None else _read_data(data)


def data_in(folder: Path) -> Path | None:
    """The ``obj.data`` of a folder, or its only file of that kind."""
    files = sorted(file for file in folder.glob("*.data") if is_file(file))
    return next((file for file in files if file.name == "obj.data" or len(files) == 1), None)


def yamls_in(folder: Path) -> list[Path]:
    """The YAML files in a folder that have class names."""
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".yaml", ".yml"))
    except OSError:
        return []
    return [file for file in files if is_file(file) and _has_names(file)]


def _has_names(file: Path) -> bool:
    try:
        return _HAS_NAMES.search(yaml_text(file)) is not None
    except InputError:  # who reads it says why
        return False


def _has_parts(file: Path) -> bool:
    try:
        content = parse_yaml(yaml_text(file), str(file), as_text=True)
    except InputError:
        return True
    return isinstance(content, dict) and any(key in content for key in PARTS)


def _read_yaml(file: Path) -> Description:
    content = parse_yaml(yaml_text(file), str(file), as_text=True)
    if not isinstance(content, dict) or "names" not in content:
        raise InputError(f"{file} is not a YOLO data set: it has no key 'names'")
    names = _class_names(file, content["names"])
    _check_count(file, content.get("nc", ""), names)
    parts = {}
    for key, value in content.items():
        places = value if isinstance(value, list) else [value]
        if all(isinstance(place, str) for place in places):
            parts[str(key)] = [place for place in places if place.strip().lower() not in _EMPTY]
    base = content.get("path", "")
    return Description(file, base if isinstance(base, str) else "", parts, Classes(names, _keypoints(file, content)))


def _class_names(file: Path, names: Any) -> list[str]:
    if isinstance(names, dict) and sorted(map(str, names)) == sorted(map(str, range(len(names)))):
        names = [names[str(number)] for number in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name.strip() for name in names):
        raise InputError(f"{file}: 'names' must be a list of class names, or class names by number from 0")
    return names


def _check_count(file: Path, count: Any, names: list[str]) -> None:
    if isinstance(count, str) and count.strip().lower() in _EMPTY:
        return
    try:
        is_right = float(count) == len(names)
    except (TypeError, ValueError):
        raise InputError(f"{file}: 'nc' is {str(count)[:80]!r}, where the number of classes is needed") from None
    if not is_right:
        raise InputError(f"{file}: 'nc' is {count[:80]}, but 'names' has {len(names)} class names: correct one of them")


def _keypoints(file: Path, content: dict[Any, Any]) -> tuple[int, int] | None:
    shape = content.get("kpt_shape", "")
    if isinstance(shape, str) and shape.strip().lower() in _EMPTY:
        return None
    try:
        points, each = (int(number) for number in shape)
    except (TypeError, ValueError):
        points = each = 0
    if not (1 <= points <= 10_000 and each in (2, 3)):
        wanted = "a number of keypoints and 2 or 3 numbers of each are needed, as [17, 3]"
        raise InputError(f"{file}: 'kpt_shape' is {str(shape)[:80]}, where {wanted}")
    return points, each


def _read_data(file: Path) -> Description:
    """Darknet's and CVAT's file: ``train = train.txt``, ``names = obj.names``."""
    lines = [line.partition("=") for _, line in text_lines(file, f"{file} can't be read as text")]
    values = {key.strip(): value.strip() for key, equals, value in lines if equals}
    named = values.get("names", "")
    inside = (file.parent / "/".join(parts) for parts in endings(named))
    names_file = next((place for place in (*inside, file.parent / "obj.names") if is_file(place)), None)
    if names_file is None:
        raise InputError(f"{file}: there is no file {named or 'obj.names'} of class names in {file.parent}")
    names = lines_of(names_file)
    _check_count(file, values.get("classes", ""), names)
    parts = {key: [value] for key, value in values.items() if key in PARTS and value}
    return Description(file, "", parts, Classes(names))


def endings(place: str) -> Iterator[tuple[str, ...]]:
    """The last parts of a path, the most of them first."""
    parts = tuple(part for part in place.split("/") if part not in ("", ".", "..") and ":" not in part)
    return (parts[start:] for start in range(len(parts)))


def lines_of(file: Path) -> list[str]:
    """Lines of a text file that are not blank."""
    return [line for _, line in text_lines(file, f"{file} can't be read as text")]
