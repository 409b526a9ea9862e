"""Entries of a COCO JSON as the standard has them, from what tools write: ids as text, masks without boxes, flags."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.data.formats.coordinates import as_number, is_number
from denseteacher.data.formats.faults import Fault, OnFault, brief
from denseteacher.data.formats.listed_images import Entry, as_side
from denseteacher.data.formats.outlines import Box, box_of_segmentation, box_of_turned

_WHOLE = re.compile(r"\s*[+-]?[0-9]{1,15}\s*")
_LARGEST_ID = 1 << 53
_FLAGS = {"": 0, "0": 0, "false": 0, "no": 0, "0.0": 0, "1": 1, "true": 1, "yes": 1, "1.0": 1}
_NAME_KEYS = ("file_name", "filename", "path", "coco_url")


class Ids:
    """Whole numbers for the ids of one kind of entry, however these are written."""

    def __init__(self, values: Iterable[Any]) -> None:
        """Numbers all in their order where one of them is a text that is not a whole number."""
        known = [plain for plain in map(_plain_id, values) if plain is not None]
        self._numbers: dict[int | str, int] | None = None
        if any(isinstance(one, str) for one in known):
            self._numbers = {one: number for number, one in enumerate(dict.fromkeys(known), 1)}

    @property
    def counted(self) -> bool:
        """Whether the numbers are places in the order, and not the ids."""
        return self._numbers is not None

    def number(self, value: Any) -> int | None:
        """The number of an id; None where it is none."""
        if type(value) is int and self._numbers is None and abs(value) < _LARGEST_ID:
            return value  # as nearly all are
        plain = _plain_id(value)
        if self._numbers is not None:
            return None if plain is None else self._numbers.get(plain)
        return plain if isinstance(plain, int) else None


def _plain_id(value: Any) -> int | str | None:
    if isinstance(value, str):
        return int(value) if _WHOLE.fullmatch(value) else value or None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float):
        return int(value) if abs(value) < _LARGEST_ID and value.is_integer() else None
    return value if abs(value) < _LARGEST_ID else f"{value:x}"


def as_flag(value: Any) -> int | None:
    """0 or 1 of what may be a number, a bool, a text or nothing; None where it is something else."""
    if value is None:
        return 0
    return _FLAGS.get(str(value).strip().lower()) if isinstance(value, bool | int | float | str) else None


def sound_images(path: Path, images: Sequence[Any], on_fault: OnFault) -> tuple[list[Entry], Ids]:
    """The images with a whole-number id and a name with plain slashes, and their ids.

    A width or height that is not a size is left out.
    """
    ids = Ids(image.get("id") for image in images if isinstance(image, dict))
    faults, sound = [], []
    for image in images:
        name = _name(image) if isinstance(image, dict) else None
        number = ids.number(image.get("id")) if isinstance(image, dict) else None
        if name is None or number is None:
            faults.append(Fault("image entry", f"{path}: an image needs an id and a file_name, not {brief(image)}"))
            continue
        sides = {side: as_side(image.get(side)) for side in ("width", "height")}
        if (
            image.get("file_name") is name
            and image["id"] is number
            and all(image.get(side) is sides[side] for side in sides)
        ):
            sound.append(image)
        else:
            sound.append(image | {"id": number, "file_name": name} | sides)
    on_fault(faults)
    _say_numbered(path, "image", ids, images, on_fault)
    return _unique(path, "image", sound, on_fault), ids


def _name(image: Mapping[str, Any]) -> str | None:
    found = next((image[key] for key in _NAME_KEYS if isinstance(image.get(key), str) and image[key]), None)
    return found.replace("\\", "/") if found is not None and "\\" in found else found


def sound_categories(path: Path, categories: Sequence[Any], on_fault: OnFault) -> tuple[list[Entry], Ids]:
    """The classes with a whole-number id and a name, and their ids."""
    ids = Ids(category.get("id") for category in categories if isinstance(category, dict))
    faults, sound = [], []
    for category in categories:
        number = ids.number(category.get("id")) if isinstance(category, dict) else None
        name = category.get("name") if isinstance(category, dict) else None
        if number is None or not (isinstance(name, str) or is_number(name)):
            message = f"{path}: the category {brief(category)} needs an id and a name"
            faults.append(Fault("category entry", message))
        else:
            sound.append(category | {"id": number, "name": name if isinstance(name, str) else str(name)})
    on_fault(faults)
    _say_numbered(path, "category", ids, categories, on_fault)
    return _unique(path, "category", sound, on_fault), ids


def _say_numbered(path: Path, kind: str, ids: Ids, entries: Sequence[Any], on_fault: OnFault) -> None:
    if ids.counted:
        first = next(
            entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(_plain_id(entry.get("id")), str)
        )
        message = f"{path}: the {kind} id {brief(first)} is not a number: they are numbered in their order, from 1"
        on_fault([Fault(f"{kind} id that is not a number", message, harmless=True)])


def _unique(path: Path, kind: str, entries: list[Entry], on_fault: OnFault) -> list[Entry]:
    """The first entry of each id."""
    first = {entry["id"]: entry for entry in reversed(entries)}
    twice = {entry["id"] for entry in entries if first[entry["id"]] is not entry}
    on_fault([Fault(f"{kind} id twice", f"{path}: {kind} id {id_} stands twice") for id_ in sorted(twice)])
    return [entry for entry in entries if first[entry["id"]] is entry]


class Known(NamedTuple):
    """What annotations may refer to."""

    images: Mapping[int, str]
    """Names by id."""
    dropped: set[int]
    """Ids of images that are left out: their annotations go without a word."""
    categories: set[int]
    image_ids: Ids
    category_ids: Ids


def sound_annotations(path: Path, annotations: Sequence[Any], known: Known, on_fault: OnFault) -> list[Entry]:
    """The annotations without a fault, each with listed ids, four numbers as ``bbox``, and ``iscrowd`` 0 or 1."""
    faults: dict[str, list[Fault]] = {}
    sound = []
    for one in annotations:
        if known.dropped and isinstance(one, dict) and known.image_ids.number(one.get("image_id")) in known.dropped:
            continue
        entry, found = _sound_annotation(one, known)
        if entry is not None:
            sound.append(entry)
        for fault in found:
            faults.setdefault(fault.kind, []).append(
                fault._replace(message=f"{_called(path, one, known)} {fault.message}")
            )
    for kind in faults.values():
        on_fault(kind)
    return sound


def _called(path: Path, one: Any, known: Known) -> str:
    if not isinstance(one, dict):
        return f"{path}: annotation {brief(one)}"
    image = known.image_ids.number(one.get("image_id"))
    named = f" of {known.images[image]}" if image is not None and image in known.images else ""
    return f"{path}: annotation {brief(one.get('id'))}{named}"


def _sound_annotation(one: Any, known: Known) -> tuple[Entry | None, list[Fault]]:
    """An annotation as the standard has it, None where that can't be; and what is to be said of it."""
    if not isinstance(one, dict) or not {"image_id", "category_id"} <= one.keys():
        return None, [Fault("annotation entry", "needs image_id, category_id and bbox")]
    image, category = known.image_ids.number(one["image_id"]), known.category_ids.number(one["category_id"])
    if image is None or image not in known.images:
        return None, [Fault("annotation of no image", f"is of image {brief(one['image_id'])}, which is not listed")]
    if category is None or category not in known.categories:
        listed = sorted(known.categories)[:20]
        message = f"has the unknown category {brief(one['category_id'])}; known: {listed}"
        return None, [Fault("unknown category", message)]
    box, said = _box(one)
    if box is None:
        return None, said
    box, straight = _straightened(one, box, said)
    crowd = as_flag(one.get("iscrowd"))
    if crowd is None:
        return None, [Fault("annotation entry", f"has the iscrowd {brief(one['iscrowd'])}, where 0 or 1 is needed")]
    if isinstance(one.get("iscrowd"), str | bool):
        message = f"has the iscrowd {brief(one['iscrowd'])}, which is read as {crowd}"
        said.append(Fault("iscrowd that is not a number", message, harmless=True))
    needed = {"image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
    return _tidied(one, needed | straight), said


def _straightened(one: Entry, box: Box, said: list[Fault]) -> tuple[Box, Entry]:
    """The box around one that CVAT has written before it is turned, and what the annotation has instead of the turn."""
    attributes = one.get("attributes")
    attributes = attributes if isinstance(attributes, dict) else {}
    degrees = as_number(attributes.get("rotation"))
    if not degrees or not one.get("bbox"):
        return box, {}
    x, y, width, height = box
    around = box_of_turned((x + width / 2, y + height / 2), (width, height), degrees)
    said.append(Fault("turned box", f"is turned by {degrees:g} degrees: the box around it is read", harmless=True))
    return around, {"attributes": attributes | {"rotation": 0.0}}  # it may be written, and read once more


def _tidied(one: Entry, needed: Entry) -> Entry:
    """An annotation of which nothing else can disturb what is measured."""
    if "area" in one:
        area = as_number(one["area"])
        needed["area"] = area if area is not None and area >= 0 else None
    if "difficult" in one:
        needed["difficult"] = as_flag(one["difficult"]) or 0
    if (
        all(one.get(key) is value for key, value in needed.items())
        and type(one.get("id", 0)) is int
        and "source" not in one
    ):
        return one
    entry = one | needed
    entry.pop("source", None)  # it would be taken for the name of a file
    number = _plain_id(one.get("id"))
    if isinstance(number, int):
        entry["id"] = number
    else:
        entry.pop("id", None)
    return entry


def _box(one: Entry) -> tuple[Box | None, list[Fault]]:
    """Four numbers: those of ``bbox``, or the box around ``segmentation`` where there is none."""
    box = one.get("bbox")
    if isinstance(box, list) and len(box) == 4:
        if all(map(is_number, box)):
            return box, []
        numbers = [number for number in map(as_number, box) if number is not None]
        if len(numbers) == 4:
            message = f"has the bbox {brief(box)} in text, which is read as numbers"
            return numbers, [Fault("box of text", message, harmless=True)]
    elif not box:
        around = box_of_segmentation(one.get("segmentation"))
        if around is not None and all(map(is_number, around)):
            return around, [
                Fault("box from an outline", "has no bbox: it is the box around its segmentation", harmless=True)
            ]
        if "bbox" not in one:
            return None, [Fault("annotation entry", "needs image_id, category_id and bbox")]
    return None, [Fault("box of no four numbers", f"has the bbox {brief(box)}, where [x, y, width, height] is needed")]
