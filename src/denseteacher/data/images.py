"""Decoding: the one place where image files become pixels.

EXIF policy: orientation is applied, as every viewer and annotation tool of today does. Where a data set
declares the image's size and that fits only the unrotated pixels, its boxes were drawn on those, and the pixels
stay as they are. Where neither fits, the file is not the one that was annotated, which is an error.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from denseteacher.errors import InputError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"})
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
_MOST_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs
_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)


def decode_image(path: Path, *, declared_size: tuple[int, int] | None = None) -> Tensor:
    """Reads an image file.

    Args:
        path: JPEG, PNG, BMP, TIFF, WebP, GIF (first frame) or PPM, of any color mode.
        declared_size: Height and width that the data set says it has.

    Returns:
        (3, H, W) uint8 RGB.

    Raises:
        InputError: If the file is missing, damaged, no image, too large, or not of the declared size.
    """
    image = _open(path)
    try:
        image = _oriented(image, path, declared_size)
        if image.mode in ("I;16", "I;16B", "I;16L", "I"):
            image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
        pixels = np.array(image.convert("RGB"))
    except InputError:
        raise
    except Exception as error:
        # Pillow's decoders raise whatever their format's parser meets: OSError, ValueError, struct.error, ...
        raise InputError(f"{path} is damaged and can't be decoded ({_reason(error)})") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file after EXIF orientation, from its header.

    Raises:
        InputError: If the file is missing or no image.
    """
    with _open(path) as image:
        height, width = image.height, image.width
        return (width, height) if _orientation(image) in _QUARTER_TURNS else (height, width)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path, formats=_FORMATS)
    except FileNotFoundError as error:
        raise InputError(f"there is no image file {path}") from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        reason = "it is a folder" if path.is_dir() else _reason(error)
        raise InputError(f"{path} can't be read as an image ({reason})") from error
    if image.width * image.height > _MOST_PIXELS:
        raise InputError(
            f"{path} claims {image.width} x {image.height} pixels, more than {_MOST_PIXELS}: it is not decoded"
        )
    return image


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its content is no known image format"
    return (str(error) or type(error).__name__).splitlines()[0]


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def _oriented(image: Image.Image, path: Path, declared_size: tuple[int, int] | None) -> Image.Image:
    stored = (image.height, image.width)
    turned = stored[::-1] if _orientation(image) in _QUARTER_TURNS else stored
    if declared_size is not None and declared_size not in (stored, turned):
        raise InputError(
            f"{path} has {turned[1]} x {turned[0]} pixels, but its annotation says {declared_size[1]} x "
            f"{declared_size[0]}: it is another image, or its width and height are wrong"
        )
    if _orientation(image) == 1 or (declared_size == stored and stored != turned):
        return image
    return ImageOps.exif_transpose(image)
