"""Commands on data sets."""

from pathlib import Path
from typing import Annotated

import typer

from denseteacher.cli.app import app
from denseteacher.cli.printing import say


@app.command()
def split(
    data: Annotated[Path, typer.Argument(metavar="COCO_JSON", help="COCO JSON to cut.")],
    output: Annotated[Path, typer.Option("--output", help="Folder for labeled.json and unlabeled.json.")],
    percent: Annotated[float | None, typer.Option("--percent", help="Share of labeled images.")] = None,
    count: Annotated[int | None, typer.Option("--count", help="Number of labeled images.")] = None,
    fold: Annotated[int, typer.Option("--fold", help="Which of the splits of this size.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draw.")] = 0,
    published: Annotated[bool, typer.Option("--published", help="COCO-Standard's own table (train2017 only).")] = False,
    ids: Annotated[Path | None, typer.Option("--ids", help="File of the labeled images' ids.")] = None,
) -> None:
    """Cut a COCO data set into labeled.json and unlabeled.json."""
    from denseteacher import api

    labeled, unlabeled = api.split(
        data, output=output, percent=percent, count=count, fold=fold, seed=seed, published=published, ids=ids
    )
    say(f"{labeled}\n{unlabeled}")
