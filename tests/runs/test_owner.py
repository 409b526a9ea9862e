"""One process owns a run folder: living owners are respected, dead ones succeeded."""

import json
import os
import subprocess
import sys

import pytest

from conftest import TINY
from denseteacher.errors import InputError
from denseteacher.runs.folder import RunFolder
from denseteacher.runs.folder_choice import choose_folder
from denseteacher.runs.owner import FolderLock, Owner

SLURM = {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "1"}


@pytest.fixture
def lock(tmp_path):
    return FolderLock(tmp_path / "run" / "run.lock")


def write(lock, **changes):
    lock.file.parent.mkdir(parents=True, exist_ok=True)
    lock.file.write_text(json.dumps(Owner.this()._asdict() | changes))


def test_an_owner_is_named_and_leaves_nothing(lock):
    lock.take()
    assert json.loads(lock.file.read_text())["pid"] == os.getpid()
    with pytest.raises(InputError, match=rf"is in use: process {os.getpid()} on \S+ trains there; wait for it"):
        FolderLock(lock.file).take()
    lock.release()
    assert list(lock.file.parent.iterdir()) == []
    lock.release()


@pytest.fixture(scope="module")
def dead():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


@pytest.mark.parametrize(
    "changes",
    [
        {"pid": None},
        {"started": "another boot 17"},
        {"pid": 2**40},
        {"host": "node7", "job": "slurm 17", "restarts": 0},
    ],
    ids=["dead", "its number is another's now", "no process", "requeued on another machine"],
)
def test_an_owner_that_is_gone_is_succeeded(lock, dead, monkeypatch, changes):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    write(lock, **changes | ({"pid": dead} if changes.get("pid", 0) is None else {}))
    lock.take()
    assert json.loads(lock.file.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": "a"}', "\0" * 50, '{"host": "a", "pid": "x"}'])
def test_a_lock_that_names_nobody_binds_nobody(lock, content):
    lock.file.parent.mkdir()
    lock.file.write_text(content)
    lock.take()
    lock.release()
    assert not lock.file.exists()


@pytest.mark.parametrize(
    "changes",
    [{}, {"job": "slurm 18", "restarts": 0}, {"job": "slurm 17", "restarts": 1}],
    ids=["no job", "another job", "the same start of the same job"],
)
def test_an_owner_on_another_machine_is_not_succeeded(lock, monkeypatch, changes):
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    write(lock, host="node7", pid=99, **{"job": "", "restarts": 0} | changes)
    with pytest.raises(InputError, match=r"process 99 on node7 trains there; if that process is gone, delete \S+lock"):
        lock.take()


def test_of_many_that_start_at_once_beside_a_dead_owner_one_has_the_folder(lock, dead):
    write(lock, pid=dead)
    code = (
        "import sys; from pathlib import Path; from denseteacher.runs.owner import FolderLock; sys.stdin.readline();"
        "FolderLock(Path(sys.argv[1])).take(); print('mine', flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", code, str(lock.file)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(6)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    heard = [process.stdout.readline() for process in processes]
    errors = [process.communicate("\n")[1] for process in processes]
    assert sorted(heard) == [""] * 5 + ["mine\n"]
    assert sum("is in use" in error for error in errors) == 5


@pytest.fixture
def train(coco, call, tmp_path):
    def run(*more):
        options = [part for option in TINY for part in ("--set", option)]
        given = ["--labeled", coco, "--set", "method.name=supervised", "--output", tmp_path / "run"]
        return call("train", "custom", *given, *options, *more)

    return run


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_is_refused_and_touches_nothing(train, tmp_path, resume):
    folder = RunFolder(tmp_path / "run")
    if resume:
        assert train("--set", "schedule.max_steps=1")[0] == 0
    lock = folder.claim()
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    code, _, err = train("--set", "schedule.max_steps=1", *(["--resume"] if resume else []))
    assert code == 2
    assert f"is in use: process {os.getpid()} on" in " ".join(err.split())
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before
    lock.release()
    assert train("--set", "schedule.max_steps=1", *(["--resume"] if resume else []))[0] == 0
    assert not folder.lock.exists()


@pytest.mark.parametrize(
    ("names", "free"),
    [
        ([], True),
        (["run.lock"], True),
        (["run.lock", "split.json", "environment.json", "init.json", ".recipe.yaml.0123.tmp"], True),
        ([".split.json.0123.tmp"], False),
        (["split.json"], False),
        (["run.lock", "notes.txt"], False),
        (["run.lock", "recipe.yaml"], False),
    ],
)
def test_only_what_a_run_left_at_its_beginning_is_written_over(tmp_path, names, free):
    folder = tmp_path / "run"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    if free:
        assert choose_folder("any", folder, resume=False).path == folder
    else:
        with pytest.raises(InputError, match="is not empty"):
            choose_folder("any", folder, resume=False)
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_claiming_removes_what_was_half_written(tmp_path):
    folder = RunFolder(tmp_path / "run")
    checkpoints = folder.checkpoints().folder
    checkpoints.mkdir(parents=True)
    folder.previews.mkdir()
    for path in (folder.path, folder.previews, checkpoints):
        (path / ".x.0123.tmp").touch()
    (checkpoints / "step_00000004.pt.sha256").touch()
    folder.claim().release()
    assert {path.name for path in folder.path.rglob("*")} == {"previews", "checkpoints"}


def test_names_of_runs_that_are_no_numbers_are_passed_over(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("custom-2", "custom-1-old", "custom-x", "customs-7"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    assert choose_folder("custom", None, resume=False).path.name == "custom-3"
