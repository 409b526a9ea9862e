"""Files: whole or not at all, and refusals in a sentence."""

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from denseteacher.errors import RunError
from denseteacher.files import refusal_explained, write_atomically, write_json, write_text


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted(stream: Any) -> None:
        stream.write(b"new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, interrupted)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_missing_folder_is_a_run_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="No such file or directory"):
        write_atomically(tmp_path / "missing" / "file", lambda stream: None)


def test_content_and_folder_reach_the_disk_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        events.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().suffix or 'folder'}")
        fsync(descriptor)

    def record_replace(source: Any, target: Any) -> None:
        events.append("replace")
        replace(source, target)

    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_atomically(folder / "file", lambda stream: None)
    assert events == ["fsync .tmp", "replace", "fsync folder"]


def test_json_has_null_for_what_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.json"
    write_json(path, {"AP": math.nan, "rows": [(1, math.inf), {"a": -math.inf}], "text": "ä"})
    assert json.loads(path.read_text()) == {"AP": None, "rows": [[1, None], {"a": None}], "text": "ä"}
    write_json(path, [1, 2], indent=None)
    assert path.read_text() == "[1, 2]\n"


def test_a_refusal_names_the_file_the_reason_and_the_room(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file/below can't be written: File exists \([\d,]+ bytes are free\)"):
        write_json(tmp_path / "file" / "below", 1)
    removing = refusal_explained(tmp_path / "folder", "removed")
    with pytest.raises(RunError, match="folder can't be removed: Directory not empty"), removing:
        raise OSError(errno.ENOTEMPTY, "whatever")


def test_a_text_is_written_whole_but_through_links_and_to_devices(tmp_path: Path) -> None:
    path, link = tmp_path / "new" / "file.txt", tmp_path / "link"
    write_text(path, "old")
    link.symlink_to(path)
    write_text(link, "näu")
    assert link.is_symlink()
    assert path.read_bytes() == "näu".encode()
    write_text(Path("/dev/null"), "gone")
    assert not Path("/dev/null").is_file()
    before = path.stat().st_ino
    write_text(path, "newer")
    assert path.stat().st_ino != before  # another file, put in its place
    with pytest.raises(RunError, match="Is a directory"):
        write_text(tmp_path, "text")
