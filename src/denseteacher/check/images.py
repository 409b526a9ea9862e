"""What is wrong with the images: files that can't be read, sizes, and the same image twice."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from denseteacher.check.data import CheckedData
from denseteacher.check.findings import Finding, Severity, Subset, finding
from denseteacher.data.bit_depth import is_deep
from denseteacher.data.formats import Fault
from denseteacher.data.formats.files import is_image
from denseteacher.data.images import is_turned, open_image, orientation, read_content
from denseteacher.data.objects import image_sizes
from denseteacher.data.records import ImageRecord
from denseteacher.errors import InputError

_UNUSUAL = 16.0  # times the area of the middle image
_SEVERITY: dict[str, tuple[Severity, str]] = {
    "unreadable image": ("error", ""),
    "damaged image": ("error", ""),
    "image of another size than declared": ("error", ""),
    "image of more than 8 bits a channel": ("info", "each is scaled by the range of its own values"),
    "image that is turned only in viewers": (
        "warning",
        "its boxes fit the pixels as stored, so training leaves them so; store such images upright",
    ),
}

_MEANING: dict[tuple[Subset, Subset], tuple[Severity, str]] = {
    ("labeled", "validation"): ("error", "AP would be measured on images that were trained on: take them out of one"),
    ("unlabeled", "validation"): ("warning", "training would see the images that it is measured on"),
    ("labeled", "unlabeled"): ("warning", "the teacher would label images that have labels; harmless, but no gain"),
}


class Inspection(NamedTuple):
    """What became of one file."""

    digest: bytes | None
    """Digest of its bytes; None where it is not a sound image."""
    fault: Fault | None


def inspect_images(images: Sequence[ImageRecord]) -> list[Inspection]:
    """Reads, hashes and decodes files; the decoders leave the interpreter to other threads meanwhile."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_inspect, images))


def _inspect(record: ImageRecord) -> Inspection:
    try:
        content = read_content(record.path, record.member)
        image = open_image(record.path, record.member, content)
    except InputError as error:
        return Inspection(None, Fault("unreadable image", str(error)))
    except OSError as error:
        return Inspection(None, Fault("unreadable image", f"{record.name} can't be read ({error.strerror})"))
    digest = hashlib.blake2b(content, digest_size=16).digest()
    deep = is_deep(image)
    try:
        turned = is_turned(image, record.name, (record.height, record.width))
    except InputError as error:
        return Inspection(digest, Fault("image of another size than declared", str(error)))
    fault = None
    if deep:
        fault = Fault("image of more than 8 bits a channel", record.name)
    if not turned and orientation(image) != 1:
        size = f"{record.width} x {record.height}"
        fault = Fault("image that is turned only in viewers", f"{record.name}: its annotation says {size}, as stored")
    try:
        # a JPEG's data are all read, but an eighth of the pixels is enough to see that they are there
        image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
    except Exception as error:  # Pillow's decoders raise whatever their format's parser meets
        return Inspection(None, Fault("damaged image", f"{record.name} can't be decoded ({error})"))
    return Inspection(digest, fault)


def file_findings(inspections: Sequence[Inspection], subset: Subset) -> list[Finding]:
    """What is wrong with the files of a subset."""
    messages: dict[str, list[str]] = {kind: [] for kind in _SEVERITY}
    for inspection in inspections:
        if inspection.fault is not None:
            messages[inspection.fault.kind].append(inspection.fault.message)
    return [
        one
        for kind, (severity, meaning) in _SEVERITY.items()
        for one in finding(severity, kind, subset, messages[kind], meaning)
    ]


def size_findings(images: Sequence[ImageRecord], subset: Subset) -> list[Finding]:
    """Images much smaller or larger than the middle one."""
    areas = image_sizes(images).prod(axis=1)
    middle = float(np.median(areas)) if len(areas) else 0.0
    findings = []
    for kind, unusual in (("small", areas * _UNUSUAL < middle), ("large", areas > middle * _UNUSUAL)):
        examples = [
            f"{images[index].name}: {images[index].width} x {images[index].height}"
            for index in np.flatnonzero(unusual).tolist()
        ]
        findings += finding("info", f"unusually {kind} image", subset, examples, "beside the middle one of the subset")
    return findings


def unlisted_findings(checked: CheckedData) -> list[Finding]:
    """Image files beside the labeled ones that no subset names."""
    listed = {str(image.path) for _, images in checked.images() for image in images}
    folders = sorted({image.path.parent for image in checked.labeled.images})
    found = [
        entry.path
        for folder in folders
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name)
        if is_image(entry.name) and entry.path not in listed
    ]
    return finding("info", "image file without an entry", "labeled", found, "unlabeled? then --unlabeled takes them")


class Identities(NamedTuple):
    """What tells the images of a subset apart. Lists run in parallel."""

    images: Sequence[ImageRecord]
    places: list[str]
    """The files, symbolic links resolved."""
    digests: Sequence[bytes | None]
    """Digests of their contents; None where they are not known."""


def identify(images: Sequence[ImageRecord], digests: Sequence[bytes | None] | None = None) -> Identities:
    """Resolves the files of a subset; of links only those of the files' folders and of files that are links."""
    folders: dict[str, str] = {}
    places = []
    for image in images:
        file = os.fspath(image.path)
        folder, name = os.path.split(file)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        place = os.path.realpath(file) if os.path.islink(file) else os.path.join(folders[folder], name)  # noqa: PTH114, PTH118
        places.append(place if image.member is None else f"{place}, {image.member.name}")
    return Identities(images, places, [None] * len(places) if digests is None else digests)


def duplicate_findings(subsets: Mapping[Subset, Identities]) -> list[Finding]:
    """Files that a subset lists twice or has twice, and images that two subsets share."""
    findings = [one for subset, identities in subsets.items() for one in _inside(identities, subset)]
    for (first, second), (severity, meaning) in _MEANING.items():
        if first in subsets and second in subsets:
            by_place, by_content = _shared(subsets[first], subsets[second])
            both = f"{first} and {second}"
            findings += finding(severity, "image in two parts", both, by_place, meaning)
            findings += finding(severity, "image with the same content in two parts", both, by_content, meaning)
    return findings


def _inside(identities: Identities, subset: Subset) -> list[Finding]:
    by_place, by_content = [], []
    places: set[str] = set()
    contents: dict[bytes, ImageRecord] = {}
    for image, place, digest in zip(*identities, strict=True):
        if place in places:
            by_place.append(image.name)
        elif digest is not None and digest in contents:
            by_content.append(f"{image.name} is {contents[digest].name}")
        elif digest is not None:
            contents[digest] = image
        places.add(place)
    return [
        *finding("warning", "file listed twice", subset, by_place, "under two ids; it counts twice in training"),
        *finding("warning", "files with the same content", subset, by_content, "each counts in training"),
    ]


def _shared(first: Identities, second: Identities) -> tuple[list[str], list[str]]:
    """Images of the second subset that the first one has: by file, and other files by content."""
    places = set(first.places)
    contents = {digest: image for image, _, digest in zip(*first, strict=True) if digest is not None}
    by_place, by_content = [], []
    for image, place, digest in zip(*second, strict=True):
        if place in places:
            by_place.append(image.name)
        elif digest is not None and digest in contents:
            by_content.append(f"{image.name} is {contents[digest].name}")
    return by_place, by_content
