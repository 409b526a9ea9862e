"""Digits: the built-in benchmark, handwritten digits scattered over photographs.

Made from what scikit-learn ships: 1,797 digits of many hands (8 x 8 pixels, smoothly enlarged) and two
photographs. Validation images use other digits and other parts of the photographs than training images.
Written once, as an ordinary COCO data set.
"""

import json
import os
import shutil
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from denseteacher.data.randomness import Draw, keyed_generator
from denseteacher.errors import InputError

_VERSION = 2  # part of the folder's name: raise it when the pictures change
_TEST_SHARE = 5  # every fifth digit, and the right fifth of the photographs, belong to validation
_INK = 0.35  # opacity from which a pixel belongs to a digit's box
_MOST_COVERED = 0.3  # of the smaller of two boxes
_LEAST_CONTRAST = 100  # gray levels between ink and the ground below it

Array = npt.NDArray[np.uint8]


class Preset(NamedTuple):
    """Size of a data set."""

    side: int
    """Pixels of the square images."""
    train: int
    val: int


class DigitsPaths(NamedTuple):
    """Where a data set lies."""

    root: Path
    train: Path
    """COCO JSON."""
    val: Path


PRESETS = {"small": Preset(96, 4200, 300), "large": Preset(128, 20_000, 2_000)}


def make_digits(
    preset: str = "small",
    *,
    seed: int = 0,
    root: Path | None = None,
    train: int | None = None,
    val: int | None = None,
) -> DigitsPaths:
    """Makes the data set if it is not there yet.

    Args:
        preset: ``small`` (96 px) or ``large`` (128 px).
        seed: The same seed gives the same bytes.
        root: Folder for data sets; ``digits`` in the package's cache folder (``DENSETEACHER_CACHE``, or
            ``~/.cache/denseteacher``) if not given.
        train: Number of training images, instead of the preset's.
        val: Number of validation images, instead of the preset's.

    Raises:
        InputError: If there is no such preset, or the folder can't be written.
    """
    if preset not in PRESETS:
        raise InputError(f"there is no Digits preset {preset!r}: use one of {', '.join(PRESETS)}")
    size = PRESETS[preset]
    size = Preset(size.side, train or size.train, val or size.val)
    folder = (root or _cache()) / f"{preset}-v{_VERSION}-seed{seed}-{size.train}-{size.val}"
    if not folder.is_dir():
        try:
            _make(folder, size, seed)
        except OSError as error:
            raise InputError(f"the Digits data can't be written to {folder}: {error.strerror or error}") from error
    annotations = folder / "annotations"
    return DigitsPaths(folder, annotations / "train.json", annotations / "val.json")


def _cache() -> Path:
    given = os.environ.get("DENSETEACHER_CACHE")
    return (Path(given) if given else Path.home() / ".cache" / "denseteacher") / "digits"


def _make(folder: Path, size: Preset, seed: int) -> None:
    """Writes to a temporary folder that becomes the data set by a rename: it is never there in part."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for number, (subset, count) in enumerate((("train", size.train), ("val", size.val))):
            _write_subset(temporary, subset, count, size.side, (seed, number))
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise somebody else was faster, with the same bytes
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_subset(folder: Path, subset: str, count: int, side: int, key: tuple[int, int]) -> None:
    pictures = folder / "images" / subset
    pictures.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, count + 1):
        rng = keyed_generator(key[0], Draw.DIGITS, key[1], number)
        pixels, boxes, digits = _compose(rng, side, test=subset == "val")
        name = f"{number:06d}.png"
        Image.fromarray(pixels).save(pictures / name, compress_level=1)
        images.append({"id": number, "file_name": name, "width": side, "height": side})
        for (left, top, right, bottom), digit in zip(boxes, digits, strict=True):
            width, height = right - left, bottom - top
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": digit + 1,
                    "bbox": [left, top, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    content = {
        "info": {"description": "Digits: handwritten digits on photographs, made by denseteacher"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": digit + 1, "name": str(digit)} for digit in range(10)],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    (folder / "annotations" / f"{subset}.json").write_text(json.dumps(content))


@lru_cache(maxsize=1)
def _material() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], list[Array]]:
    """(1797, 8, 8) ink in [0, 1], the digits they are, and the two photographs."""
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    return digits.images / 16.0, digits.target, [np.asarray(photo) for photo in load_sample_images().images]


def _compose(rng: np.random.Generator, side: int, *, test: bool) -> tuple[Array, list[list[int]], list[int]]:
    """One image, the boxes (x1, y1, x2, y2) in it and the digits they hold."""
    glyphs, values, photos = _material()
    pool = np.flatnonzero((np.arange(len(glyphs)) % _TEST_SHARE == 0) == test)
    canvas = _background(rng, photos[rng.integers(len(photos))], side, test=test)
    boxes: list[list[int]] = []
    digits: list[int] = []
    for _ in range(rng.integers(1, 5)):
        chosen = pool[rng.integers(len(pool))]
        alpha = _glyph(rng, glyphs[chosen])
        height, width = alpha.shape
        for _ in range(10):  # places tried before the digit is left out
            left, top = int(rng.integers(0, side - width + 1)), int(rng.integers(0, side - height + 1))
            box = [left, top, left + width, top + height]
            if all(_covered(box, other) < _MOST_COVERED for other in boxes):
                _paint(rng, canvas[top : top + height, left : left + width], alpha)
                boxes.append(box)
                digits.append(int(values[chosen]))
                break
    canvas += rng.normal(scale=rng.uniform(0, 8), size=canvas.shape)
    return canvas.clip(0, 255).round().astype(np.uint8), boxes, digits


def _background(rng: np.random.Generator, photo: Array, side: int, *, test: bool) -> npt.NDArray[np.float64]:
    """A crop of the photograph's own part for this subset, at a random scale and contrast."""
    border = photo.shape[1] * (_TEST_SHARE - 1) // _TEST_SHARE
    part = photo[:, border:] if test else photo[:, :border]
    extent = int(rng.integers(side // 2, min(part.shape[:2]) + 1))
    top = int(rng.integers(0, part.shape[0] - extent + 1))
    left = int(rng.integers(0, part.shape[1] - extent + 1))
    crop = Image.fromarray(part[top : top + extent, left : left + extent])
    pixels = np.asarray(crop.resize((side, side), Image.Resampling.BILINEAR), dtype=np.float64)
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    return 128 + (pixels - 128) * rng.uniform(0.6, 1.0) + rng.uniform(-20, 20)


def _glyph(rng: np.random.Generator, ink: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(h, w) opacity of a digit, enlarged, turned and cut to its ink; 18 to 40 pixels high or wide."""
    extent = int(rng.integers(18, 41))
    source = Image.fromarray((np.pad(ink, 2) * 255).astype(np.uint8))
    enlarged = source.resize((96, 96), Image.Resampling.BICUBIC)
    turned = enlarged.rotate(rng.uniform(-12, 12), Image.Resampling.BICUBIC)
    opacity = np.asarray(turned, dtype=np.float64) / 255
    rows, columns = np.flatnonzero((opacity > _INK).any(1)), np.flatnonzero((opacity > _INK).any(0))
    cut = turned.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    scale = extent / max(cut.size)
    aspect = rng.uniform(0.85, 1.15)
    width = min(extent, max(6, round(cut.width * scale * aspect)))
    height = max(6, round(cut.height * scale))
    smooth = np.asarray(cut.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float64) / 255
    return ((smooth - 0.25) / 0.4).clip(0, 1)  # sharper than the blur of enlarging 8 pixels


def _covered(box: list[int], other: list[int]) -> float:
    """Share of the smaller box that lies in the other."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)]
    return max(width, 0) * max(height, 0) / min(areas)


def _paint(rng: np.random.Generator, ground: npt.NDArray[np.float64], alpha: npt.NDArray[np.float64]) -> None:
    """Lays ink over the ground, in a color that can be told from it."""
    luma = np.array([0.299, 0.587, 0.114])
    below = float((ground.mean((0, 1)) * luma).sum())
    color = rng.uniform(0, 255, 3)
    while abs(float((color * luma).sum()) - below) < _LEAST_CONTRAST:
        color = rng.uniform(0, 255, 3)
    opacity = alpha[..., None] * rng.uniform(0.85, 1.0)
    ground *= 1 - opacity
    ground += opacity * color
