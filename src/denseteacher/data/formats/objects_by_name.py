"""Objects that carry the name of their class, made into annotations as in a COCO file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.data.choices import Format
from denseteacher.data.formats.annotations import Annotations
from denseteacher.data.formats.coordinates import is_number, share_faults
from denseteacher.data.formats.faults import Fault, OnFault
from denseteacher.data.formats.listed_images import Entry, find_listed
from denseteacher.errors import InputError


class NamedObject(NamedTuple):
    """One object of an image."""

    image: int
    """Id of its image."""
    label: str
    """Name of its class."""
    box: Sequence[float]
    """x, y, width, height in pixels."""
    source: str
    """The entry, as a message names it."""
    difficult: bool = False


def named_annotations(
    path: Path,
    format: Format,
    entries: Sequence[Entry],
    objects: Sequence[NamedObject],
    *,
    classes: Sequence[str] = (),
    images: Path | None,
    fallback: Path | None,
    on_fault: OnFault,
) -> Annotations:
    """A data set of which the image files are found and the classes numbered from 1.

    Args:
        path: As the user named it.
        format: What it was read from.
        entries: The images; see ``find_listed``.
        objects: Their objects.
        classes: The classes in the order of the data set; those it does not name follow by name.
        images: Folder of the images; found near ``path`` if not given.
        fallback: Where they are looked for if they are not near it.
        on_fault: Called for faults of entries.

    Raises:
        InputError: If there are no images, or ``on_fault`` raises.
    """
    if not entries:
        raise InputError(f"{path} lists no images")
    sound = [one for one in objects if one.label.strip() and len(one.box) == 4 and all(map(is_number, one.box))]
    others = [one for one in objects if not one.label.strip()]
    on_fault([Fault("annotation entry", f"{one.source} has no label") for one in others])
    wrong = [one for one in objects if one.label.strip() and not (len(one.box) == 4 and all(map(is_number, one.box)))]
    on_fault(
        [Fault("box of no four numbers", f"{one.source} needs numbers of pixels for its corners") for one in wrong]
    )
    folder, found = find_listed(path, entries, images, fallback, on_fault)
    kept = {entry["id"] for entry in found}
    sound = [one for one in sound if one.image in kept]
    on_fault(share_faults(path, [one.box for one in sound]))
    names = list(dict.fromkeys([*classes, *sorted({one.label for one in sound})]))
    numbers = {name: number for number, name in enumerate(names, 1)}
    content: dict[str, Any] = {
        "images": found,
        "annotations": [_annotation(number, one, numbers) for number, one in enumerate(sound, 1)],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }
    if not names:
        raise InputError(f"{path} names no classes: none of its {len(entries):,} images has an object with a box")
    return Annotations(path, format, content, folder)


def _annotation(number: int, one: NamedObject, numbers: dict[str, int]) -> dict[str, Any]:
    x, y, width, height = one.box
    annotation: dict[str, Any] = {
        "id": number,
        "image_id": one.image,
        "category_id": numbers[one.label],
        "bbox": [x, y, width, height],
        "iscrowd": 0,
        "source": one.source,
    }
    return annotation | ({"difficult": 1} if one.difficult else {})
