"""Pascal VOC: a devkit with ``ImageSets``, or any folder of VOC's XML files beside their images."""

import contextlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from denseteacher.data.formats.annotations import Annotations, Content
from denseteacher.data.formats.coordinates import share_faults
from denseteacher.data.formats.faults import Fault, OnFault, refuse
from denseteacher.data.formats.files import image_named, is_file
from denseteacher.data.formats.image_names import ImageIndex
from denseteacher.data.formats.voc_folders import (
    first_image_set,
    image_set,
    is_voc,
    part_folder,
    voc_annotations,
    voc_folder,
    voc_images,
    without_suffix,
    xml_names,
)
from denseteacher.data.formats.voc_xml import read_objects, read_xml, stated_size
from denseteacher.data.images import image_size
from denseteacher.errors import InputError
from denseteacher.files import decode_text, read_regular

__all__ = [
    "VOC_CLASSES",
    "first_image_set",
    "image_set",
    "is_voc",
    "read_voc",
    "voc_folder",
    "voc_images",
]

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Class names in the order that everybody numbers them in, which is that of their letters."""
_LARGEST_MAP = 1_000_000  # bytes


def read_voc(
    path: Path, images: Path | None = None, *, subsets: Sequence[str] = (), on_fault: OnFault = refuse
) -> Annotations:
    """Reads a VOC data set.

    Corners are 1-based pixels that belong to the box, so a box begins at ``xmin - 1`` and ends at ``xmax``. All
    objects are read, difficult ones with a mark: VOC's metric passes over those, training does not. The classes are
    those that occur in any part, by their letters: in the published data sets all twenty.

    Args:
        path: A folder such as ``VOCdevkit/VOC2007``, one of its ``ImageSets/Main/NAME.txt``, a folder of XML files, or
            one with such a folder for each part.
        images: Folder of the images; ``JPEGImages`` or ``Images`` beside ``Annotations``, or where the XML files are,
            if not given.
        subsets: Names of image sets, by preference, for a folder that has them; all XML files where it has none.
        on_fault: Called for faults of entries.

    Raises:
        InputError: If there is no such data set.
    """
    part = part_folder(path, subsets)
    folder = part or voc_folder(path)
    annotations, place = voc_annotations(folder), images or voc_images(folder)
    names = None if part is not None else image_set(path, subsets)
    if names is None:
        names = xml_names(annotations)
    if not names:
        raise InputError(f"{path} names no images: {annotations} should hold XML files")
    names = _Names(annotations).of(names)
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    on_fault([Fault("image id twice", f"{path}: the image {name} stands twice in its image set") for name in twice])
    content = _content(annotations, place, list(dict.fromkeys(names)), on_fault)
    on_fault(share_faults(path, [one.pop("corners") for one in content["annotations"]]))
    occurring = {one["name"] for one in content["annotations"]}
    folders = [annotations] if part is None else [path / one.name for one in sorted(path.iterdir())]
    occurring |= _classes_elsewhere(folders, {annotations / f"{name}.xml" for name in names})
    content["categories"] = _categories(folder, occurring)
    ids = {category["name"]: category["id"] for category in content["categories"]}
    for number, one in enumerate(content["annotations"], 1):
        one |= {"id": number, "category_id": ids[one.pop("name")]}
    return Annotations(path, "voc", content, place)


class _Names:
    """Names in image sets, as the XML files below a folder have them."""

    def __init__(self, annotations: Path) -> None:
        self._folder = annotations
        self._by_stem: dict[str, list[str]] | None = None

    def of(self, names: Sequence[str]) -> list[str]:
        return [self._of(name) for name in names]

    def _of(self, name: str) -> str:
        if is_file(self._folder / f"{name}.xml"):
            return name
        plain = without_suffix(name)
        if plain != name and is_file(self._folder / f"{plain}.xml"):
            return plain
        if self._by_stem is None:  # XML files may lie in folders that the sets don't name, or the other way round
            self._by_stem = {}
            for known in xml_names(self._folder):
                self._by_stem.setdefault(known.rpartition("/")[2], []).append(known)
        found = self._by_stem.get(plain.rpartition("/")[2], [])
        return found[0] if len(found) == 1 else name


def _content(annotations: Path, place: Path, names: list[str], on_fault: OnFault) -> Content:
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    finder = _Images(place, on_fault)
    for name in names:
        file = annotations / f"{name}.xml"
        try:
            root = read_xml(file if os.path.lexists(file) else annotations / f"{name}.XML", on_fault)
        except FileNotFoundError:
            on_fault([Fault("missing annotation file", f"there is no annotation file {file}")])
            continue
        except InputError as error:
            on_fault([Fault("unreadable annotation file", str(error))])
            continue
        image = finder.image(root, file, name, len(images) + 1)
        if image is not None:
            images.append(image)
            objects += read_objects(root, file, image["id"], on_fault)
    return {"images": images, "annotations": objects}


class _Images:
    """Finds the images of XML files."""

    def __init__(self, place: Path, on_fault: OnFault) -> None:
        self._place, self._report = place, on_fault
        self._index: ImageIndex | None = None
        self._taken: dict[str, Path] = {}

    def image(self, root: ElementTree.Element, file: Path, name: str, number: int) -> dict[str, Any] | None:
        """The entry of an XML file's image, None where it has a fault."""
        found = image_named(self._place, name) or self._other(file, name, root.findtext("filename") or "")
        if found is None:
            self._report([Fault("missing image file", f"{file}: there is no image {name} in {self._place}")])
            return None
        if found in self._taken:
            said = f"{file}: its image {found} is that of {self._taken[found]} too"
            self._report([Fault("image id twice", said)])
            return None
        size = stated_size(root)
        if size is None:  # as tools write it that do not open the image
            try:
                size = image_size(self._place / found)
            except InputError as error:
                self._report([Fault("unreadable image", str(error))])
                return None
        self._taken[found] = file
        return {"id": number, "file_name": found, "width": size[1], "height": size[0]}

    def _other(self, file: Path, name: str, stated: str) -> str | None:
        """The image that an XML file names, or the only one that is called like it."""
        stated = stated.strip().replace("\\", "/")
        if stated and "/" not in stated and is_file(self._place / stated):
            return stated
        if self._index is None:
            self._index = ImageIndex.below(self._place)
        for meant in (name, stated):
            found = self._index.find(meant) if meant else None
            if found is not None:
                said = f"{file}: its image {meant!r} is read as {self._place / found}"
                self._report([Fault("image found by its name", said, harmless=True)])
                return found
        return None


def _classes_elsewhere(folders: Sequence[Path], read: set[Path]) -> set[str]:
    """Classes in the files of other image sets and parts: a part may lack a rare class that another one has."""
    found: set[str] = set()
    for folder in folders:
        for file in (folder / f"{name}.xml" for name in xml_names(folder)):
            if file not in read and is_file(file):
                with contextlib.suppress(InputError):  # whoever reads that part hears of it
                    root = read_xml(file, lambda _: None)
                    found |= {(one.findtext("name") or "").strip() for one in root.iter("object")}
    return found - {""}


def _categories(folder: Path, names: set[str]) -> list[dict[str, Any]]:
    """The classes of CVAT's ``labelmap.txt``, where it has all names; the names found otherwise."""
    mapped = _label_map(folder / "labelmap.txt")
    ordered = mapped if names and names <= set(mapped) else sorted(names)
    return [{"id": number, "name": name} for number, name in enumerate(ordered, 1)]


def _label_map(file: Path) -> list[str]:
    """First fields of the lines of name:color:parts:actions."""
    if not is_file(file):
        return []
    try:
        lines = decode_text(read_regular(file, _LARGEST_MAP))[0].splitlines()
    except ValueError as error:
        raise InputError(f"{file} can't be read as text: {error}") from error
    names = [line.split(":")[0].strip() for line in lines if not line.startswith("#")]
    return list(dict.fromkeys(name for name in names if name and name != "background"))
