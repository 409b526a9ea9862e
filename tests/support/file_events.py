"""What a process does to files, event by event: to see a folder as a kill at any of them would leave it."""

import json
import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_watchers = []
_installed = []


def _hook(event, arguments):
    if not _watchers:
        return
    if event == "open":
        path, _, flags = arguments
        paths = [path] if isinstance(path, str) and flags & _WRITING else []
    elif event in ("os.rename", "os.remove", "os.mkdir"):
        paths = [path for path in arguments[:2] if isinstance(path, str)]
    else:
        return
    for path in map(os.fspath, paths):
        for watcher in _watchers:
            watcher(event, path)


@contextmanager
def watched(watcher):
    """Calls ``watcher(event, path)`` before a file is opened to be written, renamed or removed, or a folder made."""
    if not _installed:
        sys.addaudithook(_hook)  # which can't be taken away again
        _installed.append(True)
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


class Snapshots:
    """Copies of a folder before every event in it, each once."""

    def __init__(self, folder, copies, *, without=()):
        self.folder, self.copies, self.without = Path(folder), Path(copies), without
        self.events, self.taken, self._seen, self._busy = [], [], set(), False

    def __call__(self, event, path):
        if self._busy or not path.startswith(str(self.folder)) or any(part in path for part in self.without):
            return
        self._busy = True
        try:
            self.events.append((event, path))
            content = tuple(
                sorted((str(file), file.read_bytes()) for file in self.folder.rglob("*") if file.is_file())
                if self.folder.exists()
                else ()
            )
            if content not in self._seen:
                self._seen.add(content)
                copy = self.copies / str(len(self.taken))
                if self.folder.exists():
                    shutil.copytree(self.folder, copy)
                self.taken.append(copy)
        finally:
            self._busy = False


def forget_owner(folder):
    """Makes the process dead that a copied run's lock names."""
    lock = folder / "run.lock"
    if lock.exists() and lock.read_text():
        lock.write_text(json.dumps(json.loads(lock.read_text()) | {"started": "long ago"}))
