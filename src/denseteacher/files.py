"""Files: written whole or not at all where it matters, read within bounds; a refusal is one sentence."""

import codecs
import errno
import json
import math
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

from denseteacher.errors import InputError, RunError

_HIGH_BYTES = re.compile(rb"[\x80-\xff]+")
_GBK_FIRST = 0xA1  # both bytes of every letter of GB 2312, the common part of GBK

_HALF_WRITTEN = ".*.tmp"


@contextmanager
def refusal_explained(path: Path, action: str = "written") -> Iterator[None]:
    """Turns a refusal of the operating system into one sentence.

    Args:
        path: What could not be written.
        action: What could not be done to it.

    Raises:
        RunError: In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        try:
            existing = next(folder for folder in (path, *path.parents) if folder.exists())
            free = f"{shutil.disk_usage(existing).free:,} bytes are free"
        except OSError:
            free = "the free space is unknown"
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise RunError(f"{path} can't be {action}: {reason} ({free})") from error


def write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    """Writes a file so that its name always means either the old content or the whole new one.

    Args:
        path: The file; its folder exists.
        write: Writes the content to the open file it is given.

    Raises:
        RunError: If the file system refuses (disk full, read-only, I/O error); the old content stays.
    """
    # In the same folder, because a rename across file systems is a copy and not atomic
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with refusal_explained(path):
        try:
            with temporary.open("xb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
            _sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sweep(folder: Path) -> None:
    """Removes what a process that was killed has left of ``write_atomically`` in a folder.

    Args:
        folder: One that no other process writes to; it needs not exist.

    Raises:
        OSError: If the file system refuses.
    """
    for path in folder.glob(_HALF_WRITTEN):
        path.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """``write_atomically`` of what is there already."""
    write_atomically(path, lambda stream: cast(None, stream.write(content)))


def write_text(path: Path, text: str) -> None:
    """Writes a text as UTF-8, whole or not at all; folders are made.

    A link, and what is not a file, is written to plainly: a user may name a device, as ``/dev/stdout``.

    Raises:
        RunError: If the disk refuses.
    """
    with refusal_explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() or (path.exists() and not path.is_file()):
            path.write_text(text, encoding="utf-8")
            return
    write_bytes(path, text.encode())


def write_json(path: Path, content: Any, *, indent: int | None = 1) -> None:
    """``write_text`` of JSON, in which numbers that are not finite become null.

    Args:
        path: The file.
        content: What JSON can hold.
        indent: None puts all on one line.

    Raises:
        RunError: If the disk refuses.
    """
    write_text(path, json.dumps(_finite(content), indent=indent, allow_nan=False) + "\n")


def parse_json(text: str) -> Any:
    """What a JSON text of unknown origin holds.

    Raises:
        ValueError: If it is none, nests too deep, names a key twice, holds a number that is not finite, or a text that
            can't be written (half of a surrogate pair).
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            raise ValueError("a key is there twice")
        return content

    def refused(name: str) -> Any:
        raise ValueError(f"{name} is not a number of JSON")

    try:
        content = json.loads(text, object_pairs_hook=unique, parse_constant=refused)
        json.dumps(content, ensure_ascii=False).encode()
        return content
    except json.JSONDecodeError as error:
        raise ValueError(f"its JSON ends or goes on wrongly ({error.msg})") from error
    except UnicodeEncodeError as error:
        raise ValueError("a text in its JSON can't be written") from error
    except RecursionError as error:
        raise ValueError("its JSON nests too deep") from error


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sync_folder(folder: Path) -> None:
    """Makes a rename in this folder last beyond a power cut."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems can't, and need not
            raise
    finally:
        os.close(descriptor)


def require_empty(output: Path) -> None:
    """Sees whether a folder may be written to.

    Args:
        output: What the user asked for with ``--output``.

    Raises:
        InputError: If it is a file, or holds something.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} is not empty: choose another --output; nothing was changed")


def refuse_irregular(path: Path) -> None:
    """Refuses what would block or never end when it is read.

    Raises:
        InputError: If there is a pipe, a device or a socket at a path.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):  # whoever opens it says why that fails
        return
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise InputError(f"{path} is a pipe, a device or a socket, where a regular file is needed")


def read_regular(path: Path, largest: int) -> bytes:
    """The content of a file from elsewhere.

    Args:
        path: The file.
        largest: Bytes that it may have.

    Raises:
        InputError: If it is missing, no regular file, or larger.
    """
    refuse_irregular(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(largest + 1)
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{str(path)[:300]} can't be read: {reason}") from error
    if len(content) > largest:
        raise InputError(f"{path} has more than {largest:,} bytes, which no file of its kind has")
    return content


def decode_text(content: bytes) -> tuple[str, str]:
    """A text file's content, and the encoding that it was found to have.

    A byte order mark says it; without one it is UTF-8, and where it can't be, GBK (whose letters come in pairs of
    high bytes) or Windows' Latin-1.

    Raises:
        ValueError: If it is not a text.
    """
    marks = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
    marked = next((encoding for mark, encoding in marks.items() if content.startswith(mark)), None)
    if marked is not None:
        return content.decode(marked), marked.removesuffix("-sig")
    if b"\0" in content:
        raise ValueError("it has bytes of nought")
    with suppress(UnicodeDecodeError):
        return content.decode(), "utf-8"
    pairs = all(len(run) % 2 == 0 and min(run) >= _GBK_FIRST for run in _HIGH_BYTES.findall(content))
    for encoding in (*(["gbk"] if pairs else []), "cp1252"):
        with suppress(UnicodeDecodeError):
            return content.decode(encoding), encoding
    return content.decode("latin-1"), "latin-1"
