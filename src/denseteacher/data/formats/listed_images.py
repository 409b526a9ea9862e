"""The images that a file of annotations lists: where they are, and how large."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.data.formats.coordinates import as_number
from denseteacher.data.formats.faults import Fault, OnFault
from denseteacher.data.formats.files import TRIED, find_image_folder, sizes_or_errors, usual_places
from denseteacher.data.formats.image_names import ImageIndex, is_file_below, leaves_folder
from denseteacher.errors import InputError

Entry = dict[str, Any]
"""``id``, ``file_name``, and perhaps ``width`` and ``height``, as in a COCO file."""
_LONGEST_SIDE = 1 << 24  # px


class ListedImages(NamedTuple):
    """Images whose files were found."""

    folder: Path
    entries: list[Entry]
    """Entries of images, whose ``file_name`` is below the folder."""


def find_listed(
    path: Path, entries: Sequence[Entry], images: Path | None, fallback: Path | None, on_fault: OnFault
) -> ListedImages:
    """Finds the files of images, and reads the sizes that the file of annotations does not say.

    A name that is not a file of the folder (a path or an address of another machine, of another case, without
    suffix) stands for the only file that it can mean, which its last parts say. Nothing outside of the folder is
    looked for.

    Args:
        path: The file of annotations, for messages and to look near it.
        entries: The images.
        images: Folder of the images, if it is known.
        fallback: Where they are looked for if they are not near the file.
        on_fault: Called for images that are missing or read otherwise than they are named.

    Raises:
        InputError: If there are no images at all in any place, or ``on_fault`` raises.
    """
    folder, index = _folder(path, entries, images, fallback)
    found = _found(path, folder, index, entries, on_fault)
    return ListedImages(folder, with_sizes(path, folder, found, on_fault))


def with_sizes(path: Path, folder: Path, entries: Sequence[Entry], on_fault: OnFault) -> list[Entry]:
    """The images with width and height, read from the headers of their files where their entries have none."""
    unsized = [entry for entry in entries if not _is_sized(entry)]
    sizes = sizes_or_errors((folder / entry["file_name"], None) for entry in unsized)
    read: dict[int, Entry] = {}
    unreadable, said = [], []
    for entry, size in zip(unsized, sizes, strict=True):
        if isinstance(size, InputError):
            unreadable.append(
                Fault("unreadable image", f"{path}: image {entry['id']} has no width and height, and {size}")
            )
            continue
        read[entry["id"]] = entry | {"height": size[0], "width": size[1]}
        sides = f"the width {str(entry.get('width'))[:40]} and the height {str(entry.get('height'))[:40]}"
        message = f"{path}: image {entry['id']} ({entry['file_name']}) has {sides}: its file says how large it is"
        said.append(Fault("size read from the file", message, harmless=True))
    on_fault(unreadable)
    on_fault(said)
    return [
        entry if _is_sized(entry) else read[entry["id"]] for entry in entries if _is_sized(entry) or entry["id"] in read
    ]


def as_side(value: Any) -> int | None:
    """A width or height in pixels, which may be written as text or as 640.0; None where it is none."""
    number = as_number(value)
    return int(number) if number is not None and 1 <= number <= _LONGEST_SIDE and number == int(number) else None


def _is_sized(entry: Entry) -> bool:
    return all(isinstance(entry.get(side), int) and entry[side] >= 1 for side in ("width", "height"))


def _folder(
    path: Path, entries: Sequence[Entry], images: Path | None, fallback: Path | None
) -> tuple[Path, ImageIndex | None]:
    """The folder that has the first images, and its index where there is one of all below it."""
    names = [entry["file_name"] for entry in entries]
    try:
        return find_image_folder(path, images, [name for name in names if not leaves_folder(name)], fallback), None
    except InputError as error:
        for index in _indices(path, images, fallback):
            if any(index.find(name) for name in names[:TRIED]):
                return index.root, index if images is not None else None
        raise error


def _indices(path: Path, images: Path | None, fallback: Path | None) -> Iterator[ImageIndex]:
    if images is not None:
        yield ImageIndex.below(images)
        return
    yield from map(ImageIndex.inside, usual_places(path, None))
    if fallback is not None:
        yield ImageIndex.below(fallback)


def _found(
    path: Path, folder: Path, index: ImageIndex | None, entries: Sequence[Entry], on_fault: OnFault
) -> list[Entry]:
    names = [entry["file_name"] for entry in entries]
    placed: list[str | None] = [name if is_file_below(folder, name) else None for name in names]
    if None in placed:
        # where some lie in the folders that are said, another one does not lie elsewhere
        moved = not any(name is not None and "/" in name for name in placed)
        near = path.absolute().parent
        if index is None:
            large = folder.absolute() in (near, near.parent)
            index = ImageIndex.inside(folder) if large else ImageIndex.below(folder)
        placed = [
            place or index.find(name, moved=moved or leaves_folder(name))
            for place, name in zip(placed, names, strict=True)
        ]
    times = Counter(place for place in placed if place is not None)
    faults: dict[str, list[Fault]] = {}
    kept = []
    for entry, place in zip(entries, placed, strict=True):
        if place == entry["file_name"]:
            kept.append(entry)
            continue
        fault = _name_fault(path, folder, entry["file_name"], place, times)
        faults.setdefault(fault.kind, []).append(fault)
        if fault.harmless:
            kept.append(entry | {"file_name": place})
    for kind in faults.values():
        on_fault(kind)
    return kept


def _name_fault(path: Path, folder: Path, name: str, place: str | None, times: Counter[str]) -> Fault:
    """What to say of a name that is not that of a file."""
    shown = repr(name[:200])
    if place is not None and times[place] == 1:
        message = f"{path}: the image file {shown} is not in {folder}; {place!r} is, and is taken for it"
        return Fault("image found by its base name", message, harmless=True)
    taken = "" if place is None else f", and {place!r}, which it could be, is another image already"
    if leaves_folder(name):
        message = f"leaves the image folder{taken or ', which has not exactly one image of that name'}: it must be a "
        return Fault("file name that leaves the folder", f"{path}: the file_name {shown} {message}plain path inside it")
    return Fault("missing image file", f"{path}: the image file {shown} is not in {folder}{taken}")
