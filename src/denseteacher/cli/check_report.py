"""How a check is printed: what is wrong first, then what a run would make of the data."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from denseteacher.cli.printing import cell, console, count

if TYPE_CHECKING:
    from denseteacher.check import CheckReport, Duration, Finding, Measures, StepMemory
    from denseteacher.recipes.schema import Recipe

_STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_DEVICES = (8, 12, 16, 24, 40, 80)  # GB of common GPUs
_CLASSES = 8  # shown; all are in the JSON


def print_check(report: "CheckReport") -> None:
    """Prints about a screen."""
    for line in _lines(report):
        console().print(line, highlight=False, soft_wrap=True)


def _lines(report: "CheckReport") -> Iterator[Text]:
    for one in report.findings:
        yield from _finding(one)
    if all(one.severity == "info" for one in report.findings):
        yield Text("Nothing wrong was found.", style="bold green")
    if not report.decoded:
        yield Text("The image files were not read (--quick).")
    parts = ", ".join(f"{number:,} {part}" for part, number in report.images.items())
    objects = sum(one.objects for one in report.classes)
    classes = f"{len(report.classes):,} class{'' if len(report.classes) == 1 else 'es'}"
    yield Text(f"Images: {parts}. Labeled objects: {objects:,} in {classes}.")
    yield _classes(report)
    if report.pool is not None:
        yield cell(report.pool.sentence)
    if report.measures is not None:
        yield from _measures(report, report.measures)


def _finding(one: "Finding") -> Iterator[Text]:
    heading = Text(f"{one.severity:8}", style=_STYLES[one.severity])
    heading.append(f"{one.kind} ({one.subset}): {one.count:,}", style="bold")
    heading.append(f"; {one.meaning}" if one.meaning else "", style="not bold")
    yield heading
    yield from (cell(f"        {example}") for example in one.examples)


def _classes(report: "CheckReport") -> Text:
    ordered = sorted(report.classes, key=lambda one: -one.objects)
    shown = [f"{one.name} {one.objects:,} in {one.images:,}" for one in ordered]
    if len(shown) > _CLASSES:
        half = _CLASSES // 2
        shown = [*shown[:half], "...", *shown[-half:]]
    return cell(f"Classes (objects in images): {', '.join(shown)}.")


def _measures(report: "CheckReport", measures: "Measures") -> Iterator[Text]:
    recipe, (scales, foreground, memory, suggestions) = report.recipe, measures[:4]
    levels = ", ".join(f"{number:,}" for number in scales.counts)
    strides = "/".join(map(str, scales.strides))
    yield Text(f"Objects by level (stride {strides}): {levels}; in none: {len(scales.missed):,}.")
    positives = f"{foreground.positives:.3g} locations an image, {foreground.share:.3%}"
    yield Text(f"Foreground: {positives}; ratio {foreground.ratio:g}.")
    schedule = [f"{recipe.schedule.max_steps:,} steps"]
    if recipe.method.burn_in_steps is not None:
        schedule.append(f"burn-in {recipe.method.burn_in_steps:,}")
    schedule.append(f"EMA decay {recipe.ema.decay:.5g} from step {recipe.ema.start:,}")
    yield Text(f"Recipe {recipe.name}: {', '.join(schedule)}.")
    yield _sizes(recipe)
    yield _memory(memory)
    if measures.batch_cost is not None:
        yield Text(f"{measures.batch_cost[0].upper()}{measures.batch_cost[1:]}.")
    if measures.duration is not None:
        yield _duration(measures.duration, measures.small)
    for reason in dict.fromkeys(one.reason for one in suggestions):
        values = ", ".join(f"{one.key} {one.value}" for one in suggestions if one.reason == reason)
        yield Text(f"Suggested: {values}: {reason}.")
    if suggestions:
        yield Text(f"To copy: {measures.options}")


def _sizes(recipe: "Recipe") -> Text:
    weak, evaluation = recipe.augment.weak, recipe.evaluation
    sides = f"{min(weak.sides)} to {max(weak.sides)}" if len(weak.sides) > 1 else f"{weak.sides[0]}"
    return Text(
        f"Views: short side {sides} px, long side up to {weak.bound}; evaluation {evaluation.short_side}, up to "
        f"{evaluation.max_side}."
    )


def _duration(duration: "Duration", small: "Duration | None") -> Text:
    height, width = duration.measured
    said = (
        f"Time on this CPU: about {duration.text} for {duration.steps:,} steps (the networks alone; "
        f"measured on a pass of {width} x {height} px with {count(duration.threads, 'thread')}, the rest counted)."
    )
    if small is not None:
        said += f" Recipe custom_small, made for CPUs: about {small.text} for {small.steps:,} steps."
    return Text(said)


def _memory(memory: "StepMemory") -> Text:
    height, width = memory.canvas
    whole = f"Memory of the largest step ({width} x {height} px): about {memory.parts[1] / 2**30:.2g} GiB in fp32"
    needed = {size: memory.fitting(size) for size in _DEVICES}
    devices = ", ".join(
        f"{size} GB: {'no' if parts is None else 'yes' if parts == 1 else f'accumulate {parts}'}"
        for size, parts in needed.items()
    )
    return Text(f"{whole}. Fits: {devices}.")
