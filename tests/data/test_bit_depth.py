"""Images of more than 8 bits: a picture looks the same, whatever it is stored in."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from denseteacher.data.bad_images import depth_note
from denseteacher.data.images import image_size, read_pixels
from denseteacher.data.records import ImageRecord
from denseteacher.errors import InputError


def picture(channels=1):
    """40 x 60 values from 0 to 255, which both occur."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, channels)).astype(np.uint8)
    pixels[0, 0], pixels[0, 1] = 0, 255
    return pixels


def save_png(path, values):
    """A PNG of 16 bits, which Pillow writes of gray alone."""
    height, width, channels = values.shape
    color = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )


def save_tiff(path, values, *, order="<", kind=1, white_is_zero=False):
    """An uncompressed TIFF of gray or RGB."""
    height, width, channels = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    bits = values.dtype.itemsize * 8
    photometric = 2 if channels == 3 else int(not white_is_zero)
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric), (273, None), (277, channels)]
    tags += [(278, height), (279, len(data)), (339, kind)]
    start = 8 + 2 + 12 * len(tags) + 4
    extra, fields = b"", b""
    for tag, value in tags:
        if tag in (258, 339) and channels > 1:
            fields += struct.pack(f"{order}HHII", tag, 3, channels, start + len(extra))
            extra += struct.pack(f"{order}{channels}H", *[value] * channels)
        else:
            place = start + 12 if value is None else value  # behind the lists of RGB
            fields += struct.pack(f"{order}HHII", tag, 4, 1, place)
    extra = extra.ljust(12, b"\0")
    begin = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    path.write_bytes(begin + fields + struct.pack(f"{order}I", 0) + extra + data)


CASES = {
    **{
        f"PNG gray {bits}": ("png", 1, lambda p, bits=bits: p.astype(np.uint16) << (bits - 8))
        for bits in (8, 10, 12, 14, 16)
    },
    **{f"PNG RGB {bits}": ("png", 3, lambda p, bits=bits: p.astype(np.uint16) << (bits - 8)) for bits in (8, 12, 16)},
    **{
        f"PNG gray and alpha {bits}": ("png", 2, lambda p, bits=bits: p.astype(np.uint16) << (bits - 8))
        for bits in (12, 16)
    },
    **{f"PNG RGBA {bits}": ("png", 4, lambda p, bits=bits: p.astype(np.uint16) << (bits - 8)) for bits in (12, 16)},
    **{f"TIFF gray {bits}": ("tif", 1, lambda p, bits=bits: p.astype(np.uint16) << (bits - 8)) for bits in (8, 12, 16)},
    **{f"TIFF RGB {bits}": ("tif", 3, lambda p, bits=bits: p.astype(np.uint16) << (bits - 8)) for bits in (8, 12, 16)},
    "TIFF 32 bits of small values": ("tif", 1, lambda p: p.astype(np.uint32)),
    "TIFF 32 bits of 20 bits": ("tif", 1, lambda p: p.astype(np.uint32) << 12),
    "TIFF float 0 to 1": ("float", 1, lambda p: (p / 255).astype(np.float32)),
    "TIFF float 0 to 255": ("float", 1, lambda p: p.astype(np.float32)),
    "TIFF float 0 to 65535": ("float", 1, lambda p: p.astype(np.float32) * 257),
    "TIFF signed 16": ("signed", 1, lambda p: p.astype(np.int16) << 4),
    "TIFF white is zero": ("inverted", 1, lambda p: (255 - p.astype(np.int64)).astype(np.uint16) << 8),
}


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("case", CASES)
def test_a_picture_looks_as_it_would_in_8_bits(case, order, tmp_path):
    kind, channels, store = CASES[case]
    pixels = picture(channels)
    path = tmp_path / ("x.png" if kind == "png" else "x.tif")
    if kind == "png":
        if order == ">":
            pytest.skip("a PNG has one order of bytes")
        save_png(path, store(pixels))
    else:
        sample = {"float": 3, "signed": 2}.get(kind, 1)
        save_tiff(path, store(pixels), order=order, kind=sample, white_is_zero=kind == "inverted")
        if order == ">" and ("32 bits" in case or kind == "inverted"):
            pytest.skip("Pillow does not open it, which is said")
    found = read_pixels(path)
    expected = np.broadcast_to(pixels[..., :1] if channels < 3 else pixels[..., :3], found.shape)
    assert np.abs(found.astype(int) - expected).max() <= (1 if kind == "inverted" else 0)
    assert np.array_equal(read_pixels(path), found)
    assert image_size(path) == (40, 60)
    assert "more than 8 bits" in depth_note([ImageRecord(1, path, 60, 40)])[0]


def test_negative_values_use_the_whole_range(tmp_path):
    values = np.linspace(-1000, 3000, 2400).reshape(40, 60, 1).astype(np.int16)
    save_tiff(tmp_path / "x.tif", values, kind=2)
    found = read_pixels(tmp_path / "x.tif")
    assert (found.min(), found.max()) == (0, 255)
    assert np.all(np.diff(found[..., 0].ravel().astype(int)) >= 0)


def test_what_is_no_number_is_black(tmp_path):
    values = np.full((40, 60, 1), 0.5, np.float32)
    values[0, 0], values[0, 1] = np.nan, np.inf
    save_tiff(tmp_path / "x.tif", values, kind=3)
    found = read_pixels(tmp_path / "x.tif")
    assert found[0, 0].tolist() == found[0, 1].tolist() == [0, 0, 0]
    assert found[5, 5].tolist() == [128] * 3


def test_deep_images_are_turned_as_others(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = picture()[..., 0]
    Image.fromarray(np.rot90(upright).astype(np.uint16) << 4).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(read_pixels(tmp_path / "x.png", declared_size=(40, 60))[..., 0], upright)
    with pytest.raises(InputError, match="its annotation says 7 x 7"):
        read_pixels(tmp_path / "x.png", declared_size=(7, 7))


def test_nothing_is_said_of_images_of_8_bits(tmp_path):
    Image.fromarray(picture(3)).save(tmp_path / "x.png")
    assert depth_note([ImageRecord(1, tmp_path / "x.png", 60, 40)]) == ()
