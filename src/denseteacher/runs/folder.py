"""Run folders: what their files are called, and describing the run in one."""

import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from denseteacher.data.records import Category
from denseteacher.data.safe_yaml import read_yaml
from denseteacher.data.splits import Split, write_split_ids
from denseteacher.detectors import (
    DETECTOR_FILE,
    TakenOver,
)
from denseteacher.errors import InputError
from denseteacher.files import refusal_explained, sweep, write_json, write_text
from denseteacher.recipes.schema import Recipe, dump_recipe, load_recipe
from denseteacher.runs.damage import damage_explained
from denseteacher.runs.owner import FolderLock
from denseteacher.training.checkpoint import CheckpointFolder
from denseteacher.training.metrics_log import MetricsLog, read_metrics
from denseteacher.training.run_files import BURN_IN, BurnIn, TrainingFiles
from denseteacher.training.trackers import Trackers

_BASELINE = "baseline"
_PACKAGES = ("dense-teacher", "torch", "torchvision", "timm", "lightning-fabric", "numpy")


class RunFolder:
    """The files of a run: nobody else says what they are called.

    Nothing on disk is touched before a method says so. ``runs`` is the lowest room that may know it: a trainer and a
    report are given the files that they write.
    """

    def __init__(self, path: Path) -> None:
        """Names the files.

        Args:
            path: The folder, which may be new.
        """
        self.path = path
        self.lock = path / "run.lock"  # while a process trains here
        # what the run is
        self.recipe_file = path / "recipe.yaml"
        self.split = path / "split.json"
        self.environment = path / "environment.json"
        self.init = path / "init.json"
        # what training leaves
        self.metrics = path / "metrics.jsonl"
        self.results = path / "results.csv"
        self.tensorboard = path / "tensorboard"
        self.previews = path / "previews"
        self.tracking = path / "tracking"
        self.nonfinite = path / "nonfinite.json"
        self.failure = path / "failure.txt"
        self.detector = path / DETECTOR_FILE  # of the best teacher
        self.burn_in_detector = path / "burn_in_detector.safetensors"  # of the best one of the burn-in
        self.last_teacher = path / "last_teacher.safetensors"
        self.last_student = path / "last_student.safetensors"
        # what its end leaves
        self.evaluation = path / "evaluation.json"
        self.detections = path / "detections.json"
        self.per_class = path / "per_class.csv"
        self.pr_curve = path / "pr_curve.png"
        self.precision_curve = path / "precision_curve.png"
        self.recall_curve = path / "recall_curve.png"
        self.f1_curve = path / "f1_curve.png"
        self.confusion_matrix = path / "confusion_matrix.png"
        self.labels = path / "labels.png"
        self.gain = path / "baseline.json"
        self.report = path / "report.html"

    def __str__(self) -> str:
        """The path."""
        return str(self.path)

    @classmethod
    def of(cls, detector: Path) -> "RunFolder":
        """The folder that a detector lies in, or is."""
        return cls(detector if detector.is_dir() else detector.parent)

    @property
    def baseline(self) -> "RunFolder":
        """The folder of the run without unlabeled images that this one is measured against."""
        return RunFolder(self.path / _BASELINE)

    @property
    def exists(self) -> bool:
        """Whether a run has begun here."""
        return self.recipe_file.is_file()

    @property
    def is_free(self) -> bool:
        """Whether a new run may have the folder: it is not there, empty, or what a run that was killed left at once.

        Raises:
            OSError: If the folder can't be looked at.
        """
        if not self.path.exists():
            return True
        if not self.path.is_dir():
            return False
        found = {path.name for path in self.path.iterdir()}
        begun = {file.name for file in (self.lock, self.split, self.environment, self.init)}
        # without its lock they are somebody else's
        return not found or (self.lock.name in found and all(name in begun or _is_half(name) for name in found))

    @property
    def is_finished(self) -> bool:
        """Whether all that a run leaves is there: the report comes last."""
        return self.report.is_file()

    @property
    def has_checkpoint(self) -> bool:
        """Whether the run has come to its first checkpoint."""
        return bool(self.checkpoints().files())

    @property
    def has_burn_in(self) -> bool:
        """Whether other runs can start from the run's burn-in."""
        return bool(self.checkpoints().files(BURN_IN))

    def checkpoints(self, keep: int = 2) -> CheckpointFolder:
        """The run's checkpoints.

        Args:
            keep: Newest ones that are kept when another is saved.
        """
        return CheckpointFolder(self.path / "checkpoints", keep=keep)

    def recipe(self) -> Recipe:
        """The recipe of the run, resolved.

        Raises:
            InputError: If there is none, or this version can't read it.
        """
        return load_recipe(self.recipe_file)

    def recipe_content(self) -> dict[str, Any]:
        """The recipe as it was written, perhaps by a version that had other keys."""
        with damage_explained(self.recipe_file):
            content: dict[str, Any] = read_yaml(self.recipe_file)
            if not isinstance(content, dict) or not isinstance(content.get("detector"), dict):
                raise ValueError
        return content

    def rows(self) -> list[dict[str, Any]]:
        """What the run has logged (``read_metrics``)."""
        return read_metrics(self.metrics)

    def burn_in(self) -> BurnIn:
        """What another run needs to start from this one's burn-in.

        Raises:
            InputError: If there is none.
        """
        files = list(self.checkpoints().files(BURN_IN).values())
        if not files:
            raise InputError(f"{self} holds no burn-in checkpoint: {self._why_no_burn_in()}")
        detector = self.burn_in_detector if self.burn_in_detector.is_file() else None
        return BurnIn(files[-1], detector, self.rows())

    def _why_no_burn_in(self) -> str:
        if not self.exists:
            return "there is no run in it"
        method = self.recipe().method
        if not method.burn_in_steps:
            return f"its method {method.name!r} has no burn-in"
        steps = int(method.burn_in_steps)
        done = max([*self.checkpoints().files(), *(row["step"] for row in self.rows())], default=0)
        if done < steps:
            return f"it has done {done:,} of the {steps:,} steps of its burn-in; train on with --resume --output {self}"
        return "it started from another run's, which is the one to give, or the file was removed"

    def claim(self) -> FolderLock:
        """Makes this process the one that trains here, and removes what one that was killed left half written.

        Returns:
            What to release in the end.

        Raises:
            InputError: If another process trains here.
            RunError: If the disk refuses.
        """
        lock = FolderLock(self.lock)
        lock.take()
        try:
            with refusal_explained(self.path):
                for folder in (self.path, self.previews, self.baseline.path):
                    sweep(folder)
                self.checkpoints().sweep()
        except BaseException:
            lock.release()
            raise
        return lock

    def trackers(self, recipe: Recipe) -> Trackers:
        """The trackers of the run, not opened.

        Args:
            recipe: Of the run, resolved.
        """
        whole = self.path.absolute()
        is_baseline = whole.name == _BASELINE and RunFolder(whole.parent).exists
        title = f"{whole.parent.name}/{whole.name}" if is_baseline else whole.name
        return Trackers(recipe.runtime.log, self.tracking, title=title, recipe=recipe.model_dump(mode="json"))

    def training_files(self, keep: int, trackers: Trackers | None = None) -> TrainingFiles:
        """What a trainer writes.

        Args:
            keep: Checkpoints to keep.
            trackers: What else gets the numbers.
        """
        log = MetricsLog(
            self.metrics,
            tensorboard=self.tensorboard,
            previews=self.previews,
            results=self.results,
            trackers=trackers,
        )
        return TrainingFiles(self.checkpoints(keep), log, self.detector, self.nonfinite, self.failure)

    def describe(
        self, recipe: Recipe, split: Split, categories: Sequence[Category], start: TakenOver | None = None
    ) -> None:
        """Writes the resolved recipe, the split's image ids with their hash, the environment, and the run's start.

        Raises:
            RunError: If the disk refuses.
        """
        try:
            self._describe(recipe, split, categories, start)
        except BaseException:  # or the folder would neither be free nor hold a run
            for file in (self.split, self.environment, self.init):
                file.unlink(missing_ok=True)
            raise

    def _describe(self, recipe: Recipe, split: Split, categories: Sequence[Category], start: TakenOver | None) -> None:
        write_split_ids(split, self.split, categories)
        environment = {
            "python": platform.python_version(),
            "machine": platform.platform(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "packages": {name: metadata.version(name) for name in _PACKAGES},
        }
        write_json(self.environment, environment)
        if start is not None:
            write_json(self.init, {"init": recipe.detector.init, **start._asdict()})
        write_text(self.recipe_file, dump_recipe(recipe))  # last: with it the folder holds a run


def _is_half(name: str) -> bool:
    """Whether a file of this name is a half-written one."""
    return name.startswith(".") and name.endswith(".tmp")
