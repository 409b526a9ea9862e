"""The same image more than once: inside a part, and in two of them."""

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from denseteacher.check.findings import Finding, Part, Severity, finding
from denseteacher.data.records import ImageRecord

_MEANING: dict[tuple[Part, Part], tuple[Severity, str]] = {
    ("labeled", "validation"): ("error", "AP would be measured on images that were trained on: take them out of one"),
    ("unlabeled", "validation"): ("warning", "training would see the images that it is measured on"),
    ("labeled", "unlabeled"): ("warning", "the teacher would label images that have labels; harmless, but no gain"),
}


class Identities(NamedTuple):
    """What tells the images of a part apart. Lists run in parallel."""

    images: Sequence[ImageRecord]
    places: list[str]
    """The files, symbolic links resolved."""
    digests: Sequence[bytes | None]
    """Of their contents; None where nothing is known."""


def identify(images: Sequence[ImageRecord], digests: Sequence[bytes | None] | None = None) -> Identities:
    """Resolves the files of a part; of links only those of the files' folders and of files that are links."""
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


def duplicate_findings(parts: Mapping[Part, Identities]) -> list[Finding]:
    """Files that a part lists twice or has twice, and images that two parts share."""
    findings = [one for part, identities in parts.items() for one in _inside(identities, part)]
    for (first, second), (severity, meaning) in _MEANING.items():
        if first in parts and second in parts:
            by_place, by_content = _shared(parts[first], parts[second])
            both = f"{first} and {second}"
            findings += finding(severity, "image in two parts", both, by_place, meaning)
            findings += finding(severity, "image with the same content in two parts", both, by_content, meaning)
    return findings


def _inside(identities: Identities, part: Part) -> list[Finding]:
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
        *finding("warning", "file listed twice", part, by_place, "under two ids; it counts twice in training"),
        *finding("warning", "files with the same content", part, by_content, "each counts in training"),
    ]


def _shared(first: Identities, second: Identities) -> tuple[list[str], list[str]]:
    """Images of the second part that the first one has: by file, and other files by content."""
    places = set(first.places)
    contents = {digest: image for image, _, digest in zip(*first, strict=True) if digest is not None}
    by_place, by_content = [], []
    for image, place, digest in zip(*second, strict=True):
        if place in places:
            by_place.append(image.name)
        elif digest is not None and digest in contents:
            by_content.append(f"{image.name} is {contents[digest].name}")
    return by_place, by_content
