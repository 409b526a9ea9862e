"""All objects of labeled images as arrays."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from denseteacher.data.records import ImageRecord, LabeledImages


class Objects(NamedTuple):
    """The n objects of a part's m images as arrays."""

    boxes: npt.NDArray[np.float64]
    """(n, 4) xyxy pixels of the image file."""
    labels: npt.NDArray[np.int64]
    """(n,)"""
    owner: npt.NDArray[np.int64]
    """(n,) position of the object's image."""
    sizes: npt.NDArray[np.float64]
    """(n, 2) height and width of the object's image."""


def objects_of(labeled: LabeledImages) -> Objects:
    """All objects of the images, image by image."""
    counts = [len(boxes) for boxes in labeled.boxes]
    owner = np.repeat(np.arange(len(counts)), counts)
    boxes = np.concatenate([np.zeros((0, 4)), *labeled.boxes]).astype(np.float64)
    labels = np.concatenate([np.zeros(0, np.int64), *labeled.labels])
    return Objects(boxes, labels, owner, image_sizes(labeled.images)[owner])


def image_sizes(images: Sequence[ImageRecord]) -> npt.NDArray[np.float64]:
    """(m, 2) height and width."""
    return np.array([(image.height, image.width) for image in images], dtype=np.float64).reshape(-1, 2)
