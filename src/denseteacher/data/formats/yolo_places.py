"""Where the images and text files of a YOLO data set lie: as a ``data.yaml`` or ``obj.data`` says, or in folders."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.data.formats.faults import Fault, OnFault
from denseteacher.data.formats.files import (
    child_folder,
    image_named,
    images_below,
    is_file,
    is_folder,
    listed_name,
    text_lines,
)
from denseteacher.data.formats.image_names import ImageIndex
from denseteacher.data.formats.yolo_description import (
    PARTS,
    Description,
    data_in,
    describe,
    endings,
    lines_of,
    yamls_in,
)
from denseteacher.data.formats.yolo_lines import Classes
from denseteacher.data.images import IMAGE_SUFFIXES
from denseteacher.errors import InputError

_NAME_FILES = ("classes.txt", "obj.names", "labels.txt", "_darknet.labels")
_LOOKED_AT = 1000  # text files that may be beside an image of their name
_LABEL_FOLDERS = {"images": "labels", "image": "label", "jpegimages": "labels"}


class Source(NamedTuple):
    """The images of a part of a data set, the text file of each, and what is in those."""

    images: list[Path]
    labels: list[Path]
    classes: Classes


def is_yolo(path: Path) -> bool:
    """Whether a path looks like a YOLO data set."""
    if path.is_file():
        return path.suffix.lower() in (".yaml", ".yml", ".data")
    if path.name.lower() == "labels" and any(path.glob("*.txt")):
        return True
    if yamls_in(path) or data_in(path) is not None or child_folder(path, "labels") is not None:
        return True
    return any(child_folder(path / part, "labels") is not None for part in PARTS) or _has_label_files(path)


def find_images(path: Path, images: Path | None, subsets: Sequence[str], on_fault: OnFault) -> Source:
    """The images that a path stands for.

    Args:
        path: As in ``read_yolo``.
        images: As there.
        subsets: As there.
        on_fault: Called for faults of entries.

    Raises:
        InputError: If nothing says where they are, or there are none.
    """
    described = describe(path)
    if described is not None:
        source = _of_description(described, images, subsets, on_fault)
    else:
        source = _of_folders(path, images, subsets)
    if not source.images:
        suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
        raise InputError(f"{path} holds or names no images ({suffixes}): give their folder with --images DIR")
    names = source.classes.names
    twice = [name for name, times in Counter(names or []).items() if times > 1]
    if twice:
        raise InputError(f"{path}: two classes have the name {twice[0]!r}: give each class a name of its own")
    if names is None:
        said = f"{path}: no file says what the classes are called, so they are called by their numbers"
        on_fault([Fault("classes without names", said, harmless=True)])
    return source


def _of_description(described: Description, images: Path | None, subsets: Sequence[str], on_fault: OnFault) -> Source:
    file, parts = described.file, described.parts
    subset = next((key for key in subsets if parts.get(key)), None)
    if subset is None:
        known = ", ".join(key for key in PARTS if parts.get(key)) or "none"
        raise InputError(
            f"{file} has no {' or '.join(subsets)}: it has {known}; choose one with --subset or --val-subset"
        )
    if described.classes.keypoints is not None:
        said = f"{file}: 'kpt_shape' says that keypoints follow the boxes; they are left out"
        on_fault([Fault("keypoints", said, harmless=True)])
    places = _Places(file, described.base, images, on_fault)
    found: list[Path] = []
    labels: list[Path] = []
    for place in parts[subset]:
        for image, label in places.images_of(listed_name(place)):
            found.append(image)
            labels.append(label)
    return Source(found, labels, described.classes)


class _Places:
    """The places that a description names, which lie below its own folder or the one of ``--images``."""

    def __init__(self, file: Path, base: str, images: Path | None, on_fault: OnFault) -> None:
        self._file, self._report = file, on_fault
        # not resolve(): a symbolic link that lies in the folder is followed, and 'labels' is beside the link
        self._allowed = [Path(os.path.abspath(one)) for one in (images, file.parent) if one is not None]  # noqa: PTH100
        below = [Path(os.path.normpath(self._allowed[-1] / listed_name(base)))]
        self._roots = list(dict.fromkeys([*self._allowed[:-1], *below, self._allowed[-1]]))
        self._index: ImageIndex | None = None

    def images_of(self, place: str) -> Iterator[tuple[Path, Path]]:
        """The images of a folder or list, each with its text file."""
        found = self._find(place, os.path.exists)
        if found is None:
            places = " or ".join(dict.fromkeys(map(str, self._allowed)))
            raise InputError(f"{self._file} names {place!r}, which is neither a folder nor a list in {places}")
        if found.is_dir():
            for image in images_below(found):
                yield image, self._label_of(image, image.relative_to(found).as_posix())
            return
        for _, line in text_lines(found, f"{found} can't be read as a list of images"):
            name = listed_name(line)
            image = self._listed(found, name)
            yield image, self._label_of(image, name)

    def _is_allowed(self, path: Path) -> bool:
        return any(path.is_relative_to(root) for root in self._allowed)

    def _find(self, place: str, exists: Any) -> Path | None:
        """What a place means: as it stands; as Roboflow writes it, ``../train`` for ``train``; or by its last parts.

        Raises:
            InputError: If it stands for what lies elsewhere.
        """
        candidates = [Path(os.path.normpath(root / place)) for root in self._roots]
        climbing = place
        while climbing.startswith("../"):
            climbing = climbing.removeprefix("../")
            candidates.append(self._allowed[-1] / climbing)
        inside = next((one for one in candidates if self._is_allowed(one) and exists(one)), None)
        if inside is not None:
            return inside
        outside = next((one for one in candidates if not self._is_allowed(one) and exists(one)), None)
        if outside is not None:
            raise InputError(
                f"{self._file} names {place!r}, which is {outside}, outside of its folder {self._allowed[-1]}: if you "
                f"mean that, say so with --images {outside if outside.is_dir() else outside.parent}"
            )
        for parts in endings(place):
            for root in self._roots:
                moved = root.joinpath(*parts)
                if self._is_allowed(moved) and exists(moved):
                    said = f"{self._file}: {place!r} is not on this machine and read as {moved}"
                    self._report([Fault("place on another machine", said, harmless=True)])
                    return moved
        return None

    def _listed(self, listing: Path, name: str) -> Path:
        """The image that a line of a list stands for, which may be missing."""
        roots = [*self._roots, listing.parent]
        candidates = [Path(os.path.normpath(root / name)) for root in roots]
        inside = next((one for one in candidates if self._is_allowed(one) and is_file(one)), None)
        if inside is not None:
            return inside
        if self._index is None:
            self._index = ImageIndex.below(self._allowed[0])
        found = self._index.find(name)
        if found is not None:
            image = self._index.root / found
            said = f"{listing}: {name!r} is read as {image}, found by its name"
            self._report([Fault("image found by its name", said, harmless=True)])
            return image
        if any(is_file(one) for one in candidates):
            raise InputError(
                f"{listing} names {name!r}, which leaves the folder {self._allowed[-1]}: give the images' folder with "
                "--images DIR"
            )
        return candidates[-1] if self._is_allowed(candidates[-1]) else self._allowed[-1] / Path(name).name

    def _label_of(self, image: Path, name: str) -> Path:
        """The text file of an image: near it, or near where the description's own folder would have it."""
        near = label_file(image)
        if os.path.lexists(near):
            return near
        for parts in endings(name):
            for root in self._roots:
                for place in (root, root / "labels"):
                    label = label_file(place.joinpath(*parts))
                    if self._is_allowed(label) and os.path.lexists(label):
                        return label
        return near


def label_file(image: Path) -> Path:
    """Where an image's text file is: beside the image, or below ``labels`` in place of the last ``images``."""
    beside = image.with_suffix(".txt")
    if os.path.lexists(beside):
        return beside
    parts = list(beside.parts)
    position = next((at for at in range(len(parts) - 2, -1, -1) if parts[at].lower() in _LABEL_FOLDERS), None)
    if position is None:
        return beside
    folder = _LABEL_FOLDERS[parts[position].lower()]
    above = Path(*parts[:position])
    for name in (folder, folder.capitalize(), folder.upper()):
        if is_folder(above / name):
            folder = name
            break
    return Path(above, folder, *parts[position + 1 :])


def _of_folders(path: Path, images: Path | None, subsets: Sequence[str]) -> Source:
    labels = child_folder(path, "labels")
    inside = child_folder(path, "images") if labels is not None else None
    chosen = next((subset for subset in subsets if child_folder(path / subset, "labels") is not None), None)
    if labels is None and images is None and chosen is not None:  # train/images, train/labels
        folder = path / chosen
        return _beside(images_below(child_folder(folder, "images") or folder), _names_near(path, folder))
    folder = images or inside or path
    chosen = next((subset for subset in subsets if is_folder(folder / subset)), None)
    if chosen is None and len(subsets) == 1:  # as the user asked for
        raise InputError(f"{path} has no part {subsets[0]!r}: there is no folder {folder / subsets[0]}")
    found = images_below(folder / chosen if chosen is not None else folder)
    names = _names_near(path, labels or path, folder)
    if images is None:
        return _beside(found, names)
    # the images are elsewhere, and the text files below the path
    texts = labels or path
    files = [(texts / os.path.relpath(image, images)).with_suffix(".txt") for image in found]
    return Source(found, files, Classes(names))


def _beside(images: list[Path], names: list[str] | None) -> Source:
    return Source(images, [label_file(image) for image in images], Classes(names))


def _has_label_files(folder: Path) -> bool:
    """Whether there are text files beside images of the same name."""
    texts = (file for file in folder.glob("*.txt") if file.name not in _NAME_FILES)
    return any(image_named(folder, file.stem) is not None for file in islice(texts, _LOOKED_AT))


def _names_near(*folders: Path) -> list[str] | None:
    files = [folder / name for folder in folders for name in _NAME_FILES]
    files.append(folders[0].parent / "obj.names")  # beside Darknet's obj_train_data
    return next((lines_of(file) for file in files if is_file(file)), None)
