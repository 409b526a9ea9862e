"""What all writers need: where the images lie, and one image with its boxes after the other."""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from denseteacher.data.images import read_content
from denseteacher.data.records import ImageRecord, LabeledImages

Scores = Sequence[npt.NDArray[np.float32]]
"""(n,) of the boxes of each image."""


class PlacedImages(NamedTuple):
    """Image files, as what is written names them."""

    folder: Path
    names: list[PurePosixPath]
    """Names of the files, below the folder."""


class Entry(NamedTuple):
    """One image with its boxes."""

    record: ImageRecord
    name: PurePosixPath
    """File of the image in ``PlacedImages``."""
    boxes: list[list[float]]
    """xyxy pixels."""
    labels: list[int]
    scores: list[float]


def entries(data: LabeledImages, scores: Scores, images: PlacedImages) -> Iterator[Entry]:
    """The images with their boxes, in order."""
    parallel = zip(data.images, images.names, data.boxes, data.labels, scores, strict=True)
    for record, name, boxes, labels, image_scores in parallel:
        yield Entry(record, name, boxes.tolist(), labels.tolist(), image_scores.tolist())


def refer(records: Sequence[ImageRecord], folder: Path) -> PlacedImages:
    """The images where they are; copies below ``folder`` where some of them lie in tar files."""
    if any(record.member is not None for record in records):
        return copy(records, folder / "images")
    return PlacedImages(_common_folder(records), _names(records))


def copy(records: Sequence[ImageRecord], folder: Path, *, reserved: str = "") -> PlacedImages:
    """Copies the images, below the folders that they are in.

    Args:
        records: The images.
        folder: Where to.
        reserved: What no image may be called; nor may two of them differ only in their suffix.
    """
    names: list[PurePosixPath] = []
    taken = {PurePosixPath(reserved)}
    for record, own in zip(records, _names(records), strict=True):
        name = PurePosixPath(_as_text(str(own)))
        stem, number = name.with_suffix(""), 2
        while stem in taken:
            stem, number = name.with_name(f"{name.stem}_{number}"), number + 1
        taken.add(stem)
        names.append(stem.with_name(stem.name + name.suffix))
        target = folder / names[-1]
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy_one(record, target)
    return PlacedImages(folder.absolute(), names)


def _as_text(name: str) -> str:
    """A name in which bytes that are no UTF-8, which no text file can hold, stand as %ff."""
    return "".join(f"%{ord(one) - 0xDC00:02x}" if "\udc80" <= one <= "\udcff" else one for one in name)


def _copy_one(record: ImageRecord, target: Path) -> None:
    if record.member is None:
        shutil.copyfile(record.path, target)
    else:
        target.write_bytes(read_content(record.path, record.member))


def _names(records: Sequence[ImageRecord]) -> list[PurePosixPath]:
    """Names below the folder that all files have in common; those in the tar file for what lies in one."""
    root = _common_folder(records)
    return [
        PurePosixPath(os.path.relpath(record.path, root).replace(os.sep, "/"))
        if record.member is None
        else PurePosixPath(*(part for part in PurePosixPath(record.member.name).parts if part not in ("..", "/")))
        for record in records
    ]


def _common_folder(records: Sequence[ImageRecord]) -> Path:
    return Path(os.path.commonpath([record.path.absolute().parent for record in records]))
