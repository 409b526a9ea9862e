"""What predictors take as an image, and in what batches; imports no torch."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from denseteacher.data.images import image_size, read_pixels
from denseteacher.errors import InputError

Picture = str | Path | Image.Image | npt.NDArray[np.uint8]
_WINDOW = 32
"""Batches whose images are put in order of their shape: enough that those of a batch are alike, and no file is opened
long before its turn."""


def batches_by_shape(count: int, size: Callable[[int], tuple[int, int]], batch_size: int) -> Iterator[list[int]]:
    """Positions of images in batches of similar shape, which are padded little; what is alike keeps its order.

    Args:
        count: How many images there are.
        size: Height and width of the image at a position.
        batch_size: Images a batch.
    """

    def shape(position: int) -> float:
        height, width = size(position)
        return height / max(width, 1)

    for start in range(0, count, _WINDOW * batch_size):
        ordered = sorted(range(start, min(start + _WINDOW * batch_size, count)), key=shape)
        for first in range(0, len(ordered), batch_size):
            yield ordered[first : first + batch_size]


def picture_size(picture: Picture) -> tuple[int, int]:
    """Height and width; of a file its header says them.

    Raises:
        InputError: If the file is missing or no image, or the array has another shape or type.
    """
    if isinstance(picture, str | Path):
        return image_size(Path(picture))
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return _checked(picture).shape[:2]


def to_array(picture: Picture) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a path, a PIL image or an array.

    Raises:
        InputError: If the file can't be read, or the array has another shape or type.
    """
    if isinstance(picture, str | Path):
        return read_pixels(Path(picture))
    return np.array(picture.convert("RGB") if isinstance(picture, Image.Image) else _checked(picture))


def _checked(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    array = np.asarray(picture)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise InputError(f"an image array is uint8 RGB of shape (height, width, 3), not {array.dtype} {array.shape}")
    return array
