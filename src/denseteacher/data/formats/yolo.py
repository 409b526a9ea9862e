"""YOLO: a ``data.yaml``, or folders of images and of text files with a line an object."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from denseteacher.data.formats.annotations import Annotations, Fault, Report, refuse
from denseteacher.data.formats.files import image_named, images_below, sizes_or_errors, text_lines
from denseteacher.data.images import IMAGE_SUFFIXES
from denseteacher.errors import InputError

_NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels")
_MOST = 1.001  # a share of the image's size, with the rounding of those who write five digits


class _Source(NamedTuple):
    """The images, and what their classes are called."""

    images: list[Path]
    names: list[str] | None


def is_yolo(path: Path) -> bool:
    """Whether a path looks like a YOLO data set."""
    if path.is_file():
        return path.suffix in (".yaml", ".yml")
    if path.name == "labels" and any(path.glob("*.txt")):
        return True
    return _yaml_in(path) is not None or (path / "labels").is_dir() or any(_label_files(path))


def read_yolo(
    path: Path, images: Path | None = None, *, subsets: Sequence[str] = (), report: Report = refuse
) -> Annotations:
    """Reads a YOLO data set: a line is a class number and a box as center and size, in shares of the image's size.

    A line with more numbers is the outline of an object, of which the box around is taken. An image without a
    text file, or with an empty one, has no objects. Image sizes come from the headers.

    Args:
        path: A ``data.yaml``, a folder with one, or one with ``images`` and ``labels``, or of images and text files.
        images: Folder of the images, where ``path`` is the folder of the text files; folder that the places in a YAML
            are relative to, where that is not its own.
        subsets: Keys of the YAML, or folders below ``images``, by preference.
        report: Told about faults of entries.

    Raises:
        InputError: If there is no such data set.
    """
    source = _checked(path, _source(path, images, subsets))
    # not resolve(): where 'images' is a symbolic link, 'labels' is beside the link
    named = [Path(os.path.abspath(file)) for file in source.images]  # noqa: PTH100
    files = list(dict.fromkeys(named))
    root = Path(os.path.commonpath([file.parent for file in files]))
    labels = _label_files_of(path, files, images)
    if not any(file.is_file() for file in labels):
        raise InputError(
            f"{path}: none of {len(labels)} images has a text file of labels; the first would be {labels[0]}"
        )
    twice = sorted(file for file, times in Counter(named).items() if times > 1)
    report([Fault("image id twice", f"{path}: the image {file} stands twice in its lists") for file in twice])
    sizes = sizes_or_errors((file, None) for file in files)
    report([Fault("unreadable image", str(size)) for size in sizes if isinstance(size, InputError)])
    listed: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for file, label, size in zip(files, labels, sizes, strict=True):
        if not isinstance(size, InputError):
            name = str(file.relative_to(root))
            listed.append({"id": len(listed) + 1, "file_name": name, "width": size[1], "height": size[0]})
            objects += _objects(label, listed[-1], source.names, report)
    count = max((one["category_id"] for one in objects), default=-1) + 1
    names = source.names or [str(number) for number in range(count)]
    for number, one in enumerate(objects, 1):
        one["id"] = number
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    content = {"images": listed, "annotations": objects, "categories": categories}
    return Annotations(path, "yolo", content, root)


def _source(path: Path, images: Path | None, subsets: Sequence[str]) -> _Source:
    file = path if path.is_file() else _yaml_in(path)
    if file is not None:
        return _from_yaml(file, images, subsets)
    folder = images or (path / "images" if (path / "labels").is_dir() else path)
    chosen = next((folder / subset for subset in subsets if (folder / subset).is_dir()), None)
    if chosen is None and len(subsets) == 1:  # as the user asked for
        raise InputError(f"{path} has no part {subsets[0]!r}: there is no folder {folder / subsets[0]}")
    return _Source(images_below(chosen or folder), _names_near(path, path / "labels", folder))


def _checked(path: Path, source: _Source) -> _Source:
    if not source.images:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"{path} holds or names no images ({suffixes}): give their folder with --images DIR")
    twice = [name for name, times in Counter(source.names or []).items() if times > 1]
    if twice:
        raise InputError(f"{path}: two classes have the name {twice[0]!r}: give each class a name of its own")
    return source


def _from_yaml(file: Path, images: Path | None, subsets: Sequence[str]) -> _Source:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} can't be read as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict) or "names" not in content:
        raise InputError(f"{file} is no YOLO data set: it has no key 'names'")
    names = _class_names(file, content["names"])
    if content.get("nc") not in (None, len(names)):
        raise InputError(f"{file}: 'nc' is {content['nc']}, but 'names' has {len(names)} class names")
    subset = next((key for key in subsets if content.get(key)), None)
    if subset is None:
        known = ", ".join(key for key in ("train", "val", "valid", "test") if content.get(key)) or "none"
        raise InputError(
            f"{file} has no {' or '.join(subsets)}: it has {known}; choose one with --subset or --val-subset"
        )
    # 'path' is often that of another machine
    roots = [root for root in (images, file.parent / str(content.get("path") or "."), file.parent) if root is not None]
    places = content[subset] if isinstance(content[subset], list) else [content[subset]]
    return _Source([image for place in places for image in _images_at(file, roots, _posix(str(place)))], names)


def _class_names(file: Path, names: Any) -> list[str]:
    if isinstance(names, dict) and sorted(map(str, names)) == sorted(map(str, range(len(names)))):
        names = [names[key] for key in sorted(names, key=int)]
    if not isinstance(names, list) or not names:
        raise InputError(f"{file}: 'names' must be a list of class names, or class names by number from 0")
    return [str(name) for name in names]


def _images_at(file: Path, roots: list[Path], place: str) -> list[Path]:
    """Images of a folder or list that a YAML names; Roboflow writes ``../train`` where ``train`` is meant."""
    for candidate in [*(root / place for root in roots), file.parent / place.removeprefix("../")]:
        if candidate.is_dir():
            return images_below(candidate)
        if candidate.is_file():
            return [_listed_image(_posix(line), [*roots, candidate.parent]) for line in _lines(candidate)]
    places = " or ".join(dict.fromkeys(str(root) for root in roots if root.is_dir()))
    raise InputError(f"{file} names {place!r}, which is neither a folder nor a list in {places}")


def _posix(place: str) -> str:
    """A path that may have been written on Windows."""
    return place.replace("\\", "/")


def _listed_image(line: str, roots: list[Path]) -> Path:
    return next((root / line for root in roots if (root / line).is_file()), roots[-1] / line)


def _yaml_in(folder: Path) -> Path | None:
    """The only YAML in a folder that has class names, or its ``data.yaml``."""
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")], key=lambda file: file.stem != "data")
    named = [file for file in files if "names" in file.read_text(encoding="utf-8", errors="replace")]
    return named[0] if named and (len(named) == 1 or named[0].stem == "data") else None


def _label_files(folder: Path) -> Iterable[Path]:
    """Text files beside images of the same name."""
    texts = (file for file in folder.glob("*.txt") if file.name not in _NAME_FILES)
    return (file for file in texts if image_named(folder, file.stem) is not None)


def _label_files_of(path: Path, files: list[Path], images: Path | None) -> list[Path]:
    """The text file of each image: below ``path`` where the images are elsewhere, see ``_label_file`` otherwise."""
    if images is None or path.is_file() or _yaml_in(path) is not None:
        return [_label_file(file) for file in files]
    labels = path / "labels" if (path / "labels").is_dir() else path
    return [(labels / os.path.relpath(file, images)).with_suffix(".txt") for file in files]


def _label_file(image: Path) -> Path:
    """Where an image's text file is: beside the image, or below ``labels`` in place of the last ``images``."""
    beside = image.with_suffix(".txt")
    parts = list(beside.parts)
    if "images" not in parts[:-1] or beside.is_file():
        return beside
    parts[len(parts) - 2 - parts[-2::-1].index("images")] = "labels"
    return Path(*parts)


def _names_near(*folders: Path) -> list[str] | None:
    files = [folder / name for folder in folders for name in _NAME_FILES]
    files.append(folders[0].parent / "obj.names")  # beside Darknet's obj_train_data
    return next((_lines(file) for file in files if file.is_file()), None)


def _lines(file: Path) -> list[str]:
    return [line for _, line in _numbered_lines(file)]


def _numbered_lines(file: Path) -> list[tuple[int, str]]:
    return text_lines(file, f"{file} can't be read as text")


def _objects(file: Path, image: dict[str, Any], names: list[str] | None, report: Report) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    try:
        lines = _numbered_lines(file) if file.is_file() else []
    except InputError as error:
        report([Fault("unreadable annotation file", str(error))])
        return found
    for number, line in lines:
        source = f"{file}, line {number}"
        numbers = _numbers(line)
        fault = _line_fault(numbers, names)
        if fault is not None:
            report([Fault(fault.kind, f"{source}: {line[:60]!r} {fault.message}")])
            continue
        box = _box(numbers[1:], image["width"], image["height"])
        found.append(
            {"image_id": image["id"], "category_id": int(numbers[0]), "bbox": box, "iscrowd": 0, "source": source}
        )
    return found


def _numbers(line: str) -> list[float]:
    try:
        return [float(word) for word in line.split()]
    except ValueError:
        return []


def _line_fault(numbers: list[float], names: list[str] | None) -> Fault | None:
    outline = len(numbers) >= 7 and len(numbers) % 2 == 1
    if not all(map(math.isfinite, numbers)) or not (len(numbers) == 5 or outline):
        wanted = "has to be a class number and x, y, width, height (or an outline) as shares of the image's size"
        return Fault("box of no four numbers", wanted)
    if numbers[0] < 0 or numbers[0] != int(numbers[0]) or (names is not None and numbers[0] >= len(names)):
        known = "0 or above" if names is None else f"0 to {len(names) - 1}"
        return Fault("unknown category", f"has the unknown class {numbers[0]:g}; known: {known}")
    if max(numbers[1:]) > _MOST:
        return Fault("box outside of its image", "has numbers above 1: they are shares of the image's size, not pixels")
    return None


def _box(shares: list[float], width: int, height: int) -> list[float]:
    """x, y, width, height in pixels."""
    if len(shares) == 4:
        x, y, w, h = shares
        return [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
    xs, ys = shares[::2], shares[1::2]
    left, top = min(xs) * width, min(ys) * height
    return [left, top, max(xs) * width - left, max(ys) * height - top]
