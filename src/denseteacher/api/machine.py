"""Functions on this machine: what it can do, and how fast it trains."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from denseteacher.api.arguments import as_texts
from denseteacher.check.machine import MachineReport, inspect_machine
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.benchmark import Size
from denseteacher.runs.benchmark import benchmark as measure_steps


def doctor(output: str | Path = "runs", *, compile: bool = False) -> MachineReport:
    """What this machine can do, what is missing, and what would be faster.

    Args:
        output: Where runs will be written.
        compile: Whether to compile a small function with torch, which takes up to a minute; else its compiler is looked
            for alone.
    """
    return inspect_machine(Path(output), compile=compile)


def benchmark(
    recipe: str | Path = "coco_standard",
    *,
    batch: int = 2,
    size: tuple[int, int] = (320, 416),
    rounds: int = 5,
    padding: float = 0.0,
    trace: str | Path | None = None,
    device: str = "auto",
    overrides: Mapping[str, Any] | Iterable[str] = (),
) -> dict[str, Any]:
    """Times training steps on made-up images (``runs.benchmark``).

    Args:
        recipe: Name of a built-in recipe, or path of a YAML file: says detector, method and views.
        batch: Labeled images, and as many unlabeled ones.
        size: Height and width of the canvas, multiples of 32.
        rounds: Steps that are timed.
        padding: Share of the canvas that is not an image.
        trace: File for a profile of two steps, as chrome://tracing reads it.
        device: ``auto``, ``cpu`` or ``cuda``.
        overrides: As for ``train``.

    Returns:
        What was measured, by name.

    Raises:
        InputError: If something given is wrong.
        RunError: If the trace can't be written.
    """
    keys = ["detector.pretrained=false", "method.group_size=null", f"runtime.device={device}", *as_texts(overrides)]
    measured = Size(batch, batch, *size, padding=padding)
    return measure_steps(
        load_recipe(recipe, keys), measured, rounds=rounds, trace=None if trace is None else Path(trace)
    )
