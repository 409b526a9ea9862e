"""Files of a data set: images found in a folder or by name, how large they are, and lines of text."""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from denseteacher.data.images import IMAGE_SUFFIXES, image_size
from denseteacher.data.records import Member
from denseteacher.errors import InputError
from denseteacher.files import decode_text, read_regular

TRIED = 20  # images that are looked for in each place; a few may be missing everywhere
_HEADER_THREADS = 8  # reading headers waits for the disk
_SUFFIXES = (
    ".jpg",
    ".png",
    ".jpeg",
    *(change(one) for change in (str, str.upper, str.title) for one in sorted(IMAGE_SUFFIXES)),
)
_LARGEST_TEXT = 2**30  # bytes
File = tuple[Path, Member | None]
"""An image: a file, or a part of one."""


def is_image(name: str) -> bool:
    """Whether a file name is that of an image, and not of a hidden file."""
    base = os.path.basename(name)  # noqa: PTH119 (Path objects are slow for a million files)
    return not base.startswith(".") and os.path.splitext(base)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122


def images_below(folder: Path) -> list[Path]:
    """All image files in a folder and those below it that are not hidden, in order of their paths.

    Symbolic links are followed, those to folders too (DVC's checkouts and Hugging Face's caches are made of them),
    but each folder is gone through once: a link to one that is open already leads nowhere.
    """
    files: list[str] = []
    seen = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in sorted(folders) if not name.startswith(".") and _is_new(parent, name, seen)]
        files.extend(os.path.join(parent, name) for name in names if is_image(name))  # noqa: PTH118 (as above)
    return [Path(file) for file in sorted(files)]


def _is_new(parent: str, name: str, seen: set[str]) -> bool:
    """Whether a folder is another one than those gone through, or that lie around them."""
    path = os.path.join(parent, name)  # noqa: PTH118 (as above)
    if not os.path.islink(path):  # noqa: PTH114 (as above)
        return True
    target = os.path.realpath(path)
    if any(one == target or one.startswith(target.rstrip(os.sep) + os.sep) for one in seen):
        return False
    seen.add(target)
    return True


def is_file(path: Path) -> bool:
    """Whether there is a regular file; links are followed, and impossible names are those of no file."""
    return os.path.isfile(path)  # noqa: PTH113 (Path.is_file raises for names of more than 255 bytes)


def is_folder(path: Path) -> bool:
    """Whether there is a folder; see ``is_file``."""
    return os.path.isdir(path)  # noqa: PTH112 (as above)


def child_folder(folder: Path, *names: str) -> Path | None:
    """The folder in a folder that has the first of these names, in capitals or not."""
    try:
        folders = {child.name.lower(): child for child in sorted(folder.iterdir()) if is_folder(child)}
    except OSError:
        return None
    exact = next((folder / name for name in names if is_folder(folder / name)), None)
    return exact or next((folders[name.lower()] for name in names if name.lower() in folders), None)


def listed_name(name: str) -> str:
    """A path in a list as it is meant: without quotes around it, and with plain slashes."""
    name = name.strip()
    if len(name) > 1 and name[0] == name[-1] and name[0] in "\"'":
        name = name[1:-1]
    return name.replace("\\", "/")


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

    Args:
        name: The line; in quotes perhaps, or with the separators of Windows.
        folder: Where relative paths begin.

    Raises:
        InputError: If it leaves the folder.
    """
    plain = name.strip()
    if "\\" in plain or plain[:1] in "\"'":
        exact = folder / plain
        if is_file(exact) and ".." not in exact.parts:  # a name that has such characters
            return exact
        plain = listed_name(plain)
    file = Path(plain)
    if ".." in file.parts and not file.is_absolute():
        raise InputError(f"{name!r} leaves the image folder: write its absolute path")
    return folder / file


def no_list(path: Path) -> str:
    """What is wrong with a file of unlabeled images that is none."""
    return f"{path} is not a text list of images, a COCO JSON, a tar file or a folder"


def text_lines(file: Path, refusal: str) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers from 1.

    Raises:
        InputError: With the text ``refusal``, if the file can't be read as text.
    """
    try:
        lines = decode_text(read_regular(file, _LARGEST_TEXT))[0].splitlines()
    except (InputError, ValueError) as error:
        raise InputError(f"{refusal} ({error})" if isinstance(error, InputError) else refusal) from error
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def _beside(path: Path, names: Sequence[str]) -> list[Path]:
    """Folders beside that of the JSON which hold all of these images: ``val2017`` for ``annotations/mine_val.json``."""
    near = path.absolute().parent
    folders = sorted(folder for folder in near.parent.iterdir() if folder.is_dir() and folder != near)
    return [folder for folder in folders if all(is_file(folder / name) for name in names)]


def usual_places(path: Path, images: Path | None, fallback: Path | None = None) -> list[Path]:
    """Folders in which the images of a file of annotations may lie, likely ones first; see ``find_image_folder``."""
    stem = path.stem.removeprefix("instances_").removeprefix("image_info_")

    def below(folder: Path) -> list[Path]:
        return [folder, folder / stem, folder / "images", folder / "images" / stem]

    if images is not None:
        return below(images)
    near, above = path.parent, path.parent.parent
    places = [near, near / "images", near / stem, above / "images", above / stem, above / "images" / stem, above]
    return [*places, *(below(fallback) if fallback is not None else ())]


def find_image_folder(path: Path, images: Path | None, names: Sequence[str], fallback: Path | None = None) -> Path:
    """The folder in which the images of a JSON lie: the first place that has one of the first of them.

    Args:
        path: The JSON.
        images: The folder given by the user, or its parent; without one, the usual places near the JSON.
        names: ``file_name`` of the images.
        fallback: As ``images``, to be tried after the usual places.

    Raises:
        InputError: If it is in none of them.
    """
    candidates = usual_places(path, images, fallback)
    for candidate in candidates:
        if any(is_file(candidate / name) for name in names[:TRIED]):
            return candidate
    beside = _beside(path, names[:TRIED]) if images is None and names else []
    if len(beside) == 1:
        return beside[0]
    there = [candidate for candidate in candidates if candidate.is_dir()]
    tried = ", ".join(map(str, there or candidates))
    how = "--images DIR" if fallback is None else "--set data.val_images=DIR, or data.unlabeled_images=DIR"
    which = f"the image {names[0][:200]!r}" if names else "each image, which has a path of another place,"
    raise InputError(f"{path}: {which} is in none of {tried}: give its folder with {how}")
