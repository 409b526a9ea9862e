"""Commands on recipes and experiments."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from denseteacher.cli.app import DataFormat, Images, Overrides, Root, Subset, app
from denseteacher.cli.printing import console, count, remark, say
from denseteacher.errors import InputError, RunError

recipes_app = typer.Typer(no_args_is_help=True, help="The recipes that come with the package.")
app.add_typer(recipes_app, name="recipes")


@app.command()
def reproduce(
    experiment: Annotated[
        str | None, typer.Argument(metavar="EXPERIMENT", help="A table of the paper (see --list), or a YAML file.")
    ] = None,
    root: Root = None,
    profile: Annotated[
        str, typer.Option("--profile", help="paper, digits (the built-in benchmark), masks or bccd (photographs).")
    ] = "paper",
    folds: Annotated[str | None, typer.Option("--folds", help="Splits and seeds, as 1-5 or 1,3.")] = None,
    output: Annotated[Path, typer.Option("--output", help="Folder for the tables and their runs.")] = Path(
        "runs/reproduced"
    ),
    shard: Annotated[str | None, typer.Option("--shard", help="i/n: train the i-th of n parts of the runs.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time.")] = 1,
    rows: Annotated[
        list[str] | None,
        typer.Option("--row", metavar="TEXT", help="Train only the row of this label, or those with it in theirs."),
    ] = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe of every run, train nothing.")] = False,
    list_only: Annotated[bool, typer.Option("--list", help="Print experiments, rows and what they cost.")] = False,
) -> None:
    """Train the rows of one of the paper's tables, and put what they reach beside what was published."""
    from denseteacher import api

    if list_only:
        typer.echo(api.describe_experiments(*([] if experiment is None else [experiment])), nl=False)
        return
    if experiment is None:
        raise InputError(f"reproduce needs one of {', '.join(api.experiments())}; --list describes them")
    chosen: dict[str, Any] = {
        "root": root,
        "profile": profile,
        "folds": _parse_folds(folds),
        "shard": _parse_shard(shard),
        "rows": rows or [],
        "overrides": overrides or [],
    }
    if dry_run:
        for run in api.make_plan(experiment, **chosen).runs:
            typer.echo(f"---\n# {run.label}: {run.name}\n{api.show_recipe(run.recipe)}", nl=False)
        return
    result = api.reproduce(experiment, output=output, jobs=jobs, on_event=remark, **chosen)
    typer.echo(result.files["md"].read_text(encoding="utf-8"))
    say(f"Table: {', '.join(map(str, result.files.values()))}")
    if result.stopped_by is not None:
        raise RunError(f"stopped by {result.stopped_by}, all is saved: the same command goes on")
    if result.failures:
        failed = count(len(result.failures), "run")
        raise RunError(f"{failed} failed and can't be in the table: {'; '.join(result.failures)}")


@app.command()
def analyze(
    figure: Annotated[str, typer.Argument(metavar="FIGURE", help="fig2ab, fig2cd, fig3, fig4 or region.")],
    detectors: Annotated[
        list[Path] | None, typer.Argument(metavar="DETECTOR...", help="Detector file or run folder; of region several.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Labeled images; a run's unlabeled ones, with their hidden labels, if not given."),
    ] = None,
    images: Images = None,
    format: DataFormat = None,
    subset: Subset = None,
    tables: Annotated[Path | None, typer.Option("--tables", help="Folder of reproduce's tables, for fig2ab.")] = None,
    output: Annotated[Path, typer.Option("--output", help="Folder for FIGURE.png and FIGURE.json.")] = Path("figures"),
    limit: Annotated[int, typer.Option("--limit", min=1, help="Most images looked at.")] = 128,
    threshold: Annotated[
        float, typer.Option("--threshold", min=0, max=1, help="Pseudo-boxes score above it (fig3, fig4).")
    ] = 0.5,
    ratio: Annotated[
        float | None, typer.Option("--ratio", help="Share of the learning region; the run's own if not given.")
    ] = None,
) -> None:
    """Draw a figure of the paper from a detector and labeled images, as PNG and JSON."""
    from denseteacher import api

    done = api.analyze(
        figure,
        detectors or [],
        output=output,
        data=data,
        images=images,
        format=format,
        subset=subset,
        tables=tables,
        limit=limit,
        threshold=threshold,
        ratio=ratio,
    )
    say(f"{done.summary}\nFigure: {done.picture}\nNumbers: {done.numbers}")


@recipes_app.command("list")
def list_recipes() -> None:
    """Names of the recipes and what they are for."""
    from denseteacher import api

    table = Table(show_header=False, box=None)
    for name, description in api.recipes().items():
        table.add_row(name, description)
    console().print(table)


@recipes_app.command("show")
def show_recipe(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="Built-in recipe or a YAML file.")],
    overrides: Overrides = None,
) -> None:
    """A recipe with all its values, as YAML."""
    from denseteacher import api

    typer.echo(api.show_recipe(recipe, overrides or []), nl=False)


def _parse_folds(text: str | None) -> tuple[int, ...] | None:
    """``1-3,5`` as numbers."""
    if text is None:
        return None
    folds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InputError(f"--folds takes numbers as 1-5 or 1,3, not {text!r}")
        folds += range(int(first), int(last or first) + 1)
    if not folds:
        raise InputError(f"--folds {text} names no fold: the smaller number comes first")
    return tuple(dict.fromkeys(folds))


def _parse_shard(text: str | None) -> tuple[int, int] | None:
    """``2/4`` as numbers."""
    if text is None:
        return None
    number, _, parts = text.partition("/")
    if not number.isdecimal() or not parts.isdecimal():
        raise InputError(f"--shard takes i/n, the i-th of n parts, as 1/4, not {text!r}")
    return int(number), int(parts)
