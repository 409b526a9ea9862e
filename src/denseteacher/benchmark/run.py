"""``denseteacher benchmark``: what to measure, on what size, and how it is put down."""

import platform
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from denseteacher.benchmark.data import measure_data
from denseteacher.benchmark.peers import measure_loader, measure_strong_views, measure_supervised
from denseteacher.benchmark.scene import Size
from denseteacher.benchmark.step import measure_step
from denseteacher.benchmark.trace import trace_steps
from denseteacher.benchmark.using import measure_evaluation, measure_inference
from denseteacher.recipe import Recipe

Part = Literal["step", "peers", "data", "inference", "eval"]
PARTS: tuple[Part, ...] = ("step", "peers", "data", "inference", "eval")
_PACKAGES = ("dense-teacher", "torch", "torchvision", "timm", "numpy")


class BenchmarkSize(NamedTuple):
    """How large the measured work is."""

    labeled: int
    unlabeled: int
    height: int
    width: int
    boxes: int = 8
    classes: int = 80
    rounds: int = 5
    padding: float = 0.0
    """Share of the canvas that is no image."""


def benchmark(
    recipe: Recipe, parts: tuple[Part, ...], size: BenchmarkSize, *, trace: Path | None = None
) -> dict[str, Any]:
    """Measures parts of what a recipe does, on made-up images.

    Args:
        recipe: Says detector, method, views, device and precision.
        parts: ``step``: a training step, its parts and its bare networks; ``peers``: torchvision's FCOS and a PIL
            chain beside ours; ``data``: the loader; ``inference``; ``eval``: COCO's metrics.
        size: Of the work.
        trace: File for a Chrome trace of two steps; none is made if not given.

    Returns:
        A dict with ``device``, ``versions``, ``size`` and what each part found.
    """
    found: dict[str, Any] = {
        "device": device_name(recipe),
        "versions": {"python": platform.python_version()} | {name: metadata.version(name) for name in _PACKAGES},
        "size": size._asdict(),
    }
    step = Size(size.labeled, size.unlabeled, size.height, size.width, size.boxes, size.padding)
    if "step" in parts:
        found["step"] = measure_step(recipe, step, classes=size.classes, rounds=size.rounds).content()
    if trace is not None:
        found["operators, ms a step"] = trace_steps(recipe, step, classes=size.classes, file=trace)
    if "peers" in parts:
        found["supervised"] = measure_supervised(recipe, step, classes=size.classes, rounds=size.rounds)
        views = {"images": size.unlabeled or 1, "height": size.height, "width": size.width}
        found["strong views"] = measure_strong_views(recipe.augment.strong, **views, rounds=size.rounds)
    if "data" in parts:
        found["data"] = measure_data(recipe, steps=size.rounds) | measure_loader(recipe, rounds=size.rounds)
    if "inference" in parts:
        found["inference"] = measure_inference(
            recipe,
            classes=size.classes,
            batch=size.labeled,
            height=size.height,
            width=size.width,
            rounds=size.rounds,
        )
    if "eval" in parts:
        found["eval"] = measure_evaluation()
    return found


def device_name(recipe: Recipe) -> str:
    """What the recipe's device is called."""
    if recipe.runtime.device != "cpu" and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads, {platform.processor() or platform.machine()}"
