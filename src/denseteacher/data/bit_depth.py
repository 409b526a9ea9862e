"""Images of more than 8 bits a channel: their values as 0 to 255, by the range that each image itself has.

Cameras and microscopes store 10, 12 or 14 bits in files of 16, where nothing says so. Therefore the largest value of
an image decides, alone and on every read alike: integers count as of the fewest of 8, 10, 12, 14 or 16 bits that hold
it, floating-point values as shares up to ``_LARGEST_SHARE`` and as integers above.
"""

import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

_BITS = (8, 10, 12, 14, 16)
_LARGEST_SHARE = 1.5  # values from 0 to 1, which resampling may overshoot
_DEEP_MODES = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
_OTHER_BYTE = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}
"""Pillow reads the upper byte alone of such pixels; what makes it read the lower one."""
_GRAY_AND_ALPHA = "LA;16B"
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0


def is_deep(image: Image.Image) -> bool:
    """Whether an image whose header is read, and whose pixels are not, has more than 8 bits a channel."""
    return image.mode in _DEEP_MODES or ";16" in _raw_mode(image)


def as_8_bits(reopen: Callable[[], Image.Image]) -> Image.Image:
    """A deep image as gray or RGB pixels of 8 bits.

    Args:
        reopen: Opens the image, and reads its header alone.
    """
    image = reopen()
    if image.mode in _DEEP_MODES:
        pixels = _scaled(np.asarray(image))
        inverted = getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        return Image.fromarray(255 - pixels if inverted else pixels)
    raw = _raw_mode(image)
    if raw == _GRAY_AND_ALPHA:
        pairs = np.asarray(_read_as(image, "RGBA")).astype(np.int64)
        return Image.fromarray(_scaled(pairs[..., 0] * 256 + pairs[..., 1]))
    if raw not in _OTHER_BYTE:
        return image.convert("RGB")
    lower = np.asarray(_read_as(reopen(), _OTHER_BYTE[raw]))[..., :3].astype(np.int64)
    return Image.fromarray(_scaled(np.asarray(image)[..., :3].astype(np.int64) * 256 + lower))


def _raw_mode(image: Image.Image) -> str:
    """How the file stores its pixels, in Pillow's words; empty where Pillow does not say."""
    tiles = getattr(image, "tile", [])  # images of files have them
    arguments = tiles[0].args if tiles else ""
    first = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return first if isinstance(first, str) else ""


def _read_as(image: Image.Image, raw: str) -> Image.Image:
    tiles = getattr(image, "tile", [])
    changed = [tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw) for tile in tiles]
    setattr(image, "tile", changed)  # noqa: B010 (which the type of all images does not know)
    return image


def _scaled(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Values of any range as 0 to 255; what is not a number becomes 0."""
    plain = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(plain.min(initial=0)), float(plain.max(initial=0))
    if low < 0:
        return ((plain - low) * (255 / (high - low))).astype(np.uint8)
    if values.dtype.kind == "f" and high <= _LARGEST_SHARE:
        return (plain * 255 + 0.5).clip(0, 255).astype(np.uint8)
    bits = next((bits for bits in _BITS if high < 1 << bits), None) or int(high).bit_length()
    return np.floor(plain / 2.0 ** (bits - 8)).astype(np.uint8)
