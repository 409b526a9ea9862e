"""What a data set is once it is read, whatever format it came in."""

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np
import numpy.typing as npt


class TarMember(NamedTuple):
    """Where an image lies in an uncompressed tar file."""

    name: str
    offset: int
    """Bytes before its content."""
    size: int
    """Bytes of its content."""


class EncodedImage(NamedTuple):
    """An image file's bytes, where it lies in a data set that is read as a whole."""

    name: str
    """Name in messages: the data set and its place in there."""
    content: bytes


Member = TarMember | EncodedImage


def image_name(path: Path, member: Member | None) -> str:
    """An image as a message names it."""
    if isinstance(member, EncodedImage):
        return member.name
    return str(path) if member is None else f"{path}, {member.name}"


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image file."""

    id: int
    """Id in the data set; unique there."""
    path: Path
    """The file; the tar file or the data set of one that lies in such."""
    width: int
    """Pixels, after the EXIF policy of ``data.images``."""
    height: int
    member: Member | None = None

    @property
    def name(self) -> str:
        """The file as a message names it."""
        return image_name(self.path, self.member)


class UnopenedImages(Sequence[ImageRecord]):
    """Images that are too many to open before a run: each is opened when it is asked for.

    So nothing should walk over all of them. A copy for another process carries no open file.
    """

    @abstractmethod
    def record(self, position: int) -> ImageRecord:
        """The image at a position from 0; its id is one more.

        Raises:
            InputError: If it can't be opened.
        """

    def spread(self, count: int) -> list[int]:
        """Positions of so many images that stand for all, evenly spread."""
        return sorted({position * len(self) // count for position in range(count)})

    @property
    def ids(self) -> range:
        """The ids of all images, in their order."""
        return range(1, len(self) + 1)

    @overload
    def __getitem__(self, index: int) -> ImageRecord: ...

    @overload
    def __getitem__(self, index: slice) -> list[ImageRecord]: ...

    def __getitem__(self, index: int | slice) -> ImageRecord | list[ImageRecord]:
        positions = range(len(self))[index]
        return self.record(positions) if isinstance(positions, int) else [self.record(one) for one in positions]


class JoinedImages(UnopenedImages):
    """Images of several places one after the other."""

    def __init__(self, parts: Sequence[Sequence[ImageRecord]]) -> None:
        """Takes the places' images, of which some are unopened."""
        self._parts = parts
        self._starts = list(accumulate(map(len, parts), initial=0))

    def __len__(self) -> int:
        return self._starts[-1]

    def record(self, position: int) -> ImageRecord:
        """See ``UnopenedImages``."""
        part = bisect_right(self._starts, position) - 1
        return replace(self._parts[part][position - self._starts[part]], id=position + 1)


@dataclass(frozen=True, slots=True)
class Category:
    """One class: its id in the source file (COCO ids have gaps) and its name."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class LabeledImages:
    """Images with their boxes. Lists run in parallel; regions to ignore are not among the boxes."""

    images: list[ImageRecord]
    boxes: list[npt.NDArray[np.float32]]
    """(n, 4) xyxy pixels an image."""
    labels: list[npt.NDArray[np.int64]]
    """(n,) indices into ``categories`` an image."""
    categories: list[Category]
    """Categories by rising id."""
    regions: list[npt.NDArray[np.float32]] | None = None
    """(n, 4) xyxy pixels of the regions to ignore an image; None where no image has one, or nobody asked."""

    def select(self, positions: list[int]) -> "LabeledImages":
        """The images at these positions, in the order given."""
        regions = [self.regions[i] for i in positions] if self.regions is not None else []
        return LabeledImages(
            images=[self.images[i] for i in positions],
            boxes=[self.boxes[i] for i in positions],
            labels=[self.labels[i] for i in positions],
            categories=self.categories,
            regions=regions if any(map(len, regions)) else None,
        )
