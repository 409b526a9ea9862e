"""What predictors take as an image; imports no torch."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from denseteacher.data.images import read_pixels
from denseteacher.errors import InputError

Picture = str | Path | Image.Image | npt.NDArray[np.uint8]


def to_array(picture: Picture) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB of a path, a PIL image or an array.

    Raises:
        InputError: If the file can't be read, or the array has another shape or type.
    """
    if isinstance(picture, str | Path):
        return read_pixels(Path(picture))
    array: npt.NDArray[np.uint8] = np.array(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise InputError(f"an image array is uint8 RGB of shape (height, width, 3), not {array.dtype} {array.shape}")
    return array
