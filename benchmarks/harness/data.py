"""The data path: from image files to batches of weak views."""

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from denseteacher.data.images import decode_image
from denseteacher.data.loading.steps import LoadedStep, step_loader
from denseteacher.data.open import TrainingData
from denseteacher.data.records import Category, ImageRecord, LabeledImages
from denseteacher.recipes.schema import Recipe
from denseteacher.runs.build import build_steps
from harness.timing import in_turns, medians

_HEIGHT, _WIDTH = 480, 640  # as COCO's
_FILES = 64
_BOXES = 7  # an image, as in COCO


def measure_data(recipe: Recipe, *, steps: int) -> dict[str, float]:
    """Times a recipe's loader on made-up JPEG files of COCO's size, with its own number of worker processes.

    Returns:
        Images a second decoded by one thread and made by the loader, and the share of its canvases that is image.
    """
    with tempfile.TemporaryDirectory() as folder:
        data = made_up_files(Path(folder), _FILES)
        dataset = build_steps(recipe, TrainingData(data, data.images)).with_unlabeled()
        work = {"decode": lambda: [decode_image(record.path) for record in data.images]}
        decoding = medians(in_turns(work, rounds=3, device=torch.device("cpu")))["decode"]
        images, real, canvas = 0, 0, 0
        start = time.perf_counter()
        for number, loaded in enumerate(
            step_loader(dataset, range(steps + 1), workers=recipe.runtime.workers, pin_memory=False)
        ):
            if number == 0:  # the workers' start
                start = time.perf_counter()
                continue
            assert isinstance(loaded, LoadedStep)
            for batch in [loaded.labeled] + ([] if loaded.unlabeled is None else [loaded.unlabeled.weak]):
                images += len(batch.sizes)
                real += int(batch.sizes.prod(1).sum())
                canvas += batch.pixels[:, 0].numel()
        seconds = time.perf_counter() - start
    return {
        "decode images/s": _FILES / decoding,
        "loader images/s": images / seconds,
        "real share of the canvas": real / canvas,
    }


def made_up_files(folder: Path, count: int) -> LabeledImages:
    """Smooth noise, whose JPEG files are about as large as photographs'; every third stands upright."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(count):
        size = (_HEIGHT, _WIDTH) if number % 3 == 0 else (_WIDTH, _HEIGHT)
        small = Image.fromarray(rng.integers(0, 256, (size[1] // 6, size[0] // 6, 3), dtype=np.uint8))
        path = folder / f"{number:03d}.jpg"
        small.resize(size, Image.Resampling.BICUBIC).save(path, quality=92)
        records.append(ImageRecord(number + 1, path, *size))
    boxes = [np.tile(np.array([20, 20, 200, 200], np.float32), (_BOXES, 1)) for _ in records]
    labels = [np.zeros(_BOXES, np.int64) for _ in records]
    return LabeledImages(records, boxes, labels, [Category(1, "thing")])
