"""Pascal VOC: a devkit with ``ImageSets``, or any folder of VOC's XML files beside their images."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from denseteacher.data.formats.annotations import Annotations, Content, Fault, Report, refuse
from denseteacher.data.formats.files import image_named, text_lines
from denseteacher.data.images import image_size
from denseteacher.errors import InputError

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""In the order that everybody numbers them in."""
_SETS = Path("ImageSets") / "Main"
_WHETHER = re.compile(r"\s+-?[01]$")
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def is_voc(path: Path) -> bool:
    """Whether a path looks like a VOC data set: its folder, a devkit with one such, or an image set of it."""
    if path.is_file():
        return path.suffix == ".txt" and path.parent.parent.name == "ImageSets"
    # not (path / "Annotations").is_dir(), which COCO's "annotations" is too where case does not count
    return bool(_years(path)) or _is_year(path) or any(path.glob("*.xml")) or any(path.glob("Annotations/*.xml"))


def read_voc(
    path: Path, images: Path | None = None, *, subsets: Sequence[str] = (), report: Report = refuse
) -> Annotations:
    """Reads a VOC data set.

    Corners are 1-based pixels that belong to the box, so a box begins at ``xmin - 1`` and ends at ``xmax``. All
    objects are read, difficult ones with a mark: VOC's metric passes over those, training does not.

    Args:
        path: A folder such as ``VOCdevkit/VOC2007``, one of its ``ImageSets/Main/NAME.txt``, or a folder of XML files.
        images: Folder of the images; ``JPEGImages`` beside ``Annotations``, or where the XML files are, if not given.
        subsets: Names of image sets, by preference, for a folder that has them; all XML files where it has none.
        report: Told about faults of entries.

    Raises:
        InputError: If there is no such data set.
    """
    folder = voc_folder(path)
    annotations = folder / "Annotations" if (folder / "Annotations").is_dir() else folder
    place = images or voc_images(folder)
    names = image_set(path, subsets)
    if names is None:
        names = sorted(file.stem for file in annotations.glob("*.xml"))
    if not names:
        raise InputError(f"{path} names no images: {annotations} should hold XML files")
    twice = sorted(name for name, times in Counter(names).items() if times > 1)
    report([Fault("image id twice", f"{path}: the image {name} stands twice in its image set") for name in twice])
    content = _content(annotations, place, list(dict.fromkeys(names)), report)
    content["categories"] = _categories(folder, {one["name"] for one in content["annotations"]})
    ids = {category["name"]: category["id"] for category in content["categories"]}
    for number, one in enumerate(content["annotations"], 1):
        one |= {"id": number, "category_id": ids[one.pop("name")]}
    return Annotations(path, "voc", content, place)


def voc_folder(path: Path) -> Path:
    """The folder with ``Annotations`` or ``JPEGImages`` that a path is about.

    Raises:
        InputError: If there are several.
    """
    if path.is_file():
        if not is_voc(path):
            raise InputError(f"{path} is no image set of VOC: name the folder with Annotations and JPEGImages")
        return path.parents[2]
    years = [] if (path / "Annotations").is_dir() else _years(path)
    if len(years) > 1:
        raise InputError(f"{path} holds {' and '.join(year.name for year in years)}: name one of them")
    return years[0] if years else path


def voc_images(folder: Path) -> Path:
    """Where the images of a VOC folder lie: in ``JPEGImages``, or beside the XML files."""
    return folder / "JPEGImages" if (folder / "JPEGImages").is_dir() else folder


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
    sets = voc_folder(path) / _SETS
    if not sets.is_dir():
        if len(subsets) == 1:  # as the user asked for
            raise InputError(f"{path} has no ImageSets/Main, so no image set {subsets[0]}: leave out --subset")
        return None
    found = first_image_set(path, subsets)
    if found is not None:
        return _listed(sets / f"{found}.txt")
    known = ", ".join(sorted(file.stem for file in sets.glob("*.txt") if "_" not in file.stem)) or "none"
    raise InputError(
        f"{sets} has no image set {' or '.join(subsets)}: it has {known}; choose one with --subset or "
        "--val-subset, or name its file"
    )


def first_image_set(path: Path, subsets: Sequence[str]) -> str | None:
    """The first of these image sets that a folder has."""
    sets = voc_folder(path) / _SETS
    return next((subset for subset in subsets if (sets / f"{subset}.txt").is_file()), None)


def _years(path: Path) -> list[Path]:
    return sorted(
        folder for place in ("", "VOCdevkit/") for folder in path.glob(f"{place}VOC[0-9]*") if _is_year(folder)
    )


def _is_year(folder: Path) -> bool:
    return (folder / "JPEGImages").is_dir()


def _listed(file: Path) -> list[str]:
    """The names in an image set, perhaps in quotes; in a class's own set a number says of each whether it is there."""
    refusal = f"{file} can't be read as an image set: it should have an image name a line"
    lines = [line for _, line in text_lines(file, refusal)]
    of_class = all(map(_WHETHER.search, lines))
    names = [(_WHETHER.sub("", line) if of_class else line).strip('"') for line in lines]
    outside = next((name for name in names if name.startswith("/") or ".." in name.split("/")), None)
    if outside is not None:
        raise InputError(
            f"{file} names {outside!r}, which leaves the image folder: it should have an image name a line"
        )
    return names


def _content(annotations: Path, place: Path, names: list[str], report: Report) -> Content:
    images: list[dict[str, Any]] = []
    objects: list[dict[str, Any]] = []
    for name in names:
        file = annotations / f"{name}.xml"
        try:
            root = ElementTree.parse(file).getroot()
        except FileNotFoundError:
            report([Fault("missing annotation file", f"there is no annotation file {file}")])
            continue
        except (OSError, ElementTree.ParseError, ValueError) as error:
            report([Fault("unreadable annotation file", f"{file} can't be read as XML: {error}")])
            continue
        image = _image(root, file, place, name, len(images) + 1, report)
        if image is not None:
            images.append(image)
            objects += _objects(root, file, image["id"], report)
    return {"images": images, "annotations": objects}


def _image(
    root: ElementTree.Element, file: Path, place: Path, name: str, number: int, report: Report
) -> dict[str, Any] | None:
    """The image of an XML file: the one that is named like the file, or the one that the file names."""
    named = root.findtext("filename") or ""
    found = image_named(place, name)
    if found is None and "/" not in named and "\\" not in named and (place / named).is_file():
        found = named
    if found is None:
        report([Fault("missing image file", f"{file}: there is no image {name} in {place}")])
        return None
    try:
        width, height = (int(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
    except ValueError:
        width = height = 0
    if width < 1 or height < 1:  # as tools write it that do not open the image
        try:
            height, width = image_size(place / found)
        except InputError as error:
            report([Fault("unreadable image", str(error))])
            return None
    return {"id": number, "file_name": found, "width": width, "height": height}


def _objects(root: ElementTree.Element, file: Path, image: int, report: Report) -> list[dict[str, Any]]:
    found = []
    for number, element in enumerate(root.iter("object"), 1):
        source = f"{file}, object {number}"
        name = (element.findtext("name") or "").strip()
        try:
            left, top, right, bottom = corners = [float(element.findtext(f"bndbox/{side}") or "") for side in _SIDES]
        except ValueError:
            corners = [math.nan]
        if not all(map(math.isfinite, corners)):
            report([Fault("box of no four numbers", f"{source} needs a bndbox with the numbers {', '.join(_SIDES)}")])
            continue
        if not name:
            report([Fault("annotation entry", f"{source} has no name")])
            continue
        found.append(
            {
                "image_id": image,
                "name": name,
                "bbox": [left - 1, top - 1, right - left + 1, bottom - top + 1],
                "iscrowd": 0,
                "difficult": int((element.findtext("difficult") or "0").strip() == "1"),
                "source": source,
            }
        )
    return found


def _categories(folder: Path, names: set[str]) -> list[dict[str, Any]]:
    """The classes of CVAT's ``labelmap.txt``; VOC's twenty where no other is there; the names found otherwise."""
    mapped = _label_map(folder / "labelmap.txt")
    ordered = next((known for known in (mapped, VOC_CLASSES) if names and names <= set(known)), sorted(names))
    return [{"id": number, "name": name} for number, name in enumerate(ordered, 1)]


def _label_map(file: Path) -> list[str]:
    """First fields of the lines of name:color:parts:actions."""
    lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines() if file.is_file() else []
    names = [line.split(":")[0].strip() for line in lines if not line.startswith("#")]
    return [name for name in names if name and name != "background"]
