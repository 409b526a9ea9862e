"""Data sets and detectors that many tests share."""

import json
import os
import signal
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from denseteacher import cli
from support.undrawn import undrawn

# a shell starts what runs in its background with SIGINT ignored, and so would all that tests start
signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

TINY = [
    "detector.backbone=test_byobnet",
    "detector.pretrained=false",
    "detector.frozen_stages=0",
    "detector.freeze_batch_norm=false",
    "detector.levels=[3,5]",
    "detector.channels=16",
    "detector.head_convs=1",
    "augment.weak.short_side=[48,64]",
    "augment.weak.sampling=range",
    "augment.weak.max_side=96",
    "data.labeled_batch=2",
    "data.unlabeled_batch=2",
    "evaluation.short_side=64",
    "evaluation.max_side=96",
    "schedule.max_steps=8",
    "schedule.evaluate_every=100",
    "schedule.checkpoint_every=4",
    "schedule.log_every=1",
    "optim.warmup_steps=2",
    "ema.decay=0.9",
    "ema.start=1",
    "runtime.workers=0",
    "runtime.threads=1",
    "runtime.device=cpu",
    "runtime.precision=fp32",
]
"""Any recipe, shrunk to a network and a schedule of seconds."""


def paint(rng, width, height, count):
    """A picture with colored rectangles, and their boxes as x, y, width, height with a class index."""
    pixels = rng.integers(90, 130, (height, width, 3)).astype(np.uint8)
    found = []
    for _ in range(count):
        label = int(rng.integers(0, 3))
        w, h = int(rng.integers(12, 30)), int(rng.integers(12, 30))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        pixels[y : y + h, x : x + w] = [(220, 40, 40), (40, 220, 40), (40, 40, 220)][label]
        found.append(([x, y, w, h], label))
    return pixels, found


CATEGORY_IDS = (2, 5, 11)


def write_coco(folder, count, *, seed=0):
    """A COCO data set: images of different sizes, one without boxes, one rotated by EXIF, a crowd region."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for number in range(1, count + 1):
        width, height = [(80, 64), (64, 88), (96, 60)][number % 3]
        pixels, found = paint(rng, width, height, 0 if number == 3 else 1 + number % 3)
        name = f"{number:03d}.{'png' if number % 2 else 'jpg'}"
        if number == 2:  # stored on its side: upright only by its EXIF orientation (6: turn clockwise)
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.fromarray(np.rot90(pixels)).save(folder / "images" / name, quality=95, exif=exif)
        else:
            Image.fromarray(pixels).save(folder / "images" / name)
        images.append({"id": number * 10, "file_name": name, "width": width, "height": height})
        for box, label in found:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number * 10,
                    "category_id": CATEGORY_IDS[label],
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    crowd = {"id": 9999, "image_id": 10, "category_id": 2, "bbox": [0, 0, 30, 30], "area": 900, "iscrowd": 1}
    content = {
        "images": images,
        "annotations": [*annotations, crowd],
        "categories": [
            {"id": id_, "name": name} for id_, name in zip(CATEGORY_IDS, ("red", "green", "blue"), strict=True)
        ],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="session")
def coco(tmp_path_factory):
    """A COCO JSON of 12 images, with its images beside it."""
    return write_coco(tmp_path_factory.mktemp("coco"), 12)


@pytest.fixture(scope="session")
def unlabeled(tmp_path_factory):
    """A folder of 6 images."""
    folder = tmp_path_factory.mktemp("unlabeled")
    rng = np.random.default_rng(7)
    for number in range(6):
        pixels, _ = paint(rng, 72, [60, 90][number % 2], 2)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def tiny():
    """Overrides that make any recipe small."""
    return list(TINY)


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the console script's function; returns exit code, stdout and stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["denseteacher", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return left.value.code or 0, out, err

    return run


@pytest.fixture(autouse=True, scope="session")
def no_power_cuts():
    """Leaves out that the disk is waited for after every file; no test cuts the power, tests/test_files.py counts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


ABOUT_LEARNING = {"detectors", "distributed", "experiments", "training"}


@pytest.fixture(autouse=True, scope="module")
def without_drawings(request):
    """Trains without reports and figures in tests on what is learned, not on what is drawn of it."""
    if ABOUT_LEARNING.isdisjoint(request.path.relative_to(request.config.rootpath / "tests").parts):
        yield
    else:
        with undrawn():
            yield
