"""Two processes that share a batch train as one process that has it all, whoever starts them, and whatever dies."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import denseteacher
from conftest import TINY, paint
from denseteacher.training.checkpoint import CheckpointFolder
from denseteacher.training.metrics_log import read_metrics
from support.closeness import assert_close_to_scale


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Images of one size, so that the canvas does not depend on which of them meet in a process."""
    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 9):
        pixels, found = paint(rng, 64, 64, 2)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        for box, label in found:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "bbox": box})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": str(label)} for label in range(3)],
    }
    (folder / "squares.json").write_text(json.dumps(content))
    return folder / "squares.json"


OBJECTS_BY_CLASS = 4
"""The objects of each of the three classes, and the images, by which Dense Teacher+ knows how often a class occurs."""
WORKER = Path(__file__).with_name("worker.py")
OPTIONS = [
    *TINY,
    "augment.weak.short_side=[64]",
    "augment.weak.sampling=choice",
    "detector.freeze_batch_norm=true",  # live statistics are those of a process's own images
    "data.labeled_batch=4",
    "data.unlabeled_batch=4",
    "method.group_size=1",
    "method.count_padding=true",
    "method.ratio=0.1",
    "method.burn_in=2",
    "method.ramp=2",
    "method.half_view=true",  # its level has no gradient of its own before the burn-in ends
    "detector.finer_level=true",
    "schedule.max_steps=6",
]


def command(squares, output, *more):
    """Of a run, without what starts it."""
    given = ["train", "custom", "--labeled", squares, "--unlabeled", squares.parent, "--output", output, *more]
    for option in OPTIONS:
        given += ["--set", option]
    return [str(part) for part in (WORKER, *given)]


def start(arguments, **environment):
    return subprocess.Popen(
        arguments,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """What a process printed."""
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out


@pytest.fixture(scope="module")
def one(squares, tmp_path_factory):
    """The run in one process, with a baseline."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    data = {"labeled": squares, "unlabeled": squares.parent, "val": squares}
    denseteacher.train("custom", **data, output=folder, overrides=OPTIONS, baseline=True)
    return folder


@pytest.fixture(scope="module")
def two(squares, tmp_path_factory):
    """The same in two that the first one starts."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    out = finish(start([sys.executable, *command(squares, folder, "--val", squares, "--baseline", "--devices", 2)]))
    assert out.count("Report:") == 1  # only one of them talks
    assert out.count("unlabeled images were worth") == 1
    return folder


def last(folder):
    state = CheckpointFolder(folder / "checkpoints").load_newest()
    assert state["step"] == 6
    return state


def assert_same_run(first, second, share):
    states = last(first), last(second)
    for role in ("student", "teacher"):
        for key, value in states[0][role].items():
            # a bias that was 0 and moved by its rounded gradient alone has no size of its own
            size = max(1.0, float(value.abs().max()))
            assert_close_to_scale(states[1][role][key], value, share=share, scale=size, what=f"{role}'s {key}")


def collectives(folder):
    """Sizes of what the processes added up in one step, in order; what they gather are Dense Teacher+'s crops."""
    found = json.loads((folder / "collectives.json").read_text())
    assert {name for name, _ in found} == {"gloo:all_reduce", "gloo:all_gather"}
    return [int(np.prod(shapes[0])) for name, shapes in found if name == "gloo:all_reduce"]


def trained_numbers(folder):
    """Of the detector: elements of its parameters."""
    moments = last(folder)["optimizer"]["state"].values()
    return sum(state["momentum_buffer"].numel() for state in moments)


def test_two_processes_equal_one(one, two):
    assert_same_run(one, two, 1e-5)
    assert (two / "report.html").is_file()


def test_a_baseline_follows_in_the_same_processes(one, two):
    assert_same_run(one / "baseline", two / "baseline", 1e-6)


def test_a_step_exchanges_its_gradients_once_and_one_normalizer(two):
    # Dense Teacher's own normalizers are those of groups of images, which no other process has a part in
    assert collectives(two) == [OBJECTS_BY_CLASS, 1, trained_numbers(two)]


def test_srun_starts_processes_and_accumulation_exchanges_gradients_once(one, squares, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    slurm = {"JOB_NAME": "train", "STEP_ID": "0", "NTASKS": "2", "NTASKS_PER_NODE": "2", "NNODES": "1", "NODEID": "0"}
    job = {f"SLURM_{name}": value for name, value in slurm.items()}
    job |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    arguments = [sys.executable, *command(squares, tmp_path / "run", "--set", "schedule.accumulate=2")]
    tasks = [start(arguments, **job, SLURM_PROCID=task, SLURM_LOCALID=task) for task in "01"]
    outputs = [finish(task) for task in tasks]
    assert [out.count("Report:") for out in outputs] == [1, 0]
    # or gloo's threads may abort a process that is done: "terminate called without an active exception"
    assert all("in a group at exit: False" in out for out in outputs)
    assert_same_run(one, tmp_path / "run", 1e-5)
    assert collectives(tmp_path / "run") == [OBJECTS_BY_CLASS, 1, trained_numbers(tmp_path / "run")]


def test_torchrun_goes_on_from_the_last_checkpoint_when_a_process_dies(two, squares, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    arguments = [*torchrun, "--max-restarts=1", *command(squares, tmp_path / "run", "--val", squares)]
    out = finish(start(arguments, DIES="yes", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1"))
    assert out.count("begins at step 0") == out.count("begins at step 4") == 2
    name = "checkpoints/step_00000006.pt"
    assert (tmp_path / "run" / name).read_bytes() == (two / name).read_bytes()  # weights, teacher, optimizer
    losses = [[row.get("loss") for row in read_metrics(run / "metrics.jsonl")] for run in (tmp_path / "run", two)]
    assert losses[0] == losses[1]


def test_a_signal_during_an_evaluation_ends_both_processes_and_a_resume_evaluates_first(squares, tmp_path):
    arguments = command(squares, tmp_path / "run", "--val", squares, "--devices", 2)
    arguments += ["--set", "schedule.evaluate_every=3", "--set", "schedule.log_every=2"]
    stopped = start([sys.executable, *arguments], STOPS="yes")
    _, err = stopped.communicate(timeout=200)
    assert stopped.returncode == 1
    assert "stopped by SIGTERM after step 3, all is saved" in " ".join(err.split())
    state = CheckpointFolder(tmp_path / "run" / "checkpoints").load_newest()
    assert state["pending"]
    assert state["step"] == 3
    assert not (tmp_path / "run" / "run.lock").exists()
    finish(start([sys.executable, *arguments, "--resume"]))
    steps = [row["step"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "teacher/AP" in row]
    assert steps == [3, 6]
