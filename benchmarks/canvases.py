"""How much padding a step computes, what of the images is selected in it, and how many canvases a run has.

    python benchmarks/canvases.py [--steps 500] [--rounds 2]

No image is read: sizes are drawn, and the steps' plans counted. Rows ``published`` have what each GPU of the published
run has, a canvas for its two labeled and one for its two unlabeled images; ``before`` one orientation and one canvas a
process, as this package had; ``now`` the recipe as it is. A labeled image is seen twice, an unlabeled one once, and
by the teacher without gradients, which counts a third.

The shapes are an assumption in the likeness of COCO (a long side of 640 nearly always, a quarter upright, half of all
4 : 3), not a count of it. Then steps of FCOS on ResNet-50 are timed, before and now in turns, on views of a quarter of
the size (``SMALL``), and steps of it and of Digits, whole and in parts (``schedule.accumulate``).
Writes ``results/canvases.json``.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch

from denseteacher.data.augment.weak import EvalView
from denseteacher.data.loading.steps import LoadedStep
from denseteacher.data.open import TrainingData
from denseteacher.data.records import Category, ImageRecord, LabeledImages
from denseteacher.data.sizes import common_canvas, resized_size
from denseteacher.inference.inputs import batches_by_shape
from denseteacher.ops.padding import real_area
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.benchmark import Size, made_up_step, make_student_teacher, open_runtime
from denseteacher.runs.build import build_steps
from denseteacher.structures import ImageBatch, chunk
from harness.timing import in_turns, ratio_of_medians, undisturbed_clock
from result_file import write_result

SHAPES = [(640, 480, 50), (640, 427, 22), (500, 375, 6), (640, 360, 3), (500, 333, 3), (640, 640, 2), (612, 612, 2)]
"""Long side, short side and percent of the images; the short sides of the others are anything from 300 to 640."""
UPRIGHT = 0.27
IMAGES = 12_000
Sides = tuple[int, int]
Batch = tuple[Sequence[Sides], Sides]
"""Height and width of the views, and of their canvas."""
PADDING = "padding, % of the real pixels"
STEP = [PADDING, "of labeled views", "of unlabeled views", "selected, % of the real locations", "canvases a step"]
METRICS = [*STEP, "canvases", "s a step"]
STRIDES = (8, 16, 32, 64, 128)
GROUP = 2
"""Images that the published run has on a GPU, of each kind."""
RATIO = 1.0
"""Percent of the locations that are selected."""
JITTER = ["augment.weak.short_side=[400,1200]", "augment.weak.sampling=range"]
BEFORE = ["data.orientation_group=null", "augment.weak.canvases=1"]


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
    return {PADDING: [round(100 * (computed / real - 1), 1)], METRICS[-2]: [len(canvases)]}


class Kind(NamedTuple):
    """The labeled or the unlabeled views of a step."""

    sizes: list[Sides]
    computed: list[Sides]
    """Canvas of each view's forward."""
    selecting: list[Sides]
    """Canvas whose locations each view's share is of."""


def groups_of(sizes: list[Sides]) -> list[Sides]:
    """The own canvas of each one's group."""
    starts = range(0, len(sizes), GROUP)
    return [common_canvas(sizes[start : start + GROUP]) for start in starts for _ in sizes[start : start + GROUP]]


def steps_of(data: LabeledImages, variant: str, processes: int, keys: list[str], steps: int) -> Iterator[list[Kind]]:
    """Labeled and unlabeled views of a run's first steps in its first process."""
    recipe = load_recipe("coco_standard", [*keys, *(BEFORE if variant == "before" else [])])
    dataset = build_steps(recipe, TrainingData(data, data.images), 0, processes).with_unlabeled()
    for step in range(steps):
        plan = dataset.plan(step)
        kinds = [[view.geometry[:2] for view in views] for views in (plan.labeled, plan.unlabeled)]
        canvases = list(plan.canvases or [plan.canvas] * sum(map(len, kinds)))
        computed = [canvases[: len(kinds[0])], canvases[len(kinds[0]) :]]
        own = [groups_of(sizes) for sizes in kinds]
        if variant == "published":
            computed = own
        selecting = computed if variant == "before" else own
        yield [Kind(*fields) for fields in zip(kinds, computed, selecting, strict=True)]


SMALL = ["augment.weak.short_side=[160,200]", "augment.weak.sampling=range", "augment.weak.max_side=333"]
SMALL_BATCH = 8


def made_up(data: LabeledImages, variant: str, step: int) -> LoadedStep:
    """A step's views as ``variant`` plans them, all noise."""
    batches = [f"data.labeled_batch={SMALL_BATCH}", f"data.unlabeled_batch={SMALL_BATCH}"]
    recipe = load_recipe("coco_standard", [*SMALL, *batches, *(BEFORE if variant == "before" else [])])
    plan = build_steps(recipe, TrainingData(data, data.images)).with_unlabeled().plan(step)
    sizes = torch.tensor([view.geometry[:2] for view in (*plan.labeled, *plan.unlabeled)])
    noise = torch.randint(0, 256, (len(sizes), 3, *plan.canvas), dtype=torch.uint8)
    labeled, unlabeled = chunk(ImageBatch(noise * real_area(sizes, *plan.canvas), sizes, plan.canvases), 2)
    step_of_noise = made_up_step(Size(SMALL_BATCH, SMALL_BATCH, *sizes.amin(0).tolist(), 8), 80, seed=step)
    assert step_of_noise.unlabeled is not None
    return step_of_noise._replace(labeled=labeled, unlabeled=step_of_noise.unlabeled._replace(weak=unlabeled))


def timed_pixels(data: LabeledImages, variant: str, rounds: int) -> float:
    """What the timed steps compute; see ``measure_steps`` for the weights."""
    steps = [made_up(data, variant, step) for step in range(1, rounds + 1)]
    return sum(2 * one.labeled.computed + 4 / 3 * one.unlabeled.weak.computed for one in steps if one.unlabeled)


def time_steps(data: LabeledImages, rounds: int) -> dict[str, list[float]]:
    """Seconds of steps of FCOS on ResNet-50, by variant, in turns."""
    work = {}
    for variant in ("before", "now"):
        keys = ["detector.pretrained=false", "runtime.device=cpu", "runtime.precision=fp32"]
        keys += [f"method.group_canvas={variant == 'now'}".lower(), *(BEFORE if variant == "before" else [])]
        recipe = load_recipe("coco_standard", [*keys, *SMALL])
        size = Size(SMALL_BATCH, SMALL_BATCH, 192, 288)
        student_teacher = make_student_teacher(recipe, open_runtime(recipe), size, 80)
        steps = iter([made_up(data, variant, step) for step in range(rounds + 1)])
        work[variant] = lambda student_teacher=student_teacher, steps=steps: student_teacher.train_step(next(steps))
    device = torch.device("cpu")
    return in_turns(work, rounds=rounds, device=device, clock=undisturbed_clock(device))


def time_parts(name: str, size: Size, rounds: int) -> dict[str, list[float]]:
    """Seconds of steps of a recipe, by ``schedule.accumulate``, in turns."""
    work = {}
    for parts in (1, 2, 4):
        keys = [f"schedule.accumulate={parts}", "runtime.device=cpu", "runtime.precision=fp32"]
        recipe = load_recipe(name, [*keys, "detector.pretrained=false"])
        recipe = recipe.model_copy(update={"method": recipe.method.with_ratio(0.19)})
        student_teacher = make_student_teacher(recipe, open_runtime(recipe), size, 10)
        work[str(parts)] = partial(student_teacher.train_step, made_up_step(size, 10))
    device = torch.device("cpu")
    return in_turns(work, rounds=rounds, warm=1, device=device, clock=undisturbed_clock(device))


def area(sizes: Iterable[Sides]) -> int:
    """Pixels."""
    return sum(height * width for height, width in sizes)


def locations(sizes: Iterable[Sides]) -> int:
    """Of FCOS, on images or on canvases."""
    return sum(-(-height // stride) * -(-width // stride) for height, width in sizes for stride in STRIDES)


def measure_steps(steps: Iterable[list[Kind]]) -> dict[str, list[float]]:
    """Padding of steps, and the share of the unlabeled images' own locations that their selection amounts to."""
    real, computed, there, selected, forwards, count = [0, 0], [0, 0], 0, 0.0, 0, 0
    canvases = set()
    for sides in steps:
        for kind, side in enumerate(sides):
            real[kind] += area(side.sizes)
            computed[kind] += area(side.computed)
        used = {canvas for side in sides for canvas in side.computed}
        canvases |= used
        forwards += len(used)
        count += 1
        there += locations(sides[1].sizes)
        selected += RATIO * locations(sides[1].selecting)
    padding = [100 * (one / other - 1) for one, other in zip(computed, real, strict=True)]
    views = (2.0, 4 / 3)
    total, pure = (sum(share * one for share, one in zip(views, ones, strict=True)) for ones in (computed, real))
    values = [100 * (total / pure - 1), *padding, selected / there, forwards / count, len(canvases)]
    return {metric: [round(value, 2)] for metric, value in zip(METRICS, values, strict=False)}


def training(data: LabeledImages, batch: int, keys: list[str], steps: int) -> Iterator[Batch]:
    """A run's first steps."""
    batches = [f"data.labeled_batch={batch}", f"data.unlabeled_batch={batch}"]
    recipe = load_recipe("coco_standard", [*BEFORE, *batches, *keys])
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
    parser.add_argument("--rounds", type=int, default=2)
    steps, rounds = (given := parser.parse_args()).steps, given.rounds
    data = images()
    found = {}
    for views, keys in (("", []), (", large-scale jittering", JITTER)):
        for processes, variant in ((8, "published"), (1, "before"), (1, "now"), (8, "before"), (8, "now")):
            images_each = 16 // processes
            label = f"train{views}, {images_each} + {images_each} images a process, {variant}"
            found[label] = measure_steps(steps_of(data, variant, processes, keys, steps))
    for batch, scale, canvas in product((16, 2), ("image", "batch"), ("smallest", "bucket")):
        keys = [f"augment.weak.scale_per={scale}", f"augment.weak.canvas={canvas}"]
        label = f"train, one orientation, {batch} + {batch} images, scale_per: {scale}, canvas: {canvas}"
        found[label] = measure(training(data, batch, keys, steps))
    in_order = [range(start, start + 8) for start in range(0, IMAGES, 8)]
    by_shape = batches_by_shape(IMAGES, lambda place: (data.images[place].height, data.images[place].width), 8)
    for label, groups in (("in the order given", in_order), ("by shape", by_shape)):
        found[f"predict, 8 images, {label}"] = measure(prediction(data, groups))
    timed = time_steps(data, rounds)
    digits = time_parts("digits", Size(8, 8, 96, 96), 10 * rounds)
    resnet = time_parts("coco_standard", Size(4, 4, 128, 192), rounds)
    for variant, seconds in timed.items():
        label = f"step, FCOS R50, {SMALL_BATCH} + {SMALL_BATCH} small images, {variant}"
        found[label] = {METRICS[-1]: [round(median(seconds), 2)]}
    for label, parts in (("Digits", digits), ("FCOS R50, 4 + 4 images of 128 x 192", resnet)):
        for count, seconds in parts.items():
            found[f"step, {label}, accumulate: {count}"] = {METRICS[-1]: [round(median(seconds), 4)]}
    rows = [{"label": label, "seeds": [1], "values": values} for label, values in found.items()]
    said = f"{steps} steps, and {IMAGES:,} images of made-up sizes like COCO's; short side 640 to 800 and 800"
    for row in rows:
        print(row["label"], row["values"])
    one = {variant: found[f"train, 16 + 16 images a process, {variant}"][PADDING][0] for variant in ("before", "now")}
    ratios = {
        "pixels_now_over_before": round((100 + one["now"]) / (100 + one["before"]), 3),
        "step_now_over_before": round(ratio_of_medians(timed, "now", "before"), 3),
        "timed_pixels_now_over_before": round(
            timed_pixels(data, "now", rounds) / timed_pixels(data, "before", rounds), 3
        ),
    }
    ratios |= {
        f"{name}_accumulate_{count}_over_1": round(ratio_of_medians(parts, str(count), "1"), 3)
        for name, parts in (("digits", digits), ("r50", resnet))
        for count in (2, 4)
    }
    print(write_result("canvases", rows, ratios, metrics=METRICS, data=said))


if __name__ == "__main__":
    main()
