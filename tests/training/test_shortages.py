"""Too little memory, too few files, a loader process that dies: one sentence each, and the run is saved."""

import itertools
import os
import resource
import signal
import subprocess
import sys
from multiprocessing import active_children

import pytest
import torch

import denseteacher
from conftest import TINY
from denseteacher.data.loading.steps import StepDataset
from denseteacher.errors import RunError
from denseteacher.training.metrics_log import read_metrics
from denseteacher.training.shortages import explain_shortage
from denseteacher.training.student_teacher import StudentTeacher
from support import assert_same, last_state, trained_below

OPTIONS = [*TINY, "method.name=supervised", "schedule.checkpoint_every=100"]


@pytest.fixture
def run(coco, tmp_path):
    """Trains into a folder below ``tmp_path``."""
    return trained_below(tmp_path, OPTIONS, labeled=coco)


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (MemoryError(), "memory ran out:"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.27 GiB. GPU"), "(Tried to allocate 1.27 GiB)"),
        (
            RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."),
            "memory",
        ),
        (OSError(12, "Cannot allocate memory"), "memory ran out"),
        (OSError(24, "Too many open files", "a.jpg"), "ulimit -n 4096"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n 4096"),
        (RuntimeError("unable to open shared memory object </torch_17> in read-write mode"), "--shm-size"),
        (RuntimeError("DataLoader worker (pid 3) is killed by signal: Bus error. out of shared memory"), "--shm-size"),
        (RuntimeError("DataLoader worker (pid(s) 17, 18) exited unexpectedly"), "a loader process died"),
        (RuntimeError("DataLoader worker (pid 17) is killed by signal: Killed."), "died (killed by signal: Killed)"),
        (RuntimeError("can't start new thread"), "raise ulimit -u"),
        (BlockingIOError(11, "Resource temporarily unavailable"), "raise ulimit -u"),
        (caused(RuntimeError("strange"), OSError(24, "Too many open files")), "ulimit -n"),
    ],
)
def test_a_shortage_says_what_there_was_too_little_of(error, says):
    assert says in explain_shortage(error)


def test_a_single_value_a_channel_has_no_statistics(coco, unlabeled, tmp_path):
    views = ["augment.weak.sampling=choice", "augment.weak.short_side=[64]", "augment.weak.max_side=64"]
    views += ["method.half_view=true", "detector.finer_level=true"]  # of which a view is a pixel at stride 32
    batches = ["data.labeled_batch=1", "data.unlabeled_batch=1", "method.name=dense_teacher", "method.burn_in=2"]
    train = trained_below(tmp_path, [*TINY, *views, *batches], labeled=coco, unlabeled=unlabeled)
    with pytest.raises(RunError, match=r"after step \d batch normalization had a single value .*is saved at step \d"):
        train("run")


@pytest.mark.parametrize("error", [ValueError("memory"), RuntimeError("size mismatch"), KeyError(24), OSError(2, "x")])
def test_other_errors_are_none(error):
    assert explain_shortage(error) is None


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), "a loader process died"),
        (FileNotFoundError(2, "No such file or directory"), "a loader process died"),
        (EOFError(), "a loader process died"),
        (OSError(24, "Too many open files"), "ulimit -n 4096"),
    ],
)
def test_a_batch_that_breaks_off_says_so(run, monkeypatch, tmp_path, error, says):
    """As where a loader process is killed while it hands over a batch, which a test can't time."""
    from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

    original, number = _MultiProcessingDataLoaderIter._try_get_data, itertools.count()

    def broken(iterator, *arguments, **named):
        if next(number) == 3:
            raise error
        return original(iterator, *arguments, **named)

    monkeypatch.setattr(_MultiProcessingDataLoaderIter, "_try_get_data", broken)
    with pytest.raises(RunError, match=rf"after step \d {'.*' + says}.*the run is saved at step \d"):
        run("run", "runtime.workers=1")
    assert not active_children()  # it would be waited for at the end of this process


def test_an_error_that_nobody_foresaw_leaves_no_loader_process(run, monkeypatch):
    original = StepDataset.__getitem__

    def odd(dataset, number):
        if number == 3:
            raise KeyError("odd")
        return original(dataset, number)

    monkeypatch.setattr(StepDataset, "__getitem__", odd)
    with pytest.raises(KeyError, match="odd"):
        run("run", "runtime.workers=1")
    assert not active_children()


@pytest.mark.parametrize("step", [0, 3])
@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")])
def test_a_step_without_memory_leaves_all_as_it_was(run, monkeypatch, tmp_path, step, error):
    from denseteacher.methods import Supervised

    whole = run("whole")
    original = Supervised.losses

    def losses(method, student, teacher, batch, number, state=None):
        output = original(method, student, teacher, batch, number, state)  # batch norms have moved
        if number == step:
            raise error
        return output

    with monkeypatch.context() as patch:
        patch.setattr(Supervised, "losses", losses)
        with pytest.raises(RunError, match=rf"after step {step} memory ran out.*; the run is saved at step {step}"):
            run("run")
    assert last_state(tmp_path / "run")["step"] == step
    assert_same(last_state(whole.folder), last_state(run("run", resume=True).folder))


def test_a_half_done_step_is_not_saved(run, monkeypatch, tmp_path):
    from denseteacher.training.ema import Teacher

    original, calls = Teacher.update, []

    def update(teacher, decay):
        calls.append(decay)
        if len(calls) == 3:
            raise MemoryError
        original(teacher, decay)

    monkeypatch.setattr(Teacher, "update", update)
    with pytest.raises(RunError, match=r"after step 2 memory ran out.*; nothing is saved yet"):
        run("run")
    assert last_state(tmp_path / "run") is None


def test_an_error_of_the_program_is_saved_too_and_stays_what_it_is(run, monkeypatch, tmp_path):
    original = StudentTeacher.train_step

    def train_step(student_teacher, loaded):
        if student_teacher.step == 3:
            raise KeyError("of the program")
        original(student_teacher, loaded)

    monkeypatch.setattr(StudentTeacher, "train_step", train_step)
    with pytest.raises(KeyError, match="of the program"):
        run("run")
    assert last_state(tmp_path / "run")["step"] == 3


def test_a_killed_loader_process_saves_the_run(run, monkeypatch, tmp_path):
    """As the system kills one where memory runs out: from outside, at whatever it does."""
    import denseteacher.data.loading.steps as loaders

    original, main = loaders.load_image, os.getpid()

    def load(record):
        if os.getpid() != main and len(seen) > 5:
            os.kill(os.getpid(), signal.SIGKILL)
        seen.append(record)
        return original(record)

    seen = []
    whole = run("whole")
    monkeypatch.setattr(loaders, "load_image", load)
    with pytest.raises(RunError, match=r"a loader process died.*; the run is saved at step \d"):
        run("run", "runtime.workers=1")
    assert 1 <= last_state(tmp_path / "run")["step"] <= 5
    monkeypatch.undo()
    resumed = denseteacher.train(
        "custom", labeled=last_labeled(whole), output=tmp_path / "run", overrides=OPTIONS, resume=True
    )
    assert_same(last_state(whole.folder), last_state(resumed.folder))
    assert [row["step"] for row in read_metrics(resumed.folder / "metrics.jsonl")] == list(range(1, 9))


def last_labeled(result):
    import yaml

    return yaml.safe_load((result.folder / "recipe.yaml").read_text())["data"]["labeled"]


@pytest.mark.parametrize("room", [9, 30])
def test_too_few_open_files_are_a_sentence_and_no_hang(coco, tmp_path, room):
    """So many more than a process has when it begins to train."""
    code = f"""
import os, resource, sys
from denseteacher import cli
from denseteacher.training.trainer import Trainer
fit = Trainer.fit
def limited(trainer, notes=()):
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + {room}, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    return fit(trainer, notes)
Trainer.fit = limited
cli.main()
"""
    given = ["train", "custom", "--labeled", coco, "--output", tmp_path / "run"]
    given += [part for option in [*OPTIONS, "runtime.workers=2"] for part in ("--set", option)]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, given)], capture_output=True, text=True, timeout=150, check=False
    )
    assert done.returncode in (1, 2)
    last = [line for line in done.stderr.splitlines() if line.startswith("denseteacher: ")]
    assert len(last) == 1
    assert "open" in last[0]
    # after it, at exit, wandb (which timm imports where it is) may fail to tidy its own folders
    assert "Traceback" not in done.stderr.partition("denseteacher: ")[0]
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 100
