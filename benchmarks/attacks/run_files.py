"""Damaged checkpoints and run folders: read as what was written, passed over, or refused by a sentence."""

import json
import os
import random
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from attacks.damage import copied, damage_file, damaged_bytes, damaged_value
from attacks.judge import FileAttack, command, require_sound, result
from attacks.kind import HELD, REFUSED, FailureError
from attacks.runs import RunAttack
from attacks.tiny_run import STEPS, TinyRun, state_hash
from denseteacher.training.checkpoint import CheckpointFolder

_KILLED = 137


class HalfRun(NamedTuple):
    """A run that was ended while it wrote its last checkpoint."""

    folder: Path
    files: list[Path]
    """Of its checkpoints."""


@cache
def half_of(run: TinyRun) -> HalfRun:
    """Trains one."""
    folder, last = run.folder.with_name("half"), f"step_{STEPS:08d}.pt"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and last in str(arguments[0]):
            os._exit(_KILLED)

    answer = run.train(folder, before=lambda: sys.addaudithook(hook))
    if answer.code != _KILLED:
        raise RuntimeError(f"exit code {answer.code}: {answer.text[-2000:]}")
    return HalfRun(folder, sorted((folder / "checkpoints").iterdir()))


class DamagedCheckpoints(FileAttack):
    """Checkpoints with damage, read: what is given is what was saved."""

    label = "damaged checkpoints, read"
    share = 1.5

    def __init__(self, run: Callable[[], TinyRun]) -> None:
        """Takes what gives the run."""
        self._run = run

    def prepare(self, folder: Path) -> None:
        """Trains half a run."""
        self.half = half_of(self._run())
        states = [torch.load(file, weights_only=True) for file in self.half.files if file.suffix == ".pt"]
        self._known = {state_hash(state) for state in states}

    def attack_files(self, rng: random.Random, folder: Path) -> str:
        """Damages some, reads the newest and each."""
        checkpoints = CheckpointFolder(copied(self.half.folder / "checkpoints", folder / "checkpoints"))
        damage_some(self.half.files, checkpoints.folder, rng)
        said: list[str] = []
        state = result(lambda: checkpoints.load_newest(said.append))
        described = (path for path in checkpoints.files().values() if Path(f"{path}.sha256").is_file())
        states = [state, *(result(lambda path=path: checkpoints.load(path)) for path in described)]
        if any(state_hash(one) not in self._known for one in states if one is not None):
            raise FailureError("let in: a damaged checkpoint")
        return REFUSED if state is None else HELD


class DamagedResumes(RunAttack):
    """Checkpoints with damage, and ``--resume``: it goes on from one that is whole, or says one sentence."""

    label = "damaged checkpoints, resumed"
    share = 3.0

    def prepare(self, folder: Path) -> None:
        """Trains half a run."""
        super().prepare(folder)
        self.half = half_of(self.run)

    def attack(self, number: int, rng: random.Random, folder: Path) -> str:
        """Damages some, resumes and compares."""
        output = copied(self.half.folder, folder / "run")
        damage_some(self.half.files, output / "checkpoints", rng)
        answer = self.run.train(output)
        outcome = require_sound(answer)
        if outcome == HELD:
            # a burn-in that was damaged can't come again where a later step is whole
            self.run.require_equal(output, tuple(name for name in self.run.expected if name.startswith("burn_in_0")))
        return outcome


def damage_some(files: list[Path], folder: Path, rng: random.Random) -> None:
    """Damages one file or several of a folder, which are there under the same names."""
    for file in rng.sample(files, rng.randint(1, len(files))):
        damage_file(folder / file.name, rng)


class DamagedRunFolders(FileAttack):
    """A finished run with a damaged file, given to the commands that take one."""

    label = "damaged run folders"
    share = 2.0

    def __init__(self, run: Callable[[], TinyRun]) -> None:
        """Takes what gives the run."""
        self._run = run

    def prepare(self, folder: Path) -> None:
        """Lists the files of the run."""
        self.run = self._run()
        left = (file for file in self.run.folder.iterdir() if file.is_file())
        self._files = sorted(file.name for file in left)

    def attack_files(self, rng: random.Random, folder: Path) -> str:
        """Damages a file, and calls a command."""
        output = folder / "run"
        output.mkdir()
        for name in self._files:
            os.link(self.run.folder / name, output / name)
        name = rng.choice([one for one in self._files if not one.endswith((".png", ".html"))])
        content = (output / name).read_bytes()
        (output / name).unlink()
        (output / name).write_bytes(content)
        if name.endswith((".json", ".jsonl")) and rng.random() < 0.5:
            (output / name).write_bytes(_damaged_rows(content, rng))
        else:
            damage_file(output / name, rng)
        commands = {
            "compare": ("compare", self.run.folder, output),
            "compare twice": ("compare", output, output),
            "evaluate": ("evaluate", output, "--data", self.run.data),
            "predict": ("predict", output, self.run.data.parent, "--output", folder / "predicted"),
        }
        return require_sound(command(*commands[rng.choice(sorted(commands))]))


def _damaged_rows(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines() if content.count(b"}\n") > 1 else [content]
    try:
        chosen = rng.randrange(len(lines))
        lines[chosen] = json.dumps(damaged_value(json.loads(lines[chosen]), rng)).encode()
    except ValueError:
        return damaged_bytes(content, rng)
    return b"\n".join(lines) + b"\n"
