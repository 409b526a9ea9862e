"""Unlabeled images: a folder with all below it, a COCO image-info JSON, or a text list."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from denseteacher.data.formats.coco import read_image_info
from denseteacher.data.images import IMAGE_SUFFIXES, image_size
from denseteacher.data.records import ImageRecord
from denseteacher.errors import InputError

_HEADER_THREADS = 8  # reading headers waits for the disk


def read_unlabeled(path: Path, images: Path | None = None) -> list[ImageRecord]:
    """Lists unlabeled images; their sizes come from their headers.

    Args:
        path: A folder, searched with all below it in order of the paths; a COCO image-info JSON; or a text
            file with one path a line, blank lines and lines that begin with # left out.
        images: Folder that a list's or a JSON's paths are relative to; beside the file if not given.

    Raises:
        InputError: If there is nothing at ``path``, no image in it, or a file is no readable image.
    """
    if path.is_dir():
        files = _images_below(path)
    elif not path.is_file():
        raise InputError(f"there is no folder or file {path} with unlabeled images")
    elif path.suffix.lower() == ".json":
        return read_image_info(path, images)
    else:
        files = _listed(path, images)
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        sizes = list(pool.map(image_size, files))
    return [
        ImageRecord(id=number, path=file, width=width, height=height)
        for number, (file, (height, width)) in enumerate(zip(files, sizes, strict=True), start=1)
    ]


def _images_below(folder: Path) -> list[Path]:
    files: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files.extend(
            os.path.join(parent, name)  # noqa: PTH118 (Path objects are slow for a million files)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122
        )
    if not files:
        raise InputError(f"the folder {folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
    return [Path(file) for file in sorted(files)]


def _listed(path: Path, images: Path | None) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no text list of images, no COCO JSON and no folder") from error
    folder = images or path.parent
    files = []
    for number, line in enumerate(lines, start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        file = Path(name) if Path(name).is_absolute() else folder / name
        if not Path(name).is_absolute() and ".." in Path(name).parts:
            raise InputError(f"{path}, line {number}: {name!r} leaves the image folder: write its absolute path")
        if not file.is_file():
            raise InputError(f"{path}, line {number}: there is no image file {file}")
        files.append(file)
    if not files:
        raise InputError(f"the list {path} names no images")
    return files
