"""One process owns a run folder: who it is stands in a file there."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.errors import InputError
from denseteacher.files import refusal_explained

try:
    import fcntl
except ImportError:  # Windows has no such locks: two runs that start in the same instant are not told apart there
    fcntl = None  # type: ignore[assignment]


class Owner(NamedTuple):
    """A process that trains."""

    host: str
    pid: int
    started: str
    """When it started, as its system counts; empty where that can't be known."""
    job: str
    """Job of SLURM or torchrun; empty where none started it."""
    restarts: int
    """Restarts of the job."""

    @classmethod
    def this(cls) -> "Owner":
        """This process."""
        found = os.environ
        slurm, torchrun = found.get("SLURM_JOB_ID"), found.get("TORCHELASTIC_RUN_ID", "none")
        job = f"slurm {slurm}" if slurm else "" if torchrun == "none" else f"torchrun {torchrun}"
        restarts = found.get("SLURM_RESTART_COUNT" if slurm else "TORCHELASTIC_RESTART_COUNT", "0")
        pid = os.getpid()
        return cls(socket.gethostname(), pid, _started(pid) or "", job, int(restarts) if restarts.isdigit() else 0)

    def is_gone(self, new: "Owner") -> bool:
        """Whether it can't write any more: it is dead, or its job was restarted as another process.

        Args:
            new: The process that asks.
        """
        if self.host == new.host:
            return not _is_alive(self.pid, self.started)
        # what restarts a job has ended its processes before, on whatever machine
        return bool(self.job) and self.job == new.job and self.restarts < new.restarts


class FolderLock:
    """The file that says who owns a folder.

    Two processes of one machine never own a folder at once, nor two of several that share a file system with locks
    (NFS since version 4). On a file system without locks two that start in the same instant may.
    """

    def __init__(self, file: Path) -> None:
        """Takes nothing yet.

        Args:
            file: The lock.
        """
        self.file = file
        self._mine: Owner | None = None

    @property
    def is_held(self) -> bool:
        """Whether a process owns the folder that isn't known to be dead; looks at the file alone."""
        try:
            other = _owner(self.file.read_bytes()[:10_000])
        except OSError:
            return False
        return other is not None and not other.is_gone(Owner.this())

    def take(self) -> None:
        """Makes this process the owner; one that is dead is succeeded.

        Raises:
            InputError: If another process is the owner, or this one already is.
            RunError: If the disk refuses.
        """
        mine = Owner.this()
        with refusal_explained(self.file):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with _opened_alone(self.file) as stream:
                other = _owner(os.pread(stream, 10_000, 0))
                if other is not None and not other.is_gone(mine):
                    raise InputError(self._refusal(other, mine))
                os.ftruncate(stream, 0)
                os.pwrite(stream, json.dumps(mine._asdict()).encode() + b"\n", 0)
                self._mine = mine

    def release(self) -> None:
        """Lets others have the folder; nothing where this process doesn't own it."""
        if self._mine is None:
            return
        try:
            with _opened_alone(self.file, create=False) as stream:
                if _owner(os.pread(stream, 10_000, 0)) == self._mine:
                    self.file.unlink(missing_ok=True)
        except OSError:
            pass  # a lock that stays is one of a dead process soon
        self._mine = None

    def _refusal(self, other: Owner, mine: Owner) -> str:
        who = f"process {other.pid} on {other.host}"
        if other.host == mine.host:
            return f"{self.file.parent} is in use: {who} trains there; wait for it, end it, or choose another --output"
        return (
            f"{self.file.parent} is in use: {who} trains there; if that process is gone, delete {self.file} and start "
            "again"
        )


@contextmanager
def _opened_alone(file: Path, *, create: bool = True) -> Iterator[int]:
    """A descriptor of the file, which no other process has here meanwhile."""
    while True:
        stream = os.open(file, os.O_RDWR | (os.O_CREAT if create else 0), 0o666)
        try:
            _wait_alone(stream)
            if not _is_file(file, stream):  # its owner has just removed it
                continue
            yield stream
            return
        finally:
            os.close(stream)


def _wait_alone(stream: int) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):  # a file system without locks
            raise


def _is_file(file: Path, stream: int) -> bool:
    try:
        return os.path.samestat(file.stat(), os.fstat(stream))
    except FileNotFoundError:
        return False


def _owner(content: bytes) -> Owner | None:
    """The owner that is named; None where nobody is, as in a file that a crash has cut short."""
    try:
        found: dict[str, Any] = json.loads(content)
        return Owner(
            str(found["host"]), int(found["pid"]), str(found["started"]), str(found["job"]), int(found["restarts"])
        )
    except (ValueError, KeyError, TypeError):
        return None


def _is_alive(pid: int, started: str) -> bool:
    """Whether a process of this machine runs, and is the one that started then."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass  # of another user
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    now = _started(pid)
    return now is None or not started or now == started


def _started(pid: int) -> str | None:
    """When a process was started, in ticks of this boot; empty for one that is dead but still listed, None unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return "" if fields[0] in "ZX" else f"{boot} {fields[19]}"
