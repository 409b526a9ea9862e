"""Damaged images: each is read, or refused by a sentence that names it."""

import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from attacks.damage import damage_file, damaged_bytes
from attacks.judge import FileAttack, result
from attacks.kind import HELD, REFUSED, FailureError
from denseteacher.data.formats import read_unlabeled
from denseteacher.data.images import check_pixels, image_size, load_image, read_pixels

_KINDS = {
    "jpg": ("JPEG", "RGB"), "png": ("PNG", "RGB"), "gif": ("GIF", "P"), "bmp": ("BMP", "RGB"), "tif": ("TIFF", "RGB"),
    "webp": ("WEBP", "RGB"), "ppm": ("PPM", "RGB"), "cmyk.jpg": ("JPEG", "CMYK"), "alpha.png": ("PNG", "RGBA"),
    "deep.png": ("PNG", "I;16"), "float.tif": ("TIFF", "F"), "gray.png": ("PNG", "L"), "bits.tif": ("TIFF", "1"),
}  # fmt: skip


class Images(FileAttack):
    """Image files of every kind, damaged."""

    label = "images"
    share = 1.5

    def prepare(self, folder: Path) -> None:
        """Makes the sound images."""
        pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3)).astype(np.uint8)
        self._sound = {}
        for suffix, (name, mode) in _KINDS.items():
            out = io.BytesIO()
            exif = Image.Exif()
            exif[0x0112] = 6
            wanted = (
                Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 16) if mode == "I;16" else _of_mode(pixels, mode)
            )
            wanted.save(out, name, **({"exif": exif} if name in ("JPEG", "PNG") else {}))
            self._sound[suffix] = out.getvalue()

    def attack_files(self, rng: random.Random, folder: Path) -> str:
        """Damages an image, and reads it in all ways."""
        suffix = rng.choice(sorted(self._sound))
        file = folder / f"x.{rng.choice((suffix, suffix, 'jpg', 'png', 'tif'))}"
        _write_damaged(file, self._sound[suffix], rng)
        size = result(lambda: image_size(file))
        pixels = result(lambda: read_pixels(file))
        if pixels is not None and (pixels.dtype != np.uint8 or pixels.shape[:2] != size or pixels.shape[2:] != (3,)):
            raise FailureError(f"{file.name} is read as {pixels.dtype} {pixels.shape}, its size is {size}")
        for record in result(lambda: read_unlabeled(folder)) or []:
            result(lambda record=record: check_pixels(record))
            result(lambda record=record: load_image(record))
        return REFUSED if pixels is None else HELD


def _of_mode(pixels: np.ndarray, mode: str) -> Image.Image:
    return Image.fromarray(pixels).convert(mode)


def _write_damaged(file: Path, content: bytes, rng: random.Random) -> None:
    way = rng.randrange(10)
    if way < 6:
        file.write_bytes(damaged_bytes(content, rng))
    elif way < 8:
        file.write_bytes(content)
        damage_file(file, rng)
    elif way < 9:
        file.write_bytes(huge_png(rng))
    else:
        side = rng.choice((1, 2, 3, 100_000))
        Image.new("L", (side, 1)).save(file, "PNG")
        if rng.random() < 0.5:
            os.truncate(file, rng.randint(0, file.stat().st_size))


def huge_png(rng: random.Random) -> bytes:
    """A PNG that claims many pixels and has few."""
    width, height = (rng.choice((1, 100, 20_000, 65_500, 2**31 - 1)) for _ in range(2))
    kind = rng.choice(((8, 2), (16, 2), (8, 0), (1, 0), (8, 6), (9, 9)))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, *kind, 0, 0, 0)), (b"IDAT", zlib.compress(bytes(5000))))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
