"""The command line: parses, calls ``api``, prints. Exit codes: 0 done, 2 wrong usage or input, 1 failure."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from denseteacher.errors import InputError, RunError

app = typer.Typer(
    name="denseteacher",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Semi-supervised object detection: a few labeled images and many unlabeled ones in, a detector out.",
)
recipes_app = typer.Typer(no_args_is_help=True, help="The recipes that come with the package.")
app.add_typer(recipes_app, name="recipes")

Output = Annotated[Path | None, typer.Option("--output", help="Folder to write to.")]
Images = Annotated[Path | None, typer.Option("--images", help="Folder of the images; found if not given.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A recipe key over its value, e.g. optim.lr=0.02."),
]
Detector = Annotated[Path, typer.Argument(metavar="DETECTOR", help="Detector file or run folder.")]


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", help="Folder for the two runs and the report.")] = Path("demo"),
    steps: Annotated[int, typer.Option("--steps", min=40, help="Training steps of each run.")] = 2400,
    overrides: Overrides = None,
) -> None:
    """Train Supervised and Dense Teacher on the built-in Digits data and compare them (a few minutes)."""
    from denseteacher.demo import run_demo

    outcome = run_demo(output, steps=steps, overrides=overrides or [])
    _print_comparison(outcome.rows)
    _console().print(f"Report: {outcome.report}", highlight=False, soft_wrap=True)


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
        _print_comparison([(result.folder.name, result.metrics)])
    _console().print(f"Detector: {result.folder / 'detector.safetensors'}", highlight=False, soft_wrap=True)
    _console().print(f"Report: {result.folder / 'report.html'}", highlight=False, soft_wrap=True)


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
    console = _console()
    console.print(table)
    console.print(f"score floor {result.score_floor}, {result.metrics.backend}", highlight=False)
    if json_file is not None:
        content = {
            "metrics": result.metrics.values,
            "per_class": result.metrics.per_class,
            "score_floor": result.score_floor,
            "detector": str(detector),
            "data": str(data),
        }
        _write_text(json_file, json.dumps(_finite(content), indent=1))


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
    _console().print(
        f"{_count(outcome.detections, 'detection')} in {_count(outcome.images, 'image')}: "
        f"{output / 'predictions.json'}",
        highlight=False,
        soft_wrap=True,
    )
    if outcome.unreadable:
        raise RunError(f"{_count(len(outcome.unreadable), 'image')} could not be read; all others are done")


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
    _console().print(f"{labeled}\n{unlabeled}", highlight=False, soft_wrap=True)


@app.command()
def reproduce(
    experiment: Annotated[
        str | None, typer.Argument(metavar="EXPERIMENT", help="A table of the paper (see --list), or a YAML file.")
    ] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Root of the data set in its published layout.")] = None,
    profile: Annotated[
        str, typer.Option("--profile", help="'paper', or 'digits' for the built-in benchmark.")
    ] = "paper",
    folds: Annotated[str | None, typer.Option("--folds", help="Splits and seeds, as 1-5 or 1,3.")] = None,
    output: Annotated[Path, typer.Option("--output", help="Folder for the tables and their runs.")] = Path(
        "runs/reproduced"
    ),
    shard: Annotated[str | None, typer.Option("--shard", help="i/n: train the i-th of n parts of the runs.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time.")] = 1,
    rows: Annotated[
        list[str] | None, typer.Option("--row", metavar="TEXT", help="Train only rows whose label contains this.")
    ] = None,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the recipe of every run, train nothing.")] = False,
    list_only: Annotated[bool, typer.Option("--list", help="Print experiments, rows and what they cost.")] = False,
) -> None:
    """Train the rows of one of the paper's tables, and put what they reach beside what was published."""
    from denseteacher import reproduce as reproducing
    from denseteacher.experiment import experiment_names
    from denseteacher.experiment_costs import overview
    from denseteacher.recipe import dump_recipe

    if list_only:
        typer.echo(overview(experiment_names() if experiment is None else [experiment]), nl=False)
        return
    if experiment is None:
        raise InputError(f"reproduce needs one of {', '.join(experiment_names())}; --list describes them")
    chosen: dict[str, Any] = {
        "data": data,
        "profile": profile,
        "folds": _parse_folds(folds),
        "shard": _parse_shard(shard),
        "rows": rows or [],
        "overrides": overrides or [],
    }
    if dry_run:
        for run in reproducing.make_plan(experiment, **chosen).runs:
            typer.echo(f"---\n# {run.label}: {run.name}\n{dump_recipe(run.recipe)}", nl=False)
        return
    result = reproducing.reproduce(experiment, output=output, jobs=jobs, report=_say, **chosen)
    typer.echo(result.files["md"].read_text(encoding="utf-8"))
    _console().print(f"Table: {', '.join(map(str, result.files.values()))}", highlight=False, soft_wrap=True)
    if result.stopped_by is not None:
        raise RunError(f"stopped by {result.stopped_by}, all is saved: the same command goes on")
    if result.failures:
        failed = _count(len(result.failures), "run")
        raise RunError(f"{failed} failed and can't be in the table: {'; '.join(result.failures)}")


@recipes_app.command("list")
def list_recipes() -> None:
    """Names of the recipes and what they are for."""
    from denseteacher.recipe import builtin_recipes

    table = Table(show_header=False, box=None)
    for name, description in builtin_recipes().items():
        table.add_row(name, description)
    _console().print(table)


@recipes_app.command("show")
def show_recipe(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE")],
    overrides: Overrides = None,
) -> None:
    """A recipe with all its values, as YAML."""
    from denseteacher.recipe import dump_recipe, load_recipe

    typer.echo(dump_recipe(load_recipe(recipe, overrides or [])), nl=False)


def main() -> None:
    """The console script. Wrong input is one sentence on stderr, never a traceback."""
    try:
        app()
    except InputError as error:
        _fail(error, code=2)
    except RunError as error:
        _fail(error, code=1)
    except KeyboardInterrupt:
        print("denseteacher: interrupted", file=sys.stderr)
        sys.exit(1)


def _fail(error: Exception, *, code: int) -> None:
    print(f"denseteacher: {error}", file=sys.stderr)
    sys.exit(code)


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


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _console() -> Console:
    return Console()


def _print_comparison(rows: list[tuple[str, dict[str, float]]]) -> None:
    """One line a run and role, with the COCO metrics of the last evaluation."""
    table = Table(title="COCO AP at the last step")
    for heading in ("run", "model"):
        table.add_column(heading)
    for metric in ("AP", "AP50", "AP75"):
        table.add_column(metric, justify="right")
    for name, metrics in rows:
        for role in ("teacher", "student"):
            values = (metrics.get(f"{role}/{metric}") for metric in ("AP", "AP50", "AP75"))
            table.add_row(name, role, *("-" if value is None else f"{value:.1f}" for value in values))
    _console().print(table)


def _finite(value: Any) -> Any:
    """JSON has no NaN: what a data set has no objects for becomes null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and value != value else value


def _write_text(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    except OSError as error:
        raise RunError(f"{path} can't be written: {error.strerror}") from error


if __name__ == "__main__":
    main()
