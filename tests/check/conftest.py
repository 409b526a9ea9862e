"""A clean data set of three parts, small enough to be written anew for every fault."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import paint, write_coco
from denseteacher import api
from denseteacher.check import Duration, StepMemory, report

OPTIONS = [
    "detector.backbone=test_byobnet",
    "detector.levels=[3,5]",
    "augment.weak.short_side=[64]",
    "augment.weak.sampling=choice",
    "augment.weak.max_side=96",
]
"""Views about as large as the images."""


@dataclass
class Planted:
    """A data set on disk, and the content of its two JSON files until they are written."""

    folder: Path
    train: dict
    val: dict

    @property
    def paths(self):
        """The arguments that name the three parts."""
        train, val = (self.folder / name / "annotations.json" for name in ("train", "val"))
        return train, {"unlabeled": self.folder / "unlabeled", "val": val}

    def entry(self, number):
        """The labeled image of this number."""
        return next(image for image in self.train["images"] if image["id"] == number * 10)

    def file(self, number):
        """Its file."""
        return self.folder / "train" / "images" / self.entry(number)["file_name"]

    def annotation(self, number):
        """Its first object."""
        return next(one for one in self.train["annotations"] if one["image_id"] == number * 10)

    def write(self):
        """Writes the JSON files."""
        for name, content in (("train", self.train), ("val", self.val)):
            (self.folder / name / "annotations.json").write_text(json.dumps(content))

    def arguments(self, *more):
        """The command line that checks everything."""
        self.write()
        data, others = self.paths
        options = [part for option in OPTIONS for part in ("--set", option)]
        return ["check", data, "--unlabeled", others["unlabeled"], "--val", others["val"], *options, *more]

    def check(self, *options, **arguments):
        """Checks everything."""
        self.write()
        data, others = self.paths
        return api.check(data, **others, overrides=[*OPTIONS, *options], **arguments)


def write_clean(folder, count=12):
    """``count`` labeled, 6 unlabeled and 8 validation images without a fault."""
    for name, images, seed in (("train", count, 4), ("val", 8, 6)):
        write_coco(folder / name, images, seed=seed)
    (folder / "unlabeled").mkdir()
    rng = np.random.default_rng(7)
    for number in range(6):
        Image.fromarray(paint(rng, 72, 60, 2)[0]).save(folder / "unlabeled" / f"{number}.png")
    contents = [json.loads((folder / name / "annotations.json").read_text()) for name in ("train", "val")]
    return Planted(folder, *contents)


@pytest.fixture
def planted(tmp_path):
    """A clean data set to plant a fault in."""
    return write_clean(tmp_path)


@pytest.fixture
def planted_large(tmp_path):
    """60 labeled images: room for many faults."""
    return write_clean(tmp_path, 60)


@pytest.fixture
def no_memory(monkeypatch):
    """Leaves out what costs most of the time, where it has nothing to do with the test."""
    monkeypatch.setattr(report, "step_memory", lambda *_: StepMemory((64, 64), 10, {1: 20}))
    monkeypatch.setattr(report, "measure_duration", lambda *_, **__: Duration(100, 60.0, (64, 64), 1))
