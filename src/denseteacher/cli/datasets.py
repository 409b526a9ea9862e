"""Commands on data sets."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from denseteacher.cli.app import DataFormat, Images, Overrides, Subset, Unlabeled, Validation, ValidationSubset, app
from denseteacher.cli.check_report import print_check
from denseteacher.cli.printing import remark, say
from denseteacher.data.choices import Protocol
from denseteacher.files import write_json

_SHOWN = 5  # sentences on unreadable images


@app.command()
def check(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Labeled data set, of any format.")],
    images: Images = None,
    format: DataFormat = None,
    subset: Subset = None,
    unlabeled: Unlabeled = None,
    val: Validation = None,
    val_subset: ValidationSubset = None,
    recipe: Annotated[str, typer.Option("--recipe", help="Recipe to check against.")] = "custom",
    overrides: Overrides = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not read the image files.")] = False,
    pool: Annotated[
        bool | None,
        typer.Option(
            "--pool/--no-pool",
            help="Compare unlabeled with labeled images, fetching the backbone's weights. If neither is given: where "
            "these are on this machine and images are read.",
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="File for all that was found.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE.html", help="Page to write, with charts of the labels.")
    ] = None,
) -> None:
    """Look for what is wrong with a data set, and for the recipe values that fit it.

    Exit code 0: no errors (there may be warnings); 1: errors, with which training would refuse the data or its
    numbers would be wrong; 2: wrong usage, or data that can't be read at all.
    """
    from denseteacher import api

    report = api.check(
        data,
        images=images,
        format=format,
        subset=subset,
        unlabeled=unlabeled,
        val=val,
        val_subset=val_subset,
        recipe=recipe,
        overrides=overrides or [],
        quick=quick,
        pool=pool,
        html=html,
    )
    print_check(report)
    if html is not None:
        say(f"Page: {html}")
    if json is not None:
        write_json(json, report.content())
    if report.errors:
        raise typer.Exit(1)


@app.command()
def split(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Labeled data set to cut, of any format.")],
    output: Annotated[Path, typer.Option("--output", help="Folder for labeled.json and unlabeled.json.")],
    percent: Annotated[float | None, typer.Option("--percent", help="Share of labeled images.")] = None,
    count: Annotated[int | None, typer.Option("--count", help="Number of labeled images.")] = None,
    fold: Annotated[int, typer.Option("--fold", help="Which of the splits of this size.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draw.")] = 0,
    protocol: Annotated[
        Protocol,
        typer.Option(
            "--protocol",
            help="'seeded'; 'stratified': evenly over the classes; 'published': COCO-Standard's table (train2017); "
            "'stac': with replacement.",
        ),
    ] = "seeded",
    ids: Annotated[Path | None, typer.Option("--ids", help="File of the labeled images' ids.")] = None,
    images: Images = None,
    format: DataFormat = None,
    subset: Subset = None,
) -> None:
    """Cut a labeled data set into labeled.json and unlabeled.json."""
    from denseteacher import api

    files = api.split(
        data,
        output=output,
        images=images,
        format=format,
        subset=subset,
        percent=percent,
        count=count,
        fold=fold,
        seed=seed,
        protocol=protocol,
        ids=ids,
    )
    say(f"{files.labeled}\n{files.unlabeled}")
    options = ("--labeled", files.labeled, "--unlabeled", files.unlabeled, "--images", files.images)
    command = shlex.join(map(str, ("denseteacher", "train", "custom", *options)))
    say(f"To train: {command} (and --val PATH, to see how good it gets)")


@app.command()
def stream(
    source: Annotated[
        list[Path], typer.Argument(metavar="SOURCE...", help="Unlabeled images: folders, tar shards, COCO JSON, lists.")
    ],
    output: Annotated[Path, typer.Option("--output", help="Folder for the data set, new or empty.")],
    images: Images = None,
) -> None:
    """Write unlabeled images as a LitData data set, which training can read from a bucket."""
    from denseteacher import api

    written = api.stream(source, output=output, images=images)
    for sentence in written.unreadable[:_SHOWN]:
        remark(f"passed over: {sentence}")
    if len(written.unreadable) > _SHOWN:
        remark(f"passed over: {len(written.unreadable) - _SHOWN:,} more")
    say(f"{output}: {written.images:,} images")
    say(f"To train: denseteacher train ... --unlabeled {shlex.quote(str(output))}, or the URL that you copy it to")
