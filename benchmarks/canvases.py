"""How much padding a step computes and how many canvases a run has, with each way to draw scales and canvases.

    python benchmarks/canvases.py [--steps 500]

No image is read: sizes are drawn, and the steps' plans counted. The shapes are an assumption in the likeness of COCO
(a long side of 640 nearly always, a quarter upright, half of all 4 : 3), not a count of it. Writes
``results/canvases.json``.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

import numpy as np

from denseteacher.data.augment.weak import EvalView
from denseteacher.data.open import TrainingData
from denseteacher.data.records import Category, ImageRecord, LabeledImages
from denseteacher.data.sizes import common_canvas, resized_size
from denseteacher.inference.inputs import batches_by_shape
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.build import build_steps
from result_file import write_result

SHAPES = [(640, 480, 50), (640, 427, 22), (500, 375, 6), (640, 360, 3), (500, 333, 3), (640, 640, 2), (612, 612, 2)]
"""Long side, short side and percent of the images; the short sides of the others are anything from 300 to 640."""
UPRIGHT = 0.27
IMAGES = 12_000
Batch = tuple[Sequence[tuple[int, int]], tuple[int, int]]
"""Height and width of the views, and of their canvas."""
METRICS = ["padding, % of the real pixels", "canvases"]


def images() -> LabeledImages:
    """Images that have a size and nothing else."""
    rng = np.random.default_rng(0)
    percents = [percent for *_, percent in SHAPES]
    kinds = rng.choice(len(SHAPES) + 1, size=IMAGES, p=[percent / 100 for percent in [*percents, 100 - sum(percents)]])
    records = []
    for number, kind in enumerate(kinds, start=1):
        sides = SHAPES[kind][:2] if kind < len(SHAPES) else (640, int(rng.integers(300, 640)))
        width, height = sides[::-1] if rng.random() < UPRIGHT else sides
        records.append(ImageRecord(number, Path("none"), width, height))
    nothing = [np.zeros((0, 4), np.float32)] * IMAGES
    return LabeledImages(records, nothing, [np.zeros(0, np.int64)] * IMAGES, [Category(1, "thing")])


def measure(batches: Iterable[Batch]) -> dict[str, list[float]]:
    """Padding and canvases of many batches."""
    real = computed = 0
    canvases = set()
    for sizes, (height, width) in batches:
        real += sum(own_height * own_width for own_height, own_width in sizes)
        computed += len(sizes) * height * width
        canvases.add((height, width))
    return {METRICS[0]: [round(100 * (computed / real - 1), 1)], METRICS[1]: [len(canvases)]}


def training(data: LabeledImages, batch: int, keys: list[str], steps: int) -> Iterator[Batch]:
    """A run's first steps."""
    recipe = load_recipe("coco_standard", [f"data.labeled_batch={batch}", f"data.unlabeled_batch={batch}", *keys])
    dataset = build_steps(recipe, TrainingData(data, data.images)).with_unlabeled()
    for step in range(steps):
        plan = dataset.plan(step)
        yield [view.geometry[:2] for view in plan.labeled + plan.unlabeled], plan.canvas


def prediction(data: LabeledImages, groups: Iterable[Sequence[int]]) -> Iterator[Batch]:
    """What ``predict`` does to images of these positions."""
    view = EvalView()
    for group in groups:
        records = [data.images[position] for position in group]
        sizes = [resized_size(one.height, one.width, view.short_side, view.max_side) for one in records]
        yield sizes, common_canvas(sizes)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    steps = parser.parse_args().steps
    data = images()
    found = {}
    for batch, scale, canvas in product((16, 2), ("image", "batch"), ("smallest", "bucket")):
        keys = [f"augment.weak.scale_per={scale}", f"augment.weak.canvas={canvas}"]
        label = f"train, {batch} + {batch} images, scale_per: {scale}, canvas: {canvas}"
        found[label] = measure(training(data, batch, keys, steps))
    in_order = [range(start, start + 8) for start in range(0, IMAGES, 8)]
    by_shape = batches_by_shape(IMAGES, lambda place: (data.images[place].height, data.images[place].width), 8)
    for label, groups in (("in the order given", in_order), ("by shape", by_shape)):
        found[f"predict, 8 images, {label}"] = measure(prediction(data, groups))
    rows = [{"label": label, "seeds": [1], "values": values} for label, values in found.items()]
    said = f"{steps} steps, and {IMAGES:,} images of made-up sizes like COCO's; short side 640 to 800 and 800"
    for row in rows:
        print(row["label"], row["values"])
    print(write_result("canvases", rows, {}, metrics=METRICS, data=said))


if __name__ == "__main__":
    main()
