"""Checkpoints that survive a crash at any moment: whole files only, each with its hash."""

import hashlib
import re
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import torch

from denseteacher.detectors.weight_files import require_regular, require_stored
from denseteacher.errors import InputError
from denseteacher.files import refusal_explained, refuse_irregular, sweep, write_atomically, write_bytes

_FILE_NAME = re.compile(r"([a-z_]+)_(\d+)\.pt")
_PLAIN_TYPES = (bool, int, float, str, type(None))


class CheckpointFolder:
    """The checkpoints of a run: ``step_00001000.pt``, and its SHA-256 in ``step_00001000.pt.sha256``.

    A checkpoint counts only with a manifest that names its hash. The manifest is written first and names the
    old hash too where a checkpoint is replaced, so the rename of the checkpoint itself is the one moment at
    which it becomes valid, and there is no moment without a valid one. ``sha256sum -c`` reads the manifests.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        """Touches nothing on disk.

        Args:
            folder: Made by the first ``save``. Only one process may save to it.
            keep: How many of the checkpoints named ``step`` to keep, at least 1.
        """
        self.folder = folder
        self.keep = keep

    def save(self, step: int, state: dict[str, Any], *, name: str = "step") -> Path:
        """Writes a checkpoint; then removes what it makes superfluous, and what an earlier crash left.

        Args:
            step: Optimizer steps done; part of the file name.
            state: Tensors, numbers, strings and None in dicts (plain or ordered), lists and tuples.
            name: Letters and underscores. Only checkpoints named ``step`` are ever removed: all but the
                ``keep`` last, and those of steps beyond this one, which a resume from an earlier one has
                abandoned.

        Returns:
            The checkpoint's path.

        Raises:
            RunError: If it can't be written; all earlier checkpoints are still there.
            TypeError: If ``state`` holds something that ``load`` would refuse.
        """
        state = _plain(state, "state")
        path = self.folder / f"{name}_{step:08d}.pt"
        with refusal_explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self.sweep()
            accepted = (_manifest_hashes(path) or []) if path.exists() else []
        digest = ""

        def write(stream: BinaryIO) -> None:
            nonlocal digest
            digest = _save_hashed(state, stream)
            _write_manifest(path, [*accepted, digest])

        write_atomically(path, write)
        if accepted:
            _write_manifest(path, [digest])
        if name == "step":
            self._remove_superfluous(step)
        return path

    def load_newest(self, on_fault: Callable[[str], None] = warnings.warn) -> dict[str, Any] | None:
        """The state of the latest step whose checkpoint is whole, under whatever name it was saved.

        Args:
            on_fault: Called with one sentence for each newer checkpoint that is passed over.

        Returns:
            The state with all tensors on the CPU; None where there is not a valid checkpoint.
        """
        for found in sorted(self._checkpoints(), key=lambda one: (one.step, one.name == "step"), reverse=True):
            manifest = _manifest_path(found.path)
            if not manifest.exists():
                on_fault(f"passed over {found.path}: its manifest {manifest.name} is missing")
                continue
            try:
                return self.load(found.path)
            except InputError as error:
                on_fault(f"passed over {found.path.name}: {error}")
        return None

    def load(self, path: Path) -> dict[str, Any]:
        """The state in a checkpoint file, with all tensors on the CPU. Never runs code from the file.

        Raises:
            InputError: If the file is missing, isn't the one that its manifest describes (where there is a
                manifest), or is not a checkpoint of plain tensors and values.
        """
        require_regular(path)
        try:
            with path.open("rb") as stream:
                if not _is_described(stream, path):
                    raise InputError(
                        f"{path} is damaged: its content is not what {_manifest_path(path).name} describes; "
                        "use another checkpoint"
                    )
                require_stored(path)
                stream.seek(0)
                state = torch.load(stream, map_location="cpu", weights_only=True)
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"{path} can't be read: {error.strerror or error}") from error
        except Exception as error:  # bytes that are not a checkpoint make the unpickler raise anything
            raise InputError(_why_refused(path, error)) from error
        if not isinstance(state, dict):
            raise InputError(f"{path} is not a checkpoint: it holds a {type(state).__name__}, not a dict")
        return state

    def files(self, name: str | None = None) -> dict[int, Path]:
        """The checkpoint files, whole or not, by rising step; those of one name alone where it is given."""
        found = sorted(self._checkpoints(), key=lambda one: one.step)
        return {one.step: one.path for one in found if name in (None, one.name)}

    def _checkpoints(self) -> list["_Checkpoint"]:
        """All checkpoint files, valid or not."""
        if not self.folder.is_dir():
            return []
        named = ((path, _FILE_NAME.fullmatch(path.name)) for path in self.folder.iterdir())
        return [_Checkpoint(path, match[1], int(match[2])) for path, match in named if match]

    def _remove_superfluous(self, newest: int) -> None:
        """Removes the checkpoints named ``step`` that are too old, or beyond ``newest``."""
        mine = sorted((one for one in self._checkpoints() if one.name == "step"), key=lambda one: one.step)
        past = [one for one in mine if one.step <= newest]
        for one in past[: -self.keep] + mine[len(past) :]:
            with refusal_explained(one.path, "removed"):
                one.path.unlink(missing_ok=True)  # before its manifest: alone, a manifest is not a checkpoint
                _manifest_path(one.path).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes half-written files and manifests without a checkpoint; only the saving process may."""
        sweep(self.folder)
        for path in self.folder.glob("*.pt.sha256"):
            if not path.with_suffix("").exists():
                path.unlink(missing_ok=True)


class _Checkpoint(NamedTuple):
    path: Path
    name: str
    step: int


class _HashedStream:
    """Hashes what passes through to a file, and remembers why a write failed."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.sha256 = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            self.stream.write(data)
        except OSError as error:
            self.error = error
            raise
        self.sha256.update(data)
        return len(data)

    def flush(self) -> None:
        self.stream.flush()


def _save_hashed(state: dict[str, Any], stream: BinaryIO) -> str:
    """Writes ``state`` and returns the SHA-256 of the bytes."""
    hashed = _HashedStream(stream)
    try:
        torch.save(state, cast(BinaryIO, hashed))
    except Exception:
        # torch's zip writer hides the operating system's error behind one of its own
        if hashed.error is not None:
            raise hashed.error from None
        raise
    return hashed.sha256.hexdigest()


def _manifest_path(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}.sha256")


def _write_manifest(checkpoint: Path, hashes: list[str]) -> None:
    """Writes which contents of a checkpoint are valid, in the format of ``sha256sum``."""
    content = "".join(f"{digest}  {checkpoint.name}\n" for digest in hashes).encode()
    write_bytes(_manifest_path(checkpoint), content)


def _manifest_hashes(checkpoint: Path) -> list[str] | None:
    """The hashes that a checkpoint may have; None without a manifest."""
    refuse_irregular(_manifest_path(checkpoint))
    try:
        content = _manifest_path(checkpoint).read_bytes()
    except FileNotFoundError:
        return None
    return [match.decode() for match in re.findall(rb"^([0-9a-f]{64})  ", content, re.MULTILINE)]


def _is_described(stream: BufferedReader, path: Path) -> bool:
    """Whether the content of an open checkpoint is one that its manifest names, or there is no manifest.

    The manifest is asked before and after: another process may put a new checkpoint in its place meanwhile.
    """
    before = _manifest_hashes(path)
    digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return before is None or digest in before or digest in (_manifest_hashes(path) or [])


def _plain(value: Any, where: str) -> Any:
    """The value with containers and strings of its own: a pickle says which of them are one object.

    So equal states become equal bytes, whether they were made here or loaded.

    Raises:
        TypeError: If something would be written but refused when read. Types are compared exactly: NumPy's float64 is a
            float, but is stored as a NumPy object.
    """
    if type(value) in (dict, OrderedDict):
        copied = type(value)()
        for key, item in value.items():
            copied[_plain(key, f"a key of {where}")] = _plain(item, f"{where}[{key!r}]")
        if isinstance(value, OrderedDict):  # a module keeps the versions of its parts there
            vars(copied).update(_plain(vars(value), f"the attributes of {where}"))
        return copied
    if type(value) in (list, tuple):
        return type(value)(_plain(item, f"{where}[{number}]") for number, item in enumerate(value))
    if type(value) is str:
        return sys.intern(value)
    if type(value) not in _PLAIN_TYPES and not isinstance(value, torch.Tensor):
        raise TypeError(f"{where} is a {type(value).__name__}, which a checkpoint can't hold")
    return value


def _why_refused(path: Path, error: Exception) -> str:
    """Says what is wrong with a file, without torch's own message: that one advises to load it unsafely."""
    call = re.search(r"GLOBAL (\S+)", str(error))
    if call:
        return f"{path} was not loaded: it refers to {call[1]}, but a checkpoint holds tensors and values only"
    return f"{path} is not a checkpoint of tensors and plain values, or a damaged one"
