"""Decoding: the one place where image files become pixels.

EXIF policy: orientation is applied, as every viewer and annotation tool of today does. Where a data set
declares the image's size and that fits only the unrotated pixels, its boxes were drawn on those, and the pixels
stay as they are. Where neither fits, the file is not the one that was annotated, which is an error.
"""

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from denseteacher.data.bit_depth import as_8_bits, is_deep
from denseteacher.data.records import EncodedImage, ImageRecord, Member, image_name
from denseteacher.errors import InputError
from denseteacher.files import refuse_irregular

if TYPE_CHECKING:  # the ONNX predictor reads images where there is no torch
    from torch import Tensor

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm"})
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM")
_MOST_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs
_ORIENTATION = 0x0112
_QUARTER_TURNS = (5, 6, 7, 8)


def load_image(record: ImageRecord) -> "Tensor":
    """(3, H, W) uint8 RGB of a data set's image.

    Raises:
        InputError: As ``decode_image``.
    """
    return decode_image(record.path, declared_size=(record.height, record.width), member=record.member)


def decode_image(path: Path, *, declared_size: tuple[int, int] | None = None, member: Member | None = None) -> "Tensor":
    """Reads an image file as ``read_pixels`` does.

    Returns:
        (3, H, W) uint8 RGB, whose memory is in the order of the rows of a picture, pixel by pixel.

    Raises:
        InputError: If the file is missing, damaged, no image, too large, or not of the declared size.
    """
    import torch

    return torch.from_numpy(read_pixels(path, declared_size=declared_size, member=member)).permute(2, 0, 1)


def read_pixels(
    path: Path, *, declared_size: tuple[int, int] | None = None, member: Member | None = None
) -> npt.NDArray[np.uint8]:
    """Reads an image file.

    Args:
        path: JPEG, PNG, BMP, TIFF, WebP, GIF (first frame) or PPM, of any color mode.
        declared_size: Height and width that the data set says it has.
        member: Where in ``path`` the image is, which is not a file of its own.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        InputError: If the file is missing, damaged, no image, too large, or not of the declared size.
    """
    image = open_image(path, member)
    name = image_name(path, member)
    try:
        deep = is_deep(image)  # before the orientation, for which Pillow may read all of a PNG
        turned = is_turned(image, name, declared_size)
        if deep:
            way = orientation(image)
            image = as_8_bits(lambda: open_image(path, member))
            image.getexif()[_ORIENTATION] = way
        if turned:
            image = ImageOps.exif_transpose(image)
        return np.array(image.convert("RGB"))
    except InputError:
        raise
    except Exception as error:
        # Pillow's decoders raise whatever their format's parser meets: OSError, ValueError, struct.error, ...
        raise InputError(f"{name} is damaged and can't be decoded ({_reason(error)})") from error


def check_pixels(record: ImageRecord) -> None:
    """Sees whether an image is whole and of its declared size, without keeping its pixels.

    Raises:
        InputError: As ``decode_image``.
    """
    image = open_image(record.path, record.member)
    is_turned(image, record.name, (record.height, record.width))
    try:
        # a JPEG's data are all read, but an eighth of the pixels is enough to see that they are there
        image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
    except Exception as error:  # as above
        raise InputError(f"{record.name} is damaged and can't be decoded ({_reason(error)})") from error


def image_size(path: Path, member: Member | None = None) -> tuple[int, int]:
    """Height and width of an image file after EXIF orientation, from its header.

    Raises:
        InputError: If the file is missing or no image.
    """
    with open_image(path, member) as image:
        height, width = image.height, image.width
        return (width, height) if orientation(image) in _QUARTER_TURNS else (height, width)


def open_image(path: Path, member: Member | None = None, content: bytes | None = None) -> Image.Image:
    """An image file whose header is read and whose pixels are not yet.

    Args:
        path: The file.
        member: Where in ``path`` the image is, which is not a file of its own.
        content: The bytes of the image, where they are read already.

    Raises:
        InputError: If the file is missing, no image, or claims to be too large.
    """
    name = image_name(path, member)
    if content is None and member is not None:
        content = read_content(path, member)
    if content is None:
        refuse_irregular(path)
    try:
        image = Image.open(path if content is None else io.BytesIO(content), formats=_FORMATS)
    except FileNotFoundError as error:
        raise InputError(f"there is no image file {name}") from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError) as error:
        # not Path.is_dir, which raises for names of more than 255 bytes
        reason = "it is a folder" if os.path.isdir(path) else _reason(error)  # noqa: PTH112
        raise InputError(f"{name} can't be read as an image ({reason})") from error
    if image.width * image.height > _MOST_PIXELS:
        raise InputError(
            f"{name} claims {image.width} x {image.height} pixels, more than {_MOST_PIXELS}: it is not decoded"
        )
    return image


def read_content(path: Path, member: Member | None = None) -> bytes:
    """The bytes of an image file, or of an image in a tar file or another data set."""
    if isinstance(member, EncodedImage):
        return member.content
    refuse_irregular(path)
    with path.open("rb") as file:
        if member is None:
            return file.read()
        file.seek(member.offset)
        return file.read(member.size)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "its content is not a known image format"
    return (str(error) or type(error).__name__).splitlines()[0]


def orientation(image: Image.Image) -> int:
    """EXIF's number for how the pixels lie; 1 where they stand upright or nothing is said."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def is_turned(image: Image.Image, name: str, declared_size: tuple[int, int] | None) -> bool:
    """Whether the pixels of an opened file are to be turned as its EXIF orientation says.

    Raises:
        InputError: If it is not of the declared size, however it is turned.
    """
    stored = (image.height, image.width)
    turned = stored[::-1] if orientation(image) in _QUARTER_TURNS else stored
    if declared_size is not None and declared_size not in (stored, turned):
        raise InputError(
            f"{name} has {turned[1]} x {turned[0]} pixels, but its annotation says {declared_size[1]} x "
            f"{declared_size[0]}: it is another image, or its width and height are wrong"
        )
    return orientation(image) != 1 and not (declared_size == stored and stored != turned)
