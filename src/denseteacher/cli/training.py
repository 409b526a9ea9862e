"""Commands that train."""

from pathlib import Path
from typing import Annotated

import typer

from denseteacher.cli.app import Images, Output, Overrides, app
from denseteacher.cli.printing import print_comparison, say
from denseteacher.errors import RunError


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", help="Folder for the two runs and the report.")] = Path("demo"),
    steps: Annotated[int, typer.Option("--steps", min=40, help="Training steps of each run.")] = 2400,
    overrides: Overrides = None,
) -> None:
    """Train Supervised and Dense Teacher on the built-in Digits data and compare them (a few minutes)."""
    from denseteacher.demo import run_demo

    outcome = run_demo(output, steps=steps, overrides=overrides or [])
    print_comparison(outcome.rows)
    say(f"Report: {outcome.report}")


@app.command()
def train(
    recipe: Annotated[
        str,
        typer.Argument(metavar="RECIPE", help="Built-in recipe (see 'denseteacher recipes list') or a YAML file."),
    ],
    labeled: Annotated[Path | None, typer.Option("--labeled", help="COCO JSON of the labeled images.")] = None,
    images: Images = None,
    unlabeled: Annotated[
        Path | None,
        typer.Option("--unlabeled", help="Unlabeled images: a folder, a COCO image-info JSON or a text list."),
    ] = None,
    val: Annotated[Path | None, typer.Option("--val", help="COCO JSON to evaluate on.")] = None,
    output: Output = None,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --output.")] = False,
    burn_in_from: Annotated[
        Path | None, typer.Option("--burn-in-from", help="Run whose burn-in to start from.")
    ] = None,
    devices: Annotated[int | None, typer.Option("--devices", min=1, help="Devices (processes) a node.")] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="Machines.")] = None,
) -> None:
    """Train a detector from labeled and unlabeled images."""
    from denseteacher import api

    given = list(overrides or [])
    given += [f"runtime.devices={devices}"] if devices is not None else []
    given += [f"runtime.nodes={nodes}"] if nodes is not None else []
    result = api.train(
        recipe,
        labeled=labeled,
        images=images,
        unlabeled=unlabeled,
        val=val,
        output=output,
        overrides=given,
        resume=resume,
        burn_in_from=burn_in_from,
    )
    if result.stopped_by is not None:
        raise RunError(
            f"stopped by {result.stopped_by} after step {result.step}, all is saved: go on with --resume --output "
            f"{result.folder}"
        )
    if result.metrics:
        print_comparison([(result.folder.name, result.metrics)])
    say(f"Detector: {result.folder / 'detector.safetensors'}")
    say(f"Report: {result.folder / 'report.html'}")
