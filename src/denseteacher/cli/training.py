"""Commands that train."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from denseteacher.cli.app import (
    DataFormat,
    Images,
    Output,
    Overrides,
    Root,
    Subset,
    Unlabeled,
    Validation,
    ValidationSubset,
    app,
)
from denseteacher.cli.printing import cell, console, number, print_comparison, remark, say
from denseteacher.errors import RunError

if TYPE_CHECKING:
    from denseteacher.api import Comparison, TrainResult


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", help="Folder for the two runs and the report.")] = Path("demo"),
    steps: Annotated[int, typer.Option("--steps", min=40, help="Training steps of each run.")] = 2400,
    overrides: Overrides = None,
) -> None:
    """Train Supervised and Dense Teacher on the built-in Digits data and compare them (a few minutes)."""
    from denseteacher import api

    outcome = api.demo(output, steps=steps, overrides=overrides or [])
    print_comparison(outcome.rows)
    say(f"Report: {outcome.report}")


@app.command()
def train(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="Built-in recipe (see 'denseteacher recipes list') or a YAML file."),
    ],
    labeled: Annotated[
        Path | None,
        typer.Option("--labeled", help="Labeled data set: COCO, VOC, YOLO, CVAT, Label Studio, LabelMe, CSV, ..."),
    ] = None,
    images: Images = None,
    unlabeled: Unlabeled = None,
    val: Validation = None,
    root: Root = None,
    format: DataFormat = None,
    subset: Subset = None,
    val_subset: ValidationSubset = None,
    output: Output = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")] = False,
    burn_in_from: Annotated[
        Path | None, typer.Option("--burn-in-from", help="Run whose burn-in to start from.")
    ] = None,
    baseline: Annotated[
        bool,
        typer.Option("--baseline", help="Also train without the unlabeled images, and say what they were worth."),
    ] = False,
    monitor: Annotated[
        bool, typer.Option("--monitor", help="Serve a live view to this machine's browser meanwhile.")
    ] = False,
    devices: Annotated[int | None, typer.Option("--devices", min=1, help="Devices (processes) a node.")] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="Machines.")] = None,
    log: Annotated[
        list[str] | None,
        typer.Option("--log", metavar="[wandb|mlflow]", help="Send numbers, previews and report there; repeatable."),
    ] = None,
) -> None:
    """Train a detector from labeled and unlabeled images."""
    from denseteacher import api

    result = api.train(
        recipe,
        labeled=labeled,
        images=images,
        unlabeled=unlabeled,
        val=val,
        root=root,
        format=format,
        subset=subset,
        val_subset=val_subset,
        output=output,
        overrides=overrides or [],
        resume=resume,
        burn_in_from=burn_in_from,
        baseline=baseline,
        monitor=monitor,
        devices=devices,
        nodes=nodes,
        log=log or [],
    )
    _tell_how_it_ended(result, again="--resume --baseline" if baseline else "--resume")


def _tell_how_it_ended(result: "TrainResult", *, again: str) -> None:
    """Prints what a run left, or with which options it goes on; only its main process does."""
    if not result.is_main:
        raise typer.Exit(0 if result.stopped_by is None else 1)
    if result.stopped_by is not None:
        where = f"step {result.step}" if result.baseline is None else f"step {result.baseline.step} of the baseline"
        raise RunError(
            f"stopped by {result.stopped_by} after {where}, all is saved: go on with {again} --output {result.folder}"
        )
    halves = [result] if result.baseline is None else [result.baseline, result]
    if result.metrics:
        print_comparison([(half.folder.name, half.metrics) for half in halves])
    if result.gain is not None:
        say(f"{result.gain.sentence} {result.gain.certainty}")
    say(f"Detector: {result.detector}")
    say(f"Report: {result.report}")


@app.command()
def monitor(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run; it needs not have begun.")],
    port: Annotated[int, typer.Option("--port", help="Port; 0 for any that is free.")] = 0,
    host: Annotated[str, typer.Option("--host", help="Address to listen at; this machine alone if not given.")] = (
        "127.0.0.1"
    ),
) -> None:
    """Show a run that goes on or is finished as a page that refreshes itself, until Ctrl-C."""
    from denseteacher import api

    with api.monitor(run, host=host, port=port) as served, suppress(KeyboardInterrupt):
        if served.warning is not None:
            remark(f"denseteacher: warning: {served.warning}")
        say(f"Monitor: {served.address} (Ctrl-C ends it)")
        served.wait()


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of two or more finished runs.")],
    output: Annotated[Path | None, typer.Option("--output", metavar="FILE.html", help="Page to write.")] = None,
) -> None:
    """Put finished runs side by side; gains are over the first."""
    from denseteacher import api

    compared = api.compare(runs, output=output)
    _print_runs(compared)
    for note in compared.notes:
        say(note)
    if output is not None:
        say(f"Report: {output}")


def _print_runs(compared: "Comparison") -> None:
    """A table of what the runs reach and of what their recipes have different, a column a run."""
    heads = [Column(cell(run.shown.label), justify="right", overflow="fold") for run in compared.runs]
    table = Table(Column("", no_wrap=True), *heads, title="COCO AP at the last step")
    for role in ("teacher", "student"):
        for name in ("AP", "AP50", "AP75"):
            values = [run.shown.metrics.get(f"{role}/{name}") for run in compared.runs]
            table.add_row(f"{role} {name}", *map(number, values))
    table.add_section()
    table.add_row("best step", *(number(run.best_step, ",") for run in compared.runs))
    table.add_row("seconds a step", *(number(run.shown.step_seconds, ".2g") for run in compared.runs))
    table.add_row("labeled images", *(f"{run.labeled:,}" for run in compared.runs))
    table.add_row("unlabeled images", *(f"{run.unlabeled:,}" for run in compared.runs), end_section=True)
    for key, texts in compared.differences.items():
        table.add_row(key, *map(cell, texts))
    console().print(table)
