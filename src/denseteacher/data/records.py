"""What a data set is once it is read, whatever format it came in."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class TarMember(NamedTuple):
    """Where an image lies in an uncompressed tar file."""

    name: str
    offset: int
    """Bytes before its content."""
    size: int
    """Bytes of its content."""


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image file."""

    id: int
    """Its id in the data set; unique there."""
    path: Path
    """The file; the tar file of one that lies in a shard."""
    width: int
    """Pixels, after the EXIF policy of ``data.images``."""
    height: int
    member: TarMember | None = None

    @property
    def name(self) -> str:
        """The file as a message names it."""
        return str(self.path) if self.member is None else f"{self.path}, {self.member.name}"


@dataclass(frozen=True, slots=True)
class Category:
    """One class: its id in the source file (COCO ids have gaps) and its name."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class LabeledImages:
    """Images with their boxes. Lists run in parallel; regions to ignore are already left out."""

    images: list[ImageRecord]
    boxes: list[npt.NDArray[np.float32]]
    """(n, 4) xyxy pixels an image."""
    labels: list[npt.NDArray[np.int64]]
    """(n,) indices into ``categories`` an image."""
    categories: list[Category]
    """By rising id."""

    def select(self, positions: list[int]) -> "LabeledImages":
        """The images at these positions, in the order given."""
        return LabeledImages(
            images=[self.images[i] for i in positions],
            boxes=[self.boxes[i] for i in positions],
            labels=[self.labels[i] for i in positions],
            categories=self.categories,
        )
