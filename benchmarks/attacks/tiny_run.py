"""A tiny training run in a process of its own, which is ended, refused or damaged, goes on, and is compared."""

import contextlib
import hashlib
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from attacks.judge import Answer, command
from attacks.kind import FailureError
from attacks.small_data import write_coco, write_images
from denseteacher import cli
from denseteacher.training.metrics_log import read_metrics

STEPS = 6
_SETTINGS = (
    *("detector.backbone=test_byobnet", "detector.pretrained=false", "detector.init=backbone", "detector.channels=8"),
    *("detector.frozen_stages=0", "detector.freeze_batch_norm=false", "detector.levels=[3,5]", "detector.head_convs=1"),
    *("augment.weak.short_side=[32,48]", "augment.weak.sampling=range", "augment.weak.max_side=64"),
    *("data.labeled_batch=1", "data.unlabeled_batch=1", "evaluation.short_side=32", "evaluation.max_side=64"),
    *(f"schedule.max_steps={STEPS}", "schedule.evaluate_every=4", "schedule.checkpoint_every=2", "method.burn_in=2"),
    *("schedule.log_every=1", "optim.warmup_steps=2", "ema.decay=0.9", "ema.start=1", "runtime.workers=0"),
    *("runtime.threads=1", "runtime.device=cpu", "runtime.precision=fp32"),
)
_CLOCKED = ("data_wait", "step_seconds", "images_per_second", "mfu", "steps_per_second")
"""Metrics that depend on the clock."""
_KILLED, _CRASHED = 137, 70


class TinyRun:
    """A run that takes about a second, and what it leaves where nothing disturbs it."""

    def __init__(self, folder: Path) -> None:
        """Writes the data, and trains once.

        Args:
            folder: Empty.
        """
        data = write_coco(folder / "data", 4)
        unlabeled = write_images(folder / "unlabeled", 3, seed=1)
        settings = [part for one in _SETTINGS for part in ("--set", one)]
        self._data = ("--labeled", data, "--unlabeled", unlabeled, "--val", data, *settings)
        self.data = data
        self.folder = folder / "reference"
        start = time.perf_counter()
        # in this process, so that those forked from it have all that is imported and measured once
        answer = command("train", "custom", *self._data, "--output", self.folder)
        self.seconds = time.perf_counter() - start
        if answer.code:
            raise RuntimeError(f"the undisturbed run failed: {answer.text[-2000:]}")
        self.expected = left_by(self.folder)

    def train(
        self, output: Path, *, before: Callable[[], None] | None = None, kill_after: float | None = None
    ) -> Answer:
        """Begins the run in a folder, or goes on with it where there is one.

        Args:
            output: The run folder.
            before: Called in the new process.
            kill_after: Seconds after which it is killed.
        """
        goes_on = ("--resume",) if (output / "recipe.yaml").is_file() else ()
        return forked(("train", "custom", *self._data, "--output", output, *goes_on), before, kill_after)

    def finish(self, output: Path) -> None:
        """Lets the run come to its end, and compares.

        Raises:
            FailureError: If it doesn't, or leaves something else than the undisturbed one.
        """
        answer = self.train(output)
        if answer.code:
            raise FailureError(f"it does not go on: exit code {answer.code}: ...{answer.text[-700:]}")
        self.require_equal(output)

    def require_equal(self, output: Path, without: tuple[str, ...] = ()) -> None:
        """Compares what a run left with what the undisturbed one did.

        Raises:
            FailureError: If there is a difference.
        """
        found = left_by(output)
        different = [key for key in self.expected if key not in without and found.get(key) != self.expected[key]]
        if different:
            raise FailureError(f"the finished run differs in {', '.join(different)}")


def left_by(folder: Path) -> dict[str, Any]:
    """What a run leaves, without what the clock says."""
    found: dict[str, Any] = {}
    for file in sorted(folder.glob("*.safetensors")):
        found[file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
    for file in sorted((folder / "checkpoints").glob("*.pt")):
        try:
            found[file.name] = state_hash(torch.load(file, weights_only=True))
        except Exception:  # one that was damaged, and that no later step writes again
            found[file.name] = "damaged"
    rows = read_metrics(folder / "metrics.jsonl")
    found["metrics.jsonl"] = [{key: value for key, value in row.items() if key not in _CLOCKED} for row in rows]
    for name in ("split.json", "recipe.yaml", "detections.json", "evaluation.json"):
        with contextlib.suppress(OSError):
            found[name] = (folder / name).read_text()
    found["report.html"] = (folder / "report.html").is_file()
    found["half-written files"] = sorted(file.name for file in folder.rglob(".*.tmp"))
    sums = (folder / "checkpoints").glob("*.sha256")
    found["manifests alone"] = sorted(file.name for file in sums if not file.with_suffix("").exists())
    return found


def state_hash(state: Any) -> str:
    """Of all values of a checkpoint."""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b"")
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                digest.update(repr(key).encode())
                add(inner)
        elif isinstance(value, list | tuple):
            digest.update(str(len(value)).encode())
            for inner in value:
                add(inner)
        else:
            digest.update(repr(value).encode())

    add(state)
    return digest.hexdigest()


def forked(arguments: tuple[object, ...], before: Callable[[], None] | None, kill_after: float | None) -> Answer:
    """Calls the command line in a process of its own, which has imported all that this one has."""
    here, there = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process == 0:
        os.close(here)
        _become_command(arguments, there, before)
    os.close(there)
    try:
        text = _read_until(here, process, kill_after)
    finally:
        os.close(here)
    return Answer(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), text)


def _become_command(arguments: tuple[object, ...], stream: int, before: Callable[[], None] | None) -> None:
    """Never returns."""
    code: Any = _CRASHED
    try:
        for standard in (1, 2):
            os.dup2(stream, standard)
        sys.stdout, sys.stderr = (open(one, "w", buffering=1) for one in (1, 2))  # noqa: PTH123, SIM115
        sys.argv = ["denseteacher", *map(str, arguments)]
        if before is not None:
            before()
        cli.main()
        code = 0
    except SystemExit as left:
        code = left.code or 0
    except BaseException:  # as Python does where nobody catches it
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(int(code))


def _read_until(stream: int, process: int, kill_after: float | None) -> str:
    content = bytearray()
    end = None if kill_after is None else time.perf_counter() + kill_after
    while True:
        ready, _, _ = select.select([stream], [], [], None if end is None else max(0.0, end - time.perf_counter()))
        if not ready:
            os.kill(process, signal.SIGKILL)
            end = None
            continue
        part = os.read(stream, 65536)
        if not part:
            return content.decode(errors="replace")
        content += part
