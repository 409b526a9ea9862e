"""Commands that use a trained detector."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from denseteacher.cli.app import Detector, Images, app
from denseteacher.cli.printing import console, count, say, write_json
from denseteacher.errors import RunError


@app.command()
def evaluate(
    detector: Detector,
    data: Annotated[Path, typer.Option("--data", help="COCO JSON of labeled images.")],
    images: Images = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File to write the metrics to.")] = None,
    score_floor: Annotated[
        float | None, typer.Option("--score-floor", help="Class scores at or below are no detections.")
    ] = None,
) -> None:
    """Measure a detector's COCO AP."""
    from denseteacher import api

    result = api.evaluate(detector, data=data, images=images, score_floor=score_floor)
    table = Table(title=f"{detector} on {data}")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in result.metrics.values.items():
        table.add_row(name, f"{value:.2f}")
    console().print(table)
    say(f"score floor {result.score_floor}, {result.metrics.backend}")
    if json_file is not None:
        content = {
            "metrics": result.metrics.values,
            "per_class": result.metrics.per_class,
            "score_floor": result.score_floor,
            "detector": str(detector),
            "data": str(data),
        }
        write_json(json_file, content)


@app.command()
def predict(
    detector: Detector,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Images, folders or glob patterns.")],
    output: Annotated[Path, typer.Option("--output", help="Folder for predictions.json and pictures.")],
    score: Annotated[float, typer.Option("--score", help="Scores above are drawn.")] = 0.5,
) -> None:
    """Detect objects in images; write COCO results and pictures with boxes."""
    from denseteacher.inference.folder import predict_files

    outcome = predict_files(detector, paths, output, draw_above=score)
    for message in outcome.unreadable:
        print(message, file=sys.stderr)
    console().print(
        f"{count(outcome.detections, 'detection')} in {count(outcome.images, 'image')}: {output / 'predictions.json'}",
        highlight=False,
        soft_wrap=True,
    )
    if outcome.unreadable:
        raise RunError(f"{count(len(outcome.unreadable), 'image')} could not be read; all others are done")
