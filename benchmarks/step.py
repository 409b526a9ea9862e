"""What a training step costs over its bare networks, over torchvision and over a PIL chain, on this machine.

    python benchmarks/step.py [--device cpu] [--rounds 5] [--small]

On a CPU a step is FCOS R50, 2 + 2 images at 320 x 416, and the strong views are measured at 800 x 1333 on one
thread; on a GPU it is the published 16 + 16 images at 800 x 1344 in bf16, and 32 strong views are measured there
too. Writes ``results/step_cpu.json`` or ``results/step_gpu.json``.

With ``--small`` steps of small networks on one thread of a CPU, where what a step does besides its networks shows
most: Dense Teacher by ``digits`` and ``custom_small``. Writes ``results/step_small_cpu.json``.
"""

import argparse
import os
from collections.abc import Callable
from itertools import count
from typing import Any

import torch

from denseteacher.data.augment.strong import StrongView
from denseteacher.data.randomness import Draw
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.benchmark import Size, made_up_step
from denseteacher.structures import to
from harness.data import measure_data
from harness.peers import measure_loader, measure_strong_views, measure_supervised
from harness.step import measure_step
from harness.timing import in_turns, medians
from harness.using import measure_evaluation
from result_file import write_result

CLASSES = 80
PUBLISHED_STEPS = 180_000
SMALL = {"digits": Size(8, 8, 96, 96, 8), "custom_small": Size(2, 4, 256, 352, 8)}
"""Sizes of a step by recipe."""
DENSE_TEACHER_ON_FCOS = ["detector.name=fcos", "detector.init=backbone", "method.name=dense_teacher"]


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    if arguments.small:
        measure_small(arguments.rounds)
        return
    on_gpu, rounds = arguments.device == "cuda", arguments.rounds
    size = Size(16, 16, 800, 1344, 8) if on_gpu else Size(2, 2, 320, 416, 8)
    keys = ["detector.pretrained=false", f"runtime.device={arguments.device}"]
    keys += (
        [f"runtime.workers={min(16, os.cpu_count() or 1)}", "runtime.precision=auto"]
        if on_gpu
        else ["method.group_size=null", "runtime.precision=fp32"]
    )
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    for detector in ("fcos", "retinanet"):
        row, own_ratios = measure_detector(detector, keys, size, rounds)
        rows.append(row)
        ratios |= own_ratios
        write(rows, ratios, size, on_gpu=on_gpu, rounds=rounds)
    recipe = load_recipe("coco_standard", keys)
    if on_gpu:
        ratios["32_strong_views_ms"] = strong_views_ms(recipe.augment.strong, rounds=10 * rounds)
    peers = Size(16, 0, 800, 1344, 8) if on_gpu else Size(4, 0, 320, 416, 8)
    others: dict[str, Callable[[], dict[str, float]]] = {
        "supervised FCOS R50": lambda: measure_supervised(recipe, peers, classes=CLASSES, rounds=rounds),
        "strong views, CPU, one thread": lambda: strong_views_beside_pil(recipe.augment.strong, rounds=2 * rounds),
        "loader": lambda: measure_data(recipe, steps=4 * rounds) | measure_loader(recipe, rounds=2 * rounds),
        "COCO metrics, 5,000 x 100": measure_evaluation,
    }
    for label, measure in others.items():
        try:
            measured = measure()
        except torch.OutOfMemoryError as error:  # the others still fit
            print(f"{label}: {error}")
            continue
        own = {name: value for name, value in measured.items() if "_over_" not in name}
        rows.append({"label": label, "seeds": [0], "values": _lists(own)})
        ratios |= {name: value for name, value in measured.items() if "_over_" in name}
        write(rows, ratios, size, on_gpu=on_gpu, rounds=rounds)


def measure_detector(
    detector: str, keys: list[str], size: Size, rounds: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """Measures the step of a detector: its row of the results, and its ratios."""
    recipe = load_recipe("coco_standard", [*keys, f"detector.name={detector}"])
    found = measure_step(recipe, size, classes=CLASSES, rounds=rounds)
    steps_per_s = found.images_per_second / (size.labeled + size.unlabeled)
    values = {
        "steps_per_s": steps_per_s,
        "mfu": found.mfu,
        "peak_gib": found.peak_gib,
        "tflop": found.tflop,
        "hours of 180,000 steps": PUBLISHED_STEPS / steps_per_s / 3600,
        **{f"{part} s": seconds for part, seconds in found.seconds.items()},
        **{f"{part} share": share for part, share in found.shares.items()},
    }
    row = {"label": f"{detector}, {found.precision}", "seeds": [0], "values": _lists(values)}
    if detector == "fcos":
        ratios = found.ratios | {"steps_per_s": steps_per_s, "mfu": found.mfu, "peak_gib": found.peak_gib}
        return row, ratios | {"data_wait_share": found.shares["data wait"], "ema_ms": 1000 * found.seconds["EMA"]}
    ratios = {f"retinanet_{name}": value for name, value in found.ratios.items()}
    return row, ratios | {"retinanet_steps_per_s": steps_per_s, "retinanet_peak_gib": found.peak_gib}


def write(rows: list[dict[str, Any]], ratios: dict[str, float], size: Size, *, on_gpu: bool, rounds: int) -> None:
    """Prints and writes what is measured so far, so that a script that is stopped leaves it."""
    print(rows[-1]["label"], rows[-1]["values"])
    rounded = {name: round(value, 4) for name, value in ratios.items()}
    print(rounded)
    name = "step_gpu" if on_gpu else "step_cpu"
    data = f"FCOS R50, {size.labeled} + {size.unlabeled} images of {size.height} x {size.width}"
    threads = torch.get_num_threads()
    print(write_result(name, rows, rounded, data=data, size=size._asdict(), rounds=rounds, threads=threads))


def measure_small(rounds: int) -> None:
    """Measures and writes steps of small networks, 10 classes."""
    rows, ratios = [], {}
    keys = ["runtime.threads=1", "runtime.precision=fp32", "runtime.device=cpu", "detector.pretrained=false"]
    for label, size in SMALL.items():
        recipe = load_recipe(label, [*keys, *DENSE_TEACHER_ON_FCOS])
        found = measure_step(recipe, size, classes=10, rounds=rounds)
        values = {f"{part} ms": 1000 * seconds for part, seconds in found.seconds.items()}
        values |= {f"{part} share": share for part, share in found.shares.items()}
        rows.append({"label": label, "seeds": [0], "values": _lists(values)})
        ratios |= {f"{label} {name}": round(value, 4) for name, value in found.ratios.items()}
        print(rows[-1], ratios, flush=True)
    sizes = {label: size._asdict() for label, size in SMALL.items()}
    data = "made-up images, Dense Teacher on FCOS; ratios are of the time that the process was given"
    print(write_result("step_small_cpu", rows, ratios, data=data, sizes=sizes, rounds=rounds, threads=1))


def strong_views_beside_pil(strong: StrongView, *, rounds: int) -> dict[str, float]:
    """See ``measure_strong_views``: at 800 x 1333 and on one thread, as PIL is."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure_strong_views(strong, images=8, height=800, width=1333, rounds=rounds)
    finally:
        torch.set_num_threads(threads)


def strong_views_ms(strong: StrongView, *, rounds: int) -> float:
    """Of 32 images at 800 x 1344 that are on the GPU."""
    device = torch.device("cuda", torch.cuda.current_device())
    images = made_up_step(Size(32, 0, 800, 1344, 1), CLASSES).labeled
    images = to(images, device)
    steps = count()
    views = {
        "views": lambda: strong(images, seed=0, step=next(steps), samples=range(32), draw=Draw.UNLABELED_STRONG),
    }
    return 1000 * medians(in_turns(views, rounds=rounds, warm=3, device=device))["views"]


def _lists(values: dict[str, float]) -> dict[str, list[float]]:
    return {name: [float(f"{value:.4g}")] for name, value in values.items()}


if __name__ == "__main__":
    main()
