"""Unlabeled images: folders, tar shards, lists, and the images of labeled data sets."""

import codecs
import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from denseteacher.data.formats.coco import read_image_info
from denseteacher.data.formats.faults import Fault, OnFault, refuse
from denseteacher.data.formats.files import (
    File,
    image_named,
    images_below,
    is_file,
    is_image,
    listed_file,
    listed_name,
    no_list,
    sizes_or_errors,
    text_lines,
)
from denseteacher.data.formats.image_names import ImageIndex
from denseteacher.data.formats.litdata import StreamedImages, is_stream
from denseteacher.data.formats.long_list import LONG_LIST, LongList
from denseteacher.data.formats.tar import tar_members
from denseteacher.data.formats.voc import image_set, is_voc, voc_folder, voc_images
from denseteacher.data.images import IMAGE_SUFFIXES
from denseteacher.data.records import ImageRecord
from denseteacher.errors import InputError
from denseteacher.files import refuse_irregular

_LONGEST_SHOWN = 300  # characters of a name, since a line may be no name at all
_WILD = re.compile(r"[*?\[]")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


def open_unlabeled(
    path: Path | str, images: Path | None = None, *, fallback: Path | None = None, on_fault: OnFault = refuse
) -> Sequence[ImageRecord]:
    """Reads as ``read_unlabeled``, without opening all of very many images.

    That are those of a text list where it names ``LONG_LIST`` or more, and those of a LitData data set, which
    ``path`` may be too: its folder or its URL.
    """
    if is_stream(path):
        return StreamedImages(path)
    path = Path(path)
    refuse_irregular(path)
    if _is_list(path) and not _is_wide(path):
        listed = LongList(path, images or path.parent)
        if len(listed) >= LONG_LIST:
            return listed
    return read_unlabeled(path, images, fallback=fallback, on_fault=on_fault)


def read_unlabeled(
    path: Path, images: Path | None = None, *, fallback: Path | None = None, on_fault: OnFault = refuse
) -> list[ImageRecord]:
    """Lists unlabeled images; their sizes come from their headers.

    Args:
        path: An image; a folder, searched with all below it in order of the paths; a tar file or a folder of such; a
            pattern (``*``, ``**``, ``?``, ``[]``) of images, tar files or folders; a COCO image-info JSON; a VOC
            folder or image set; or a text file with one path a line, blank lines and lines that begin with # left
            out.
        images: Folder that a list's or a JSON's paths are relative to; beside the file if not given.
        fallback: Where the images of a JSON are looked for if they are not near it.
        on_fault: Called for images that are missing or can't be read.

    Raises:
        InputError: If there is nothing at ``path``, no image in it, or ``on_fault`` raises.
    """
    if path.suffix.lower() == ".json" and is_file(path):
        return read_image_info(path, images, fallback=fallback, on_fault=on_fault)
    return _records(_files(path, images, on_fault), on_fault)


def _files(path: Path, images: Path | None, on_fault: OnFault) -> list[File]:
    refuse_irregular(path)
    if not os.path.lexists(path) and _WILD.search(str(path)):
        return _matching(path)
    if not os.path.exists(path):  # noqa: PTH110 (Path.exists raises for names of more than 255 bytes)
        raise InputError(f"there is no folder or file {path} with unlabeled images")
    if path.name.endswith((".tar", *_COMPRESSED)):
        return _members([path])
    if is_voc(path):
        return [(file, None) for file in _voc_images(path, images)]
    if path.is_file():
        files = [path] if is_image(path.name) else listed_images(path, images, on_fault)
        return [(file, None) for file in files]
    found = images_below(path)
    shards = sorted(file for file in path.iterdir() if file.name.endswith((".tar", *_COMPRESSED)))
    if not found and not shards:
        raise InputError(f"the folder {path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}) and no .tar files")
    return [*((file, None) for file in found), *_members(shards)]


def _matching(pattern: Path) -> list[File]:
    """What a pattern names: images, tar files and folders with images."""
    # glob and not Path.glob, which refuses absolute patterns
    matches = [Path(match) for match in sorted(glob.iglob(str(pattern), recursive=True))]
    # an open pattern as */** names each image below a folder by itself too
    images = dict.fromkeys(image for one in matches for image in (images_below(one) if one.is_dir() else [one]))
    files = [image for image in images if is_image(image.name)]
    shards = [one for one in matches if one.name.endswith(".tar") and is_file(one)]
    others = [one for one in matches if not (one.is_dir() or is_image(one.name) or one in shards)]
    if not files and not shards:
        raise InputError(
            f"the pattern {pattern} must name images, .tar files or folders of images, and it names "
            f"{len(others)} other files"
        )
    return [*((file, None) for file in files), *_members(shards)]


def _is_list(path: Path) -> bool:
    other = path.suffix.lower() == ".json" or path.name.endswith((".tar", *_COMPRESSED)) or is_image(path.name)
    return is_file(path) and not (other or is_voc(path))


def _is_wide(path: Path) -> bool:
    """Whether a list is written in UTF-16, as PowerShell does; a long list has to be UTF-8."""
    with path.open("rb") as stream:
        return stream.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def _records(files: Sequence[File], on_fault: OnFault) -> list[ImageRecord]:
    records: list[ImageRecord] = []
    faults = []
    for (path, member), size in zip(files, sizes_or_errors(files), strict=True):
        if isinstance(size, InputError):
            faults.append(Fault("unreadable image", str(size)))
        else:
            height, width = size
            records.append(ImageRecord(len(records) + 1, path, width, height, member))
    on_fault(faults)
    return records


def _members(shards: Iterable[Path]) -> list[File]:
    return [(shard, member) for shard in shards for member in tar_members(shard)]


def _voc_images(path: Path, images: Path | None) -> list[Path]:
    folder = images or voc_images(voc_folder(path))
    names = image_set(path, ("unlabeled", "trainval", "train"))
    if names is None:
        return images_below(folder)
    found = [image_named(folder, name) for name in names]
    if None in found:
        raise InputError(f"{path} names the image {names[found.index(None)]!r}, which is not in {folder}")
    return [folder / name for name in found if name is not None]


def listed_images(path: Path, images: Path | None = None, on_fault: OnFault = refuse) -> list[Path]:
    """The image files that a text list names, one a line; blank lines and those that begin with # are left out.

    Args:
        path: The list.
        images: Folder that its paths are relative to; beside the list if not given. A path of another machine stands
            for the only image of its name in there.
        on_fault: Called for files that are missing, or found by their name.

    Raises:
        InputError: If it is not a text list, or ``on_fault`` raises.
    """
    files: list[Path] = []
    index: ImageIndex | None = None
    for number, name in text_lines(path, no_list(path)):
        if name.startswith("#"):
            continue
        try:
            file = listed_file(name, images or path.parent)
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from error
        refuse_irregular(file)
        if is_file(file):
            files.append(file)
            continue
        if images is not None and index is None:
            index = ImageIndex.below(images)
        found = index.find(listed_name(name)) if index is not None else None
        if index is None or found is None:
            missing = str(file)[:_LONGEST_SHOWN]
            on_fault([Fault("missing image file", f"{path}, line {number}: there is no image file {missing}")])
            continue
        said = f"{path}, line {number}: {name!r} is read as {index.root / found}, found by its name"
        on_fault([Fault("image found by its name", said, harmless=True)])
        files.append(index.root / found)
    if not files:
        raise InputError(f"the list {path} names no images")
    return files
