"""The command on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from denseteacher.cli.app import app
from denseteacher.cli.printing import say
from denseteacher.files import write_json

if TYPE_CHECKING:
    from denseteacher.api import MachineReport


@app.command()
def doctor(
    output: Annotated[Path, typer.Option("--output", help="Where runs will be written.")] = Path("runs"),
    compile: Annotated[
        bool, typer.Option("--compile", help="Also compile a small function with torch; takes up to a minute.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all that was found.")] = None,
) -> None:
    """Say what this machine can do, what is missing, and what would be faster."""
    from denseteacher import api

    report = api.doctor(output, compile=compile)
    _print_machine(report)
    if json_file is not None:
        write_json(json_file, report.content())


def _print_machine(report: "MachineReport") -> None:
    for name, version in {"system": report.system, **report.versions}.items():
        _line(name, version or "not installed")
    gpus = [f"{one.name}, {one.memory / 2**30:.0f} GiB, compute capability {one.capability}" for one in report.gpus]
    for place, gpu in enumerate(gpus or ["none that torch sees"]):
        _line(f"GPU {place}" if gpus else "GPU", gpu)
    _line("CUDA of torch", report.cuda or "none, built for CPUs alone")
    _line("precision", f"{report.precision}, since {report.precision_reason}")
    seen = "works" if report.compiler_tried else "its compiler is there (--compile tries it)"
    _line("torch.compile", seen if report.compiler is None else f"can't work: {report.compiler}")
    _line("CPU", f"{report.cores} cores to use, torch computes with {report.threads} threads")
    _line("memory", f"{report.memory / 2**30:.0f} GiB" if report.memory else "not known")
    _line("disk", f"{report.disk_free / 2**30:.1f} GiB free at {report.disk}")
    for installed, heading in ((True, "extras"), (False, "extras missing")):
        _line(heading, ", ".join(name for name, there in report.extras.items() if there is installed) or "none")
    for sentence in report.advice:
        say(f"- {sentence}")


def _line(name: str, text: str) -> None:
    say(f"{name:<18}{text}")
