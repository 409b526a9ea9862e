"""Image files of names that were written on another machine: by base name, where only one file can be meant."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from denseteacher.data.formats.files import is_image

_URL = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]+://[^/]*")
_SERVED = re.compile(r"[?&]d=([^&#]+)")  # Label Studio's local files
_PREFIX, _UPLOAD = re.compile(r"^(?=[0-9]*[a-f])[0-9a-f]{8}-"), re.compile(r"^[0-9a-fA-F]{4,32}-")
"""What Label Studio puts before the names of uploads; where the folder says that it is one, of any length."""


def leaves_folder(name: str) -> bool:
    """Whether a name is not a plain path inside the folder that it is relative to."""
    parts = name.replace("\\", "/").split("/")
    return name.startswith(("/", "\\", "~")) or ".." in parts or "\0" in name or ":" in parts[0]


def is_file_below(folder: Path, name: str) -> bool:
    """Whether a name stands for a regular file inside a folder; symbolic links that lie there are followed."""
    # not Path.is_file, which raises for names of more than 255 bytes
    return not leaves_folder(name) and os.path.isfile(os.path.join(folder, name))  # noqa: PTH113, PTH118


class ImageIndex:
    """The image files in some folders, by what is left of a name from elsewhere."""

    def __init__(self, root: Path, files: Iterable[str]) -> None:
        """Takes the files.

        Args:
            root: Folder that they are relative to.
            files: Their paths with plain slashes.
        """
        self.root = root
        self._by_base: dict[str, list[str]] = {}
        self._by_stem: dict[str, list[str]] = {}
        for file in files:
            base = file.rpartition("/")[2].casefold()
            self._by_base.setdefault(base, []).append(file)
            self._by_stem.setdefault(base.rpartition(".")[0], []).append(file)

    @classmethod
    def below(cls, folder: Path) -> "ImageIndex":
        """All images in a folder and those below it that are not hidden."""
        return cls(folder, _walk(folder))

    @classmethod
    def inside(cls, folder: Path) -> "ImageIndex":
        """The images in a folder, without those below it."""
        try:
            names = sorted(file.name for file in folder.iterdir())
        except OSError:
            names = []
        return cls(folder, [name for name in names if is_image(name) and is_file_below(folder, name)])

    def find(self, name: str, *, moved: bool = True) -> str | None:
        """The file that a name stands for, None where there is none or it could be several.

        Args:
            name: With plain slashes.
            moved: Whether the folders in the name may be others here.
        """
        for spelling in _spellings(name):
            base = spelling.rpartition("/")[2]
            if not base:
                continue
            files = self._by_base.get(base.casefold()) or self._by_stem.get(base.casefold(), [])
            if not moved:
                files = [file for file in files if _folder(file) == _folder(spelling).casefold()]
            found = _closest(files, spelling)
            if found is not None:
                return found
        return None


def _walk(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(parent, folder).replace(os.sep, "/")
        for name in sorted(names):
            if is_image(name) and os.path.isfile(os.path.join(parent, name)):  # noqa: PTH113, PTH118 (as above)
                yield name if below == "." else f"{below}/{name}"


def _spellings(name: str) -> Iterator[str]:
    """What a name may mean: as it is; without what makes it an address; decoded; without an upload's prefix."""
    seen = set()
    served = _SERVED.search(name)
    for plain in (name, served[1] if served else None, _URL.sub("", name).partition("?")[0].partition("#")[0]):
        if plain is None:
            continue
        for spelling in (plain, unquote(plain)):
            folder, slash, base = spelling.rpartition("/")
            prefix = _UPLOAD if "/upload/" in f"/{folder}/" else _PREFIX
            for one in (spelling, f"{folder}{slash}{prefix.sub('', base)}"):
                if one not in seen:
                    seen.add(one)
                    yield one


def _folder(file: str) -> str:
    return file.rpartition("/")[0].casefold()


def _closest(files: list[str], name: str) -> str | None:
    """The file that has most of a name's last parts; None where several have."""
    if len(files) < 2:
        return files[0] if files else None
    common = [_shared_parts(file, name) for file in files]
    best = max(common)
    if common.count(best) == 1:
        return files[common.index(best)]
    exact = [file for file, parts in zip(files, common, strict=True) if parts == best and _same_case(file, name)]
    return exact[0] if len(exact) == 1 else None


def _same_case(file: str, name: str) -> bool:
    return file.rpartition("/")[2] == name.rpartition("/")[2]


def _shared_parts(file: str, name: str) -> int:
    shared = 0
    folders = (reversed(one.casefold().split("/")[:-1]) for one in (file, name))
    for mine, other in zip(*folders, strict=False):
        if mine != other:
            break
        shared += 1
    return shared
