"""Files of a data set: images found in a folder or by name, how large they are, and lines of text."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from denseteacher.data.images import IMAGE_SUFFIXES, image_size
from denseteacher.data.records import Member
from denseteacher.errors import InputError

_HEADER_THREADS = 8  # reading headers waits for the disk
_SUFFIXES = (".jpg", ".png", ".jpeg", *sorted(IMAGE_SUFFIXES), *sorted(map(str.upper, IMAGE_SUFFIXES)))
File = tuple[Path, Member | None]
"""An image: a file, or a part of one."""


def is_image(name: str) -> bool:
    """Whether a file name is that of an image, and not of a hidden file."""
    base = os.path.basename(name)  # noqa: PTH119 (Path objects are slow for a million files)
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def images_below(folder: Path) -> list[Path]:
    """All image files in a folder and those below it that are not hidden, in order of their paths."""
    files: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files.extend(os.path.join(parent, name) for name in names if is_image(name))  # noqa: PTH118 (as above)
    return [Path(file) for file in sorted(files)]


def image_named(folder: Path, name: str) -> str | None:
    """File name of the image whose name without suffix is known."""
    for suffix in _SUFFIXES:
        if os.path.isfile(os.path.join(folder, name + suffix)):  # noqa: PTH113, PTH118 (as above)
            return name + suffix
    return None


def sizes_or_errors(files: Iterable[File]) -> list[tuple[int, int] | InputError]:
    """Height and width of each image from its header, or why it can't be read."""
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        return list(pool.map(_size_or_error, files))


def _size_or_error(file: File) -> tuple[int, int] | InputError:
    try:
        return image_size(*file)
    except InputError as error:
        return error


def is_entry(line: bytes) -> bool:
    """Whether a line of a list names an image: it isn't blank, nor a comment."""
    stripped = line.strip()
    return bool(stripped) and not stripped.startswith(b"#")


def listed_file(name: str, folder: Path) -> Path:
    """The file that a line of a list names, below a folder or by its absolute path.

    Raises:
        InputError: If it leaves the folder.
    """
    file = Path(name)
    if ".." in file.parts and not file.is_absolute():
        raise InputError(f"{name!r} leaves the image folder: write its absolute path")
    return folder / file


def no_list(path: Path) -> str:
    """What is wrong with a file of unlabeled images that is none."""
    return f"{path} is no text list of images, no COCO JSON, no tar file and no folder"


def text_lines(file: Path, refusal: str) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1.

    Raises:
        InputError: With the text ``refusal``, if the file can't be read as text.
    """
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(refusal) from error
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
