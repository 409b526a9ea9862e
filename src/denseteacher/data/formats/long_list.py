"""Text lists of so many images that they are only counted before a run, and opened one by one."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from denseteacher.data.formats.files import is_entry, listed_file, no_list
from denseteacher.data.images import image_size
from denseteacher.data.records import ImageRecord, UnopenedImages
from denseteacher.errors import InputError

LONG_LIST = 200_000
"""Images from which a list is long. To open a million files takes minutes, and their records a gigabyte."""
_BLOCK = 2**22  # bytes read at once
_STRIDE = 64  # lines between two marks: a name is found among so many
_LINE_FEED = 10
_BLANK = 32  # the last of the bytes that ASCII strips
_COMMENT = ord("#")
_BOM = b"\xef\xbb\xbf"

Array = npt.NDArray[np.int64]


class _Marks(NamedTuple):
    """Every so many lines of a file, one mark."""

    offsets: Array
    """Bytes before the line, and at the end those of the file."""
    entries: Array
    """Images named before the line, and at the end in all."""


class LongList(UnopenedImages):
    """The images that a text file names, one a line; it takes a quarter of a byte of memory a line."""

    def __init__(self, path: Path, folder: Path) -> None:
        """Counts the lines.

        Args:
            path: The list: UTF-8, lines that end with a line feed; see ``read_unlabeled``.
            folder: Folder that its paths are relative to.

        Raises:
            InputError: If it can't be read, or isn't text.
        """
        self.path, self.folder = path, folder
        try:
            self._marks = _read_marks(path)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(no_list(path)) from error

    def __len__(self) -> int:
        return int(self._marks.entries[-1])

    def record(self, position: int) -> ImageRecord:
        """See ``UnopenedImages``."""
        number, name = self._line(position)
        try:
            file = listed_file(name.decode(), self.folder)
            height, width = image_size(file)
        except UnicodeDecodeError as error:
            raise InputError(f"{self.path}, line {number} is not UTF-8 text") from error
        except InputError as error:
            raise InputError(f"{self.path}, line {number}: {error}") from error
        return ImageRecord(position + 1, file, width, height)

    def _line(self, position: int) -> tuple[int, bytes]:
        """Number from 1 and text of the line that names an image."""
        offsets, entries = self._marks
        mark = int(np.searchsorted(entries, position, side="right")) - 1
        with self.path.open("rb") as file:
            file.seek(int(offsets[mark]))
            lines = file.read(int(offsets[mark + 1] - offsets[mark])).split(b"\n")
        named = [(number, line.strip()) for number, line in enumerate(lines, mark * _STRIDE + 1) if is_entry(line)]
        return named[position - int(entries[mark])]


def _read_marks(path: Path) -> _Marks:
    """Reads a list once, block by block.

    Raises:
        OSError: If it can't be read.
        UnicodeDecodeError: If its beginning isn't text.
    """
    offsets, entries = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    lines = named = 0
    with path.open("rb") as file:
        start = len(_BOM) if file.read(len(_BOM)) == _BOM else 0
        file.seek(start)
        while block := file.read(_BLOCK) + file.readline():
            if not lines:
                block.decode()
            begins, is_named = _lines(block)
            marked = slice(-lines % _STRIDE, None, _STRIDE)
            offsets.append(begins[marked] + start)
            before: Array = np.cumsum(is_named, dtype=np.int64) - is_named
            entries.append(before[marked] + named)
            lines, named, start = lines + len(begins), named + int(is_named.sum()), start + len(block)
    return _Marks(np.concatenate([*offsets, [start]]), np.concatenate([*entries, [named]]))


def _lines(block: bytes) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Where the lines of a block begin, and which of them name an image."""
    content = np.frombuffer(block, np.uint8)
    begins = np.concatenate([[0], np.flatnonzero(content == _LINE_FEED) + 1])
    begins = begins[begins < len(block)]
    first = content[begins]
    is_named = (first > _BLANK) & (first != _COMMENT)
    for index in np.flatnonzero((first <= _BLANK) & (first != _LINE_FEED)).tolist():
        end = begins[index + 1] if index + 1 < len(begins) else None
        is_named[index] = is_entry(block[begins[index] : end])
    return begins, is_named
