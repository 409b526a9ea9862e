"""The command that measures."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from denseteacher.cli.app import Overrides, app
from denseteacher.cli.printing import console, remark, say
from denseteacher.errors import InputError
from denseteacher.files import write_json


@app.command()
def benchmark(
    part: Annotated[str, typer.Argument(metavar="[step]", help="What to measure: training steps.")] = "step",
    recipe: Annotated[str, typer.Option("--recipe", help="Says detector, method and views.")] = "coco_standard",
    batch: Annotated[int, typer.Option("--batch", min=1, help="Labeled images, and as many unlabeled ones.")] = 2,
    size: Annotated[str, typer.Option("--size", metavar="HxW", help="Pixels of the canvas.")] = "320x416",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Steps that are timed.")] = 5,
    padding: Annotated[
        float, typer.Option("--padding", min=0, max=0.9, help="Share of the canvas that is not an image.")
    ] = 0.0,
    trace: Annotated[
        Path | None, typer.Option("--trace", help="File for a profile of two steps, as chrome://tracing reads it.")
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")] = "auto",
    json_file: Annotated[Path | None, typer.Option("--json", help="File to write all of it to.")] = None,
    overrides: Overrides = None,
) -> None:
    """Measure training steps on made-up images."""
    from denseteacher import api

    if part != "step":
        raise InputError(
            f"benchmark measures training steps, not {part!r}: python benchmarks/step.py measures the rest"
        )
    canvas = _parse_size(size)
    for option, file in (("--json", json_file), ("--trace", trace)):
        if file is not None:
            _check_writable(option, file)
    remark("measuring steps; what else this machine does meanwhile slows them")
    found = api.benchmark(
        recipe,
        batch=batch,
        size=canvas,
        rounds=rounds,
        padding=padding,
        trace=trace,
        device=device,
        overrides=overrides or [],
    )
    for name, values in found.items():
        if isinstance(values, dict) and name not in ("versions", "size"):
            console().print(_table(name, values))
    say(found["device"])
    if json_file is not None:
        write_json(json_file, found)


def _parse_size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    if not height.isdecimal() or not width.isdecimal() or int(height) % 32 or int(width) % 32 or int(height) == 0:
        raise InputError(f"--size takes HEIGHTxWIDTH in multiples of 32, as 320x416, not {text!r}")
    return int(height), int(width)


def _check_writable(option: str, file: Path) -> None:
    """Refuses before anything is measured and not after. Folders are made, a file that is there stays as it is."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab"):
            pass
    except OSError as error:
        raise InputError(f"{option} {file} can't be written: {error.strerror or error}; give another file") from error


def _table(name: str, values: dict[str, Any]) -> Table:
    table = Table(title=name, show_header=False)
    for key, value in values.items():
        table.add_row(key, f"{value:.4g}" if isinstance(value, float) else str(value))
    return table
