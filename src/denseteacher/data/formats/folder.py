"""Unlabeled images: folders, tar shards, lists, and the images of labeled data sets."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from denseteacher.data.formats.annotations import Fault, Report, refuse
from denseteacher.data.formats.coco import read_image_info
from denseteacher.data.formats.tar import tar_members
from denseteacher.data.formats.voc import find_voc_image, image_set, is_voc, voc_folder, voc_images
from denseteacher.data.images import IMAGE_SUFFIXES, image_size
from denseteacher.data.records import ImageRecord, TarMember
from denseteacher.errors import InputError

_HEADER_THREADS = 8  # reading headers waits for the disk
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
File = tuple[Path, TarMember | None]


def read_unlabeled(path: Path, images: Path | None = None, *, report: Report = refuse) -> list[ImageRecord]:
    """Lists unlabeled images; their sizes come from their headers.

    Args:
        path: A folder, searched with all below it in order of the paths; a tar file, a folder of such, or a
            pattern with ``*``; a COCO image-info JSON; a VOC folder or image set; or a text file with one path a
            line, blank lines and lines that begin with # left out.
        images: Folder that a list's or a JSON's paths are relative to; beside the file if not given.
        report: Told about images that are missing or can't be read.

    Raises:
        InputError: If there is nothing at ``path``, no image in it, or ``report`` raises.
    """
    if path.suffix.lower() == ".json" and path.is_file():
        return read_image_info(path, images, report=report)
    return _records(_files(path, images, report), report)


def _files(path: Path, images: Path | None, report: Report) -> list[File]:
    if "*" in path.name:
        shards = sorted(path.parent.glob(path.name))
        if not shards or any(not file.name.endswith(".tar") for file in shards):
            raise InputError(f"the pattern {path} must name .tar files, and it names {len(shards)} files")
        return _members(shards)
    if not path.exists():
        raise InputError(f"there is no folder or file {path} with unlabeled images")
    if path.name.endswith((".tar", *_COMPRESSED)):
        return _members([path])
    if is_voc(path):
        return [(file, None) for file in _voc_images(path, images)]
    if path.is_file():
        return [(file, None) for file in _listed(path, images, report)]
    found = _images_below(path)
    shards = sorted(file for file in path.iterdir() if file.name.endswith((".tar", *_COMPRESSED)))
    if not found and not shards:
        raise InputError(f"the folder {path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}) and no .tar files")
    return [*((file, None) for file in found), *_members(shards)]


def _records(files: Iterable[File], report: Report) -> list[ImageRecord]:
    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        found = list(pool.map(_record_or_error, files))
    report([Fault("unreadable image", str(record)) for record in found if isinstance(record, InputError)])
    records = (record for record in found if isinstance(record, ImageRecord))
    return [replace(record, id=number) for number, record in enumerate(records, start=1)]


def _record_or_error(file: File) -> ImageRecord | InputError:
    try:
        height, width = image_size(*file)
    except InputError as error:
        return error
    return ImageRecord(0, file[0], width, height, file[1])


def _members(shards: Iterable[Path]) -> list[File]:
    return [(shard, member) for shard in shards for member in tar_members(shard)]


def _voc_images(path: Path, images: Path | None) -> list[Path]:
    folder = images or voc_images(voc_folder(path))
    names = image_set(path, ("unlabeled", "trainval", "train"))
    if names is None:
        return _images_below(folder)
    found = [find_voc_image(folder, name) for name in names]
    if None in found:
        raise InputError(f"{path} names the image {names[found.index(None)]!r}, which is not in {folder}")
    return [folder / name for name in found if name is not None]


def _images_below(folder: Path) -> list[Path]:
    files: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files.extend(
            os.path.join(parent, name)  # noqa: PTH118 (Path objects are slow for a million files)
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122
        )
    return [Path(file) for file in sorted(files)]


def _listed(path: Path, images: Path | None, report: Report) -> list[Path]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no text list of images, no COCO JSON, no tar file and no folder") from error
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
            report([Fault("missing image file", f"{path}, line {number}: there is no image file {file}")])
        else:
            files.append(file)
    if not files:
        raise InputError(f"the list {path} names no images")
    return files
