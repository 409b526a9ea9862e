"""How fast ``denseteacher check`` is, and how good its estimate of memory.

    python benchmarks/check_speed.py

Three measurements: a COCO file of 100,000 objects in 15,000 images with the image files left out (``--quick``; the
files are links to a few, so nothing is cached that a real data set would not have); reading, hashing and decoding of
JPEGs of 640 x 480 pixels; and, for two recipes, the resident memory that two steps of training add on a CPU, beside
the estimate.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from denseteacher import api
from denseteacher.check.cost import step_memory
from denseteacher.check.images import inspect_images
from denseteacher.data.records import ImageRecord
from denseteacher.detectors import shape_detector
from denseteacher.recipes.schema import load_recipe
from result_file import write_result

OBJECTS, IMAGES, CLASSES = 100_000, 15_000, 80
PICTURES, PICTURE = 300, (640, 480)
STEPS: dict[str, dict[str, Any]] = {
    "digits": {"recipe": "digits", "canvas": (96, 96), "overrides": ["method.ratio=0.2"]},
    "FCOS R50": {
        "recipe": "custom",
        "canvas": (256, 320),
        "overrides": ["data.labeled_batch=2", "data.unlabeled_batch=2", "method.ratio=0.01"],
    },
}
"""Recipes whose estimate is compared."""


def main() -> None:
    """Measures everything once and writes ``results/check_speed.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", choices=STEPS, help="only train two steps and print the bytes they take")
    arguments = parser.parse_args()
    if arguments.step:
        print(step_bytes(arguments.step))
        return
    with tempfile.TemporaryDirectory() as folder:
        seconds, cpu_seconds = listed_seconds(Path(folder) / "listed")
        throughput = decoding_throughput(Path(folder) / "pictures")
    rows = [
        {
            "label": "100,000 objects, no decoding",
            "seeds": [0],
            "values": {"seconds": [round(seconds, 2)], "CPU seconds": [round(cpu_seconds, 2)]},
        },
        {"label": "decoding", "seeds": [0], "values": {"images/s": [round(throughput)]}},
    ]
    ratios = {}
    for name in STEPS:
        estimated, measured = estimated_bytes(name), spawned_bytes(name)
        values = {"estimated MiB": [estimated >> 20], "measured MiB": [measured >> 20]}
        rows.append({"label": f"memory, {name}", "seeds": [0], "values": values})
        ratios[f"memory_{name.lower().replace(' ', '_')}_estimated_over_measured"] = round(estimated / measured, 3)
    for row in rows:
        print(row["label"], row["values"])
    print(write_result("check_speed", rows, ratios, data=f"{OBJECTS:,} objects in {IMAGES:,} images"))


def listed_seconds(folder: Path) -> tuple[float, float]:
    """Seconds, and those of all cores, of a check that does not open the images."""
    path = write_listed(folder)
    start, cpu_start = time.perf_counter(), time.process_time()
    report = api.check(path, overrides=["data.labeled_batch=16", "data.unlabeled_batch=16"], quick=True)
    seconds = time.perf_counter() - start, time.process_time() - cpu_start
    assert sum(one.objects for one in report.classes) == OBJECTS
    assert not report.errors, report.findings
    return seconds


def write_listed(folder: Path) -> Path:
    """A COCO file like train2017 in sizes and counts; its images are hard links to one."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    width, height = PICTURE
    Image.new("RGB", PICTURE).save(folder / "images" / "000000.jpg")
    for number in range(1, IMAGES):
        os.link(folder / "images" / "000000.jpg", folder / "images" / f"{number:06d}.jpg")
    sides = np.exp(rng.uniform(np.log(12), np.log(300), (OBJECTS, 2)))
    corners = rng.uniform(0, 1, (OBJECTS, 2)) * (np.array(PICTURE) - sides)
    boxes = np.concatenate([corners, sides], axis=1).round(2).tolist()
    owners, labels = rng.integers(0, IMAGES, OBJECTS).tolist(), rng.integers(0, CLASSES, OBJECTS).tolist()
    content = {
        "images": [
            {"id": number, "file_name": f"{number:06d}.jpg", "width": width, "height": height}
            for number in range(IMAGES)
        ],
        "annotations": [
            {"id": number, "image_id": owner, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for number, (owner, label, box) in enumerate(zip(owners, labels, boxes, strict=True), 1)
        ],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(CLASSES)],
    }
    path = folder / "listed.json"
    path.write_text(json.dumps(content))
    return path


def decoding_throughput(folder: Path) -> float:
    """Images a second that are read, hashed and decoded; the median of three goes over files in the page cache."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    records = []
    for number in range(PICTURES):
        coarse = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
        noise = rng.normal(0, 6, (PICTURE[1], PICTURE[0], 3))
        pixels = np.asarray(coarse.resize(PICTURE, Image.Resampling.BICUBIC)) + noise
        file = folder / f"{number}.jpg"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, quality=90)
        records.append(ImageRecord(number, file, *PICTURE))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        found = inspect_images(records)
        seconds.append(time.perf_counter() - start)
        assert all(one.fault is None for one in found)
    return PICTURES / median(seconds)


def estimated_bytes(name: str) -> int:
    """What the check says."""
    recipe = _recipe(name)
    return step_memory(recipe, shape_detector(recipe.detector, 10), STEPS[name]["canvas"], 4).parts[1]


def spawned_bytes(name: str) -> int:
    """What training takes, in a process of its own, in which freed blocks go back to the system at once."""
    command = [sys.executable, __file__, "--step", name]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)


def step_bytes(name: str) -> int:
    """Bytes by which two steps of Dense Teacher raise the resident memory of this process, the detectors included."""
    import torch

    from denseteacher.methods import DenseTeacher
    from denseteacher.structures import METHOD_RANDOM, ImageBatch, LabeledBatch, SemiBatch, Targets, UnlabeledBatch
    from denseteacher.training.optim import build_optimizer

    recipe, (height, width) = _recipe(name), STEPS[name]["canvas"]
    torch.nn.Conv2d(3, 8, 3)(torch.zeros(1, 3, 32, 32)).sum().backward()  # the libraries' own memory
    before = _resident("VmRSS")
    student, teacher = (
        recipe.detector.model_copy(update={"pretrained": False})
        .build(10)
        .to(
            memory_format=torch.channels_last  # type: ignore[call-overload]
        )
        for _ in range(2)
    )
    teacher.eval().requires_grad_(False)
    optimizer = build_optimizer(student, recipe.optim)
    method = DenseTeacher(ratio=0.01, burn_in=0, ramp=0)

    def images(count: int) -> ImageBatch:
        pixels = torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8)
        return ImageBatch(pixels, torch.tensor([[height, width]] * count))

    labeled, unlabeled = recipe.data.labeled_batch, recipe.data.unlabeled_batch
    boxes = torch.tensor([[10.0, 10.0, 40.0, 40.0]]).repeat(labeled, 4, 1)
    ones = torch.ones(labeled, 4)
    targets = Targets(boxes, ones.long(), ones.bool())
    others = UnlabeledBatch(
        weak=images(unlabeled),
        strong=images(unlabeled),
        positions=torch.arange(unlabeled),
        to_weak=torch.eye(3).repeat(unlabeled, 1, 1),
        to_strong=None,
        random=torch.full((unlabeled, METHOD_RANDOM), 0.5),
        hidden_targets=None,
    )
    batch = SemiBatch(LabeledBatch(images(labeled), images(labeled), targets), others)
    for _ in range(2):
        losses = method.losses(student, teacher, batch, 1).losses
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return _resident("VmHWM") - before


def _recipe(name: str) -> Any:
    return load_recipe(STEPS[name]["recipe"], STEPS[name]["overrides"])


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:"))


if __name__ == "__main__":
    main()
