"""Checkpoints: valid after a kill, a full disk or damage, and never a way to run code."""

import contextlib
import errno
import functools
import hashlib
import io
import itertools
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from denseteacher.errors import InputError, RunError
from denseteacher.training.checkpoint import CheckpointFolder


def _state(step: int, size: int = 300) -> dict[str, Any]:
    """A state that says which step it is of in every byte that matters."""
    return {
        "step": step,
        "weights": {"w": torch.full((size,), float(step))},
        "recipe": "{}",
        "best": {"AP": 1.5},
    }


def _assert_is(state: dict[str, Any] | None, step: int) -> None:
    assert state is not None
    assert state["step"] == step
    assert torch.equal(state["weights"]["w"], torch.full_like(state["weights"]["w"], float(step)))


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _pair(name: str) -> list[str]:
    return [f"{name}.pt", f"{name}.pt.sha256"]


# --- what is saved and kept ---------------------------------------------------------------------------------


def test_round_trip_of_a_model_and_its_optimizer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(5, 3)).square().sum().backward()
    optimizer.step()
    folder = CheckpointFolder(tmp_path / "run" / "checkpoints")
    path = folder.save(7, {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "note": None})
    assert path == tmp_path / "run" / "checkpoints" / "step_00000007.pt"
    loaded = folder.load(path)
    assert list(loaded["model"]) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded["model"][name], tensor)
    before, after = optimizer.state_dict(), loaded["optimizer"]
    assert after["param_groups"] == before["param_groups"]
    for index, entries in before["state"].items():
        for name, tensor in entries.items():
            assert torch.equal(after["state"][index][name], tensor)


def test_manifest_is_what_sha256sum_writes(tmp_path: Path) -> None:
    path = CheckpointFolder(tmp_path).save(1000, _state(1000))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (tmp_path / "step_00001000.pt.sha256").read_text() == f"{digest}  step_00001000.pt\n"


def test_files_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    path = CheckpointFolder(tmp_path).save(1, _state(1))
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert path.stat().st_mode == ordinary.stat().st_mode


def test_only_the_last_steps_and_all_other_names_are_kept(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(10, _state(10), name="burn_in")
    for step in (10, 20, 30, 40):
        folder.save(step, _state(step))
    assert _names(tmp_path) == sorted(_pair("burn_in_00000010") + _pair("step_00000030") + _pair("step_00000040"))
    _assert_is(folder.load(tmp_path / "burn_in_00000010.pt"), 10)


def test_the_newest_may_have_any_name(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(10, _state(10))
    folder.save(25, _state(25), name="burn_in")
    _assert_is(folder.load_newest(), 25)


def test_steps_that_a_resume_abandoned_are_removed(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    for step in (10, 20):
        folder.save(step, _state(step))
    folder.save(15, _state(15))
    assert _names(tmp_path) == _pair("step_00000010") + _pair("step_00000015")
    _assert_is(folder.load_newest(), 15)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(5, _state(1))
    path = folder.save(5, _state(2))
    _assert_is(folder.load_newest(), 2)
    assert (tmp_path / "step_00000005.pt.sha256").read_text().count("\n") == 1
    assert _names(tmp_path) == _pair(path.stem)


def test_a_folder_without_checkpoints_has_no_newest(tmp_path: Path) -> None:
    (tmp_path / "notes.pt").write_bytes(b"not named like a checkpoint")
    assert CheckpointFolder(tmp_path).load_newest() is None
    assert CheckpointFolder(tmp_path / "missing").load_newest() is None
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"best": {"AP": np.float64(3.0)}}, "state['best']['AP'] is a float64"),
        ({"rows": [1, (2, np.zeros(2))]}, "state['rows'][1][1] is a ndarray"),
        ({"path": Path("x")}, "state['path'] is a PosixPath"),
        ({Path("x"): 1}, "a key of state is a PosixPath"),
    ],
)
def test_what_could_not_be_read_again_is_not_saved(tmp_path: Path, value: dict[Any, Any], where: str) -> None:
    with pytest.raises(TypeError, match=re.escape(where)):
        CheckpointFolder(tmp_path).save(1, value)
    assert _names(tmp_path) == []


# --- killed ------------------------------------------------------------------------------------------------

_SAVER = """
import itertools, os, sys
from pathlib import Path
import torch
from denseteacher.training.checkpoint import CheckpointFolder

folder = CheckpointFolder(Path(sys.argv[1]))
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.write(1, f"{os.getpid()}\\n".encode())
        for step in itertools.count(int(line)):
            folder.save(step, {"step": step, "weights": {"w": torch.full((60_000,), float(step))}})
            os.write(1, f"{step}\\n".encode())
    os.waitpid(child, 0)
    os.write(1, b"dead\\n")
"""


def test_a_kill_at_any_moment_leaves_the_last_checkpoint_and_no_litter(tmp_path: Path) -> None:
    folder, moments = CheckpointFolder(tmp_path, keep=2), random.Random(0)
    folder.save(0, _state(0))
    done, rounds_with_litter = 0, 0
    command = [sys.executable, "-c", _SAVER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as saver:
        assert saver.stdin is not None
        assert saver.stdout is not None
        for _ in range(25):
            print(done + 1, file=saver.stdin, flush=True)
            process = int(saver.stdout.readline())
            time.sleep(moments.uniform(0.0, 0.05))
            os.kill(process, signal.SIGKILL)
            finished = [int(line) for line in iter(saver.stdout.readline, "dead\n")]
            done = finished[-1] if finished else done
            rounds_with_litter += any(".tmp" in name for name in _names(tmp_path))
            newest = folder.load_newest(_fail)
            assert newest is not None
            assert newest["step"] in (done, done + 1)  # the kill may come between a save and its report
            _assert_is(newest, newest["step"])
            done = newest["step"] + 1
            folder.save(done, _state(done))
            assert _names(tmp_path) == _pair(f"step_{done - 1:08d}") + _pair(f"step_{done:08d}")
        saver.stdin.close()
    assert rounds_with_litter > 0, "no kill came during a write: the test has shown nothing"


def _fail(sentence: str) -> None:
    raise AssertionError(sentence)


# --- a file system that refuses ----------------------------------------------------------------------------


class _FullDisk:
    """Lets this many bytes reach files opened by ``write_atomically``, then refuses."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.room = 0
        self.written = 0
        original = Path.open

        def open_path(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            if mode == "xb":
                return io.BufferedWriter(_LimitedFile(path, self), buffer_size=512)
            return original(path, mode, *args, **options)

        monkeypatch.setattr(Path, "open", open_path)


class _LimitedFile(io.FileIO):
    def __init__(self, path: Path, disk: _FullDisk) -> None:
        super().__init__(path, "xb")
        self.disk = disk

    def write(self, data: Any) -> int:
        if self.disk.written + len(data) > self.disk.room:
            super().write(bytes(data)[: max(0, self.disk.room - self.disk.written)])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.disk.written += len(data)
        return super().write(data)


@pytest.mark.parametrize("replaced", [False, True], ids=["new step", "same step again"])
def test_a_full_disk_leaves_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: bool
) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(1, _state(1))
    before = _names(tmp_path)
    step = 1 if replaced else 2
    disk = _FullDisk(monkeypatch)
    disk.room = 10**9
    CheckpointFolder(tmp_path / "other").save(1, _state(2))
    size = disk.written
    shutil.rmtree(tmp_path / "other")
    for room in np.linspace(0, size - 1, 60, dtype=int).tolist():
        disk.room, disk.written = room, 0
        with pytest.raises(RunError) as caught:
            folder.save(step, _state(2))
        message = str(caught.value)
        assert f"step_{step:08d}.pt" in message
        assert "No space left on device" in message
        assert re.search(r"[\d,]{4,} bytes are free", message)
        _assert_is(folder.load_newest(_fail), 1)
        if not replaced:
            folder.sweep()
            assert _names(tmp_path) == before
        assert not any(".tmp" in name for name in _names(tmp_path))
    disk.room = 10**9
    folder.save(step, _state(2))
    _assert_is(folder.load_newest(_fail), 2)


@pytest.mark.parametrize("replaced", [False, True], ids=["new step", "same step again"])
@pytest.mark.parametrize("error", [errno.EIO, errno.EXDEV, errno.EROFS])
@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "os.open", "pathlib.Path.open", "pathlib.Path.mkdir"])
def test_any_system_call_may_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: int, replaced: bool
) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(1, _state(1))
    step = 1 if replaced else 2
    owner: Any = {"os": os, "pathlib.Path": Path}[call.rpartition(".")[0]]
    name = call.rpartition(".")[2]
    original = getattr(owner, name)
    for failing in itertools.count(1):
        calls = itertools.count(1)

        def refuse(*args: Any, **options: Any) -> Any:
            if next(calls) == failing:  # noqa: B023 - used within this turn of the loop only
                raise OSError(error, os.strerror(error))
            return original(*args, **options)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, refuse)
            refused = _refusal(folder, step)
        if refused is None:
            break
        assert os.strerror(error) in refused
        assert str(tmp_path) in refused
        assert not any(".tmp" in name for name in _names(tmp_path))
        newest = folder.load_newest(_fail)
        assert newest is not None
        _assert_is(newest, newest["step"])  # the old or the new one, and nothing between
    assert failing > 1, f"{call} is never called: the test has shown nothing"
    _assert_is(folder.load_newest(_fail), 2)


def _refusal(folder: CheckpointFolder, step: int) -> str | None:
    """What a save says; None if it succeeds."""
    try:
        folder.save(step, _state(2))
    except RunError as error:
        return str(error)
    return None


def test_a_file_system_that_can_not_sync_folders_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def files_only(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir():
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", files_only)
    CheckpointFolder(tmp_path).save(1, _state(1))
    _assert_is(CheckpointFolder(tmp_path).load_newest(_fail), 1)


# --- damage ------------------------------------------------------------------------------------------------


def _two_checkpoints(tmp_path: Path) -> tuple[CheckpointFolder, Path]:
    folder = CheckpointFolder(tmp_path)
    folder.save(1, _state(1))
    return folder, folder.save(2, _state(2))


def _flipped(content: bytes, position: int, bit: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]


def test_every_truncation_and_bit_flip_of_the_newest_is_seen(tmp_path: Path) -> None:
    folder, newest = _two_checkpoints(tmp_path)
    whole, places = newest.read_bytes(), random.Random(1)
    damaged = [whole[: places.randrange(len(whole))] for _ in range(30)]
    damaged += [_flipped(whole, places.randrange(len(whole)), places.randrange(8)) for _ in range(70)]
    for content in (*damaged, b"", whole + b"\0"):
        newest.write_bytes(content)
        said: list[str] = []
        _assert_is(folder.load_newest(said.append), 1)
        assert len(said) == 1
        assert "step_00000002.pt" in said[0]
        with pytest.raises(InputError, match=r"step_00000002\.pt is damaged"):
            folder.load(newest)


def test_a_damaged_or_missing_manifest_disqualifies(tmp_path: Path) -> None:
    folder, newest = _two_checkpoints(tmp_path)
    manifest = newest.with_name(f"{newest.name}.sha256")
    whole = manifest.read_bytes()
    for content in (b"", whole[:40], _flipped(whole, 10, 3), b"\xff" * 80):
        manifest.write_bytes(content)
        _assert_is(folder.load_newest(lambda sentence: None), 1)
    manifest.unlink()
    with pytest.warns(UserWarning, match=r"step_00000002\.pt.*manifest.*is missing"):
        _assert_is(folder.load_newest(), 1)
    _assert_is(folder.load(newest), 2)  # named by the user: nothing speaks against it


@pytest.mark.parametrize("cut", [0, 1, 100, 1000, -30, -1])
def test_damage_without_a_manifest_is_one_readable_sentence(tmp_path: Path, cut: int) -> None:
    _, path = _two_checkpoints(tmp_path)
    path.with_name(f"{path.name}.sha256").unlink()
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError) as caught:
        CheckpointFolder(tmp_path).load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match=r"list\.pt is not a checkpoint: it holds a list"):
        folder.load(tmp_path / "list.pt")
    with pytest.raises(InputError, match=r"absent\.pt can't be read: No such file"):
        folder.load(tmp_path / "absent.pt")
    with pytest.raises(InputError, match="can't be read: Is a directory"):
        folder.load(tmp_path)


# --- malice ------------------------------------------------------------------------------------------------


class _Call:
    """Pickles as a call, made by whoever unpickles it."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def _exploits(canary: Path) -> dict[str, _Call]:
    """Ways to make a file when unpickled."""
    command, code = f"touch {canary}", f"open({str(canary)!r}, 'w').close()"
    inner = io.BytesIO()
    torch.save(_Call(eval, code), inner)
    array = np.empty(1, dtype=object)
    array[0] = _Call(eval, code)
    return {
        "os.system": _Call(os.system, command),
        "eval": _Call(eval, code),
        "exec": _Call(exec, code),
        "open": _Call(open, str(canary), "w"),
        "os.mkdir": _Call(os.mkdir, str(canary)),
        "subprocess": _Call(subprocess.call, ["touch", str(canary)]),
        "partial": _Call(functools.partial(os.system, command)),
        "timeit": _Call(timeit.timeit, code, "pass", time.perf_counter, 1),
        "within a call": _Call(list, [_Call(eval, code)]),
        "within an object array": _Call(np.array, array),
        "torch's own unsafe loader": _Call(torch.storage._load_from_bytes, inner.getvalue()),
    }


def _write_evil(path: Path, evil: Any, container: str) -> None:
    """A file in one of the formats that torch.load reads, with a manifest that fits."""
    state = {"step": 1, "optimizer": {"state": {0: {"momentum": evil}}, "param_groups": []}}
    if container == "tar":
        with tarfile.open(path, "w") as archive:
            for name in ("sys_info", "pickle", "storages", "tensors"):
                data = pickle.dumps(state, protocol=2)
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    elif container == "raw":
        path.write_bytes(pickle.dumps(state, protocol=2))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=container == "zip")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")


@pytest.mark.parametrize("container", ["zip", "legacy", "raw", "tar"])
@pytest.mark.parametrize("exploit", list(_exploits(Path("canary"))))
def test_no_file_runs_code(tmp_path: Path, exploit: str, container: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "checkpoints" / "step_00000002.pt"
    folder = CheckpointFolder(path.parent)
    folder.save(1, _state(1))
    _write_evil(path, _exploits(canary)[exploit], container)
    with pytest.raises(InputError) as caught:
        folder.load(path)
    assert str(path) in str(caught.value)
    assert "weights_only" not in str(caught.value)  # no advice to load it unsafely
    said: list[str] = []
    _assert_is(folder.load_newest(said.append), 1)
    assert len(said) == 1
    assert not canary.exists()

    with contextlib.suppress(Exception):  # the control: read carelessly, the same file does its work
        torch.load(path, weights_only=False)
    assert canary.exists()


def test_a_refusal_names_the_call(tmp_path: Path) -> None:
    path = tmp_path / "step_00000001.pt"
    _write_evil(path, _exploits(tmp_path / "canary")["os.system"], "zip")
    with pytest.raises(InputError, match=r"step_00000001\.pt was not loaded: it refers to posix\.system"):
        CheckpointFolder(tmp_path).load(path)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.mkdir(), lambda path: path.symlink_to(path)])
def test_a_manifest_that_is_not_a_file_is_passed_over(tmp_path, make):
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2):
        folder.save(step, {"step": step})
    manifest = tmp_path / "step_00000002.pt.sha256"
    manifest.unlink()
    make(manifest)
    told = []
    assert folder.load_newest(on_fault=told.append) == {"step": 1}
    assert len(told) == 1
