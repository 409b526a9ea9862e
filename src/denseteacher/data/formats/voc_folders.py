"""The folders of a VOC data set: annotations, images and image sets, as published or as tools lay them out."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from denseteacher.data.formats.files import child_folder, listed_name, text_lines
from denseteacher.data.formats.image_names import leaves_folder
from denseteacher.data.images import IMAGE_SUFFIXES
from denseteacher.errors import InputError

_ANNOTATIONS = ("Annotations", "Annotation", "xmls", "xml", "labels")
_IMAGES = ("JPEGImages", "Images", "Image", "JPEGImage", "imgs", "img")
_PARTS = ("train", "trainval", "val", "valid", "test")
_DEFAULT = "default"  # the one image set of a task of CVAT
_WHETHER = re.compile(r"\s+-?[01]$")
_SUFFIXES = frozenset({*IMAGE_SUFFIXES, ".xml"})


def is_voc(path: Path) -> bool:
    """Whether a path looks like a VOC data set: its folder, a devkit with one such, or an image set of it."""
    if path.is_file():
        return path.suffix.lower() == ".txt" and path.parent.parent.name.lower() == "imagesets"
    # COCO's "annotations" hold no XML
    if _years(path) or _is_year(path) or _has_xml(path):
        return True
    return any(_holds_annotations(path, name) for name in _ANNOTATIONS) or any(_has_xml(path / one) for one in _PARTS)


def voc_folder(path: Path) -> Path:
    """The folder with ``Annotations`` or ``JPEGImages`` that a path is about.

    Raises:
        InputError: If there are several.
    """
    if path.is_file():
        if not is_voc(path):
            raise InputError(f"{path} is not an image set of VOC: name the folder with Annotations and JPEGImages")
        return path.parents[1] if path.parent.name.lower() == "imagesets" else path.parents[2]
    years = [] if child_folder(path, "Annotations") is not None else _years(path)
    if len(years) > 1:
        raise InputError(f"{path} holds {' and '.join(year.name for year in years)}: name one of them")
    return years[0] if years else path


def part_folder(path: Path, subsets: Sequence[str]) -> Path | None:
    """The folder of a part where each part has a folder of its XML files and images, as Roboflow writes it."""
    if path.is_file() or is_voc_folder(path) or _years(path):
        return None
    # "test" goes before "val" only where "val" is part of "trainval", as in image sets
    ordered = sorted(subsets, key=lambda subset: subset == "test")
    return next((path / subset for subset in ordered if _has_xml(path / subset)), None)


def is_voc_folder(path: Path) -> bool:
    """Whether XML files lie in a folder, or in its folder of annotations."""
    return _has_xml(path) or any(_holds_annotations(path, name) for name in _ANNOTATIONS)


def voc_annotations(folder: Path) -> Path:
    """Where the XML files of a VOC folder lie: in ``Annotations``, or beside the images."""
    named = next((name for name in _ANNOTATIONS if _holds_annotations(folder, name)), None)
    return (child_folder(folder, named) if named is not None else None) or folder


def voc_images(folder: Path) -> Path:
    """Where the images of a VOC folder lie: in ``JPEGImages`` or ``Images``, or beside the XML files."""
    return child_folder(folder, *_IMAGES) or folder


def xml_names(annotations: Path) -> list[str]:
    """Paths of all XML files below a folder, without suffix, in their order."""
    files = (file.relative_to(annotations) for file in annotations.rglob("*") if file.suffix.lower() == ".xml")
    return sorted(
        file.with_suffix("").as_posix() for file in files if not any(part.startswith(".") for part in file.parts)
    )


def image_set(path: Path, subsets: Sequence[str]) -> list[str] | None:
    """Names of the images of an image set, None where the data set has no image sets.

    Args:
        path: An image set's file, or a folder.
        subsets: Image sets of the folder by preference.

    Raises:
        InputError: If it has image sets, but none of these.
    """
    if path.is_file():
        return _listed(path)
    sets = _sets(voc_folder(path))
    if sets is None:
        if len(subsets) == 1:  # as the user asked for
            raise InputError(f"{path} has no ImageSets/Main, so no image set {subsets[0]}: leave out --subset")
        return None
    by_preference = subsets if len(subsets) == 1 else (*subsets, _DEFAULT)
    found = first_image_set(path, by_preference)
    if found is not None:
        return _listed(sets / f"{found}.txt")
    known = ", ".join(sorted(file.stem for file in sets.glob("*.txt") if "_" not in file.stem)) or "none"
    raise InputError(
        f"{sets} has no image set {' or '.join(subsets)}: it has {known}; choose one with --subset or "
        "--val-subset, or name its file"
    )


def first_image_set(path: Path, subsets: Sequence[str]) -> str | None:
    """The first of these image sets that a folder has."""
    sets = _sets(voc_folder(path))
    return None if sets is None else next((one for one in subsets if os.path.lexists(sets / f"{one}.txt")), None)


def _sets(folder: Path) -> Path | None:
    """``ImageSets/Main``, or ``ImageSets`` itself where the lists lie there."""
    sets = child_folder(folder, "ImageSets")
    if sets is None:
        return None
    return child_folder(sets, "Main") or (sets if any(sets.glob("*.txt")) else None)


def _years(path: Path) -> list[Path]:
    return sorted(
        folder for place in ("", "VOCdevkit/") for folder in path.glob(f"{place}VOC[0-9]*") if _is_year(folder)
    )


def _is_year(folder: Path) -> bool:
    # Darknet puts its text files in "labels" beside
    return child_folder(folder, "JPEGImages") is not None and child_folder(folder, "labels") is None


def _holds_annotations(folder: Path, name: str) -> bool:
    place = child_folder(folder, name)
    return place is not None and (_has_xml(place) or any(_visible(place.glob("*/*.xml"))))


def _has_xml(folder: Path) -> bool:
    return any(_visible(folder.glob("*.[xX][mM][lL]")))


def _visible(files: Iterator[Path]) -> Iterator[Path]:
    return (file for file in files if not file.name.startswith("."))


def _listed(file: Path) -> list[str]:
    """The names in an image set, perhaps in quotes; in a class's own set a number says of each whether it is there."""
    refusal = f"{file} can't be read as an image set: it should have an image name a line"
    lines = [line for _, line in text_lines(file, refusal)]
    of_class = all(map(_WHETHER.search, lines))
    names = [listed_name(_WHETHER.sub("", line) if of_class else line).removeprefix("./") for line in lines]
    outside = next((name for name in names if leaves_folder(name)), None)
    if outside is not None:
        raise InputError(
            f"{file} names {outside!r}, which leaves the image folder: it should have an image name a line"
        )
    return names


def without_suffix(name: str) -> str:
    """A name in an image set without the suffix of an image or XML file, which does not belong there."""
    stem, point, suffix = name.rpartition(".")
    return stem if point and f".{suffix.lower()}" in _SUFFIXES else name
