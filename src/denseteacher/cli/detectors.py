"""Commands that use a trained detector."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from denseteacher.cli.app import DataFormat, Detector, Images, Subset, app
from denseteacher.cli.printing import cell, console, count, number, remark, say
from denseteacher.data.choices import ExportFormat, LabelFormat, Precision
from denseteacher.errors import InputError, RunError
from denseteacher.files import write_json

if TYPE_CHECKING:  # it imports NumPy
    from denseteacher.api import Metrics

_CLASSES_SHOWN = 30
_NAMES_SHOWN = 5
_PICKS_SHOWN = 10


@app.command()
def evaluate(
    detector: Detector,
    data: Annotated[Path, typer.Option("--data", help="Labeled data set, of any format.")],
    images: Images = None,
    format: DataFormat = None,
    subset: Subset = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File to write the metrics to.")] = None,
    score_floor: Annotated[
        float | None, typer.Option("--score-floor", help="Class scores at or below are not detections.")
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metric", help="coco (always), voc, crowdhuman; may be repeated. What fits the data if not given."
        ),
    ] = None,
    all_classes: Annotated[bool, typer.Option("--classes", help="Print all classes, however many.")] = False,
) -> None:
    """Measure a detector: COCO AP, VOC AP, CrowdHuman's miss rate."""
    from denseteacher import api

    result = api.evaluate(
        detector, data=data, images=images, format=format, subset=subset, score_floor=score_floor, metrics=metrics
    )
    for note in result.notes:
        remark(note)
    if json_file is not None:
        content = {
            "metrics": result.metrics.values,
            "per_class": result.metrics.per_class,
            "score_floor": result.score_floor,
            "detector": str(detector),
            "data": str(data),
        }
        write_json(json_file, content)
    _print_metrics(f"{detector} on {data}", result.metrics, all_classes=all_classes)
    say(f"score floor {result.score_floor}, {result.metrics.backend}")


def _print_metrics(title: str, metrics: "Metrics", *, all_classes: bool) -> None:
    """A table of the metrics, and one of the classes."""
    _print_table(title, ["metric", "value"], [[name, number(value, ".2f")] for name, value in metrics.values.items()])
    shown = list(metrics.per_class.items())[: None if all_classes else _CLASSES_SHOWN]
    heads = ["class", *shown[0][1]]
    _print_table("By class", heads, [[name, *(number(value, ".2f") for value in row.values())] for name, row in shown])
    if len(shown) < len(metrics.per_class):
        say(f"{len(shown)} of {len(metrics.per_class)} classes; --classes shows all")


def _print_table(title: str, heads: list[str], rows: list[list[str]]) -> None:
    say(title)  # not the table's own title, which would be broken to its width
    table = Table()
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left")
    for row in rows:
        table.add_row(*map(cell, row))
    console().print(table)


@app.command()
def predict(
    detector: Detector,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Images, folders, patterns or text lists.")],
    output: Annotated[Path, typer.Option("--output", help="Folder for predictions.json and pictures.")],
    score: Annotated[
        str,
        typer.Option("--score", metavar="SCORE", help="Scores above are drawn; auto: the best score of each class."),
    ] = "0.5",
    precision: Annotated[
        Precision, typer.Option("--precision", help="Of the network. auto: bf16 on a GPU made for it.")
    ] = "fp32",
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the network; takes about a minute, pays for thousands of images.")
    ] = False,
) -> None:
    """Detect objects in images; write COCO results and pictures with boxes."""
    from denseteacher import api

    drawn = _parse_score(score)
    outcome = api.predict(detector, paths, output=output, score=drawn, precision=precision, compile=compile)
    for message in outcome.unreadable:
        remark(message)
    found = f"{count(outcome.detections, 'detection')} in {count(outcome.images, 'image')}"
    say(f"{found}: {output / 'predictions.json'}")
    if drawn == "auto":
        above = list(outcome.drawn_above.items())
        more = "" if len(above) <= _CLASSES_SHOWN else ", ..."
        say(f"Drawn: {', '.join(f'{name} above {one:.2f}' for name, one in above[:_CLASSES_SHOWN])}{more}")
    if outcome.unreadable:
        raise RunError(f"{count(len(outcome.unreadable), 'image')} could not be read; all others are done")


@app.command()
def label(
    detector: Detector,
    source: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", help="Images: folder or file, tar shards, COCO JSON, VOC folder, text list."),
    ],
    to: Annotated[
        LabelFormat,
        typer.Option(
            "--to",
            help="coco: CVAT (COCO 1.0). yolo: CVAT (YOLO 1.1), LabelImg, label-studio-converter. "
            "voc: CVAT (PASCAL VOC 1.1), LabelImg. label-studio: its import of tasks. yolo and voc copy the images, "
            "the others refer to them.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", help="Folder to write to, new or empty.")],
    images: Images = None,
    score: Annotated[float, typer.Option("--score", min=0, max=1, help="Boxes with lower scores are left out.")] = 0.3,
    top: Annotated[int, typer.Option("--top", min=1, help="Most boxes an image.")] = 100,
    class_scores: Annotated[
        list[str] | None,
        typer.Option("--class-score", metavar="NAME=SCORE", help="Another --score for a class; repeatable."),
    ] = None,
) -> None:
    """Pre-annotate images for a labeling tool. Nothing is written before all images have been looked at."""
    from denseteacher import api

    by_class = dict(map(_parse_class_score, class_scores or []))
    outcome = api.label(
        detector, source, to=to, output=output, images=images, score=score, top=top, class_scores=by_class
    )
    for message in outcome.unreadable:
        remark(message)
    rows = [[one.name, str(one.images), str(one.boxes), number(one.mean_score, ".2f")] for one in outcome.classes]
    title = f"{count(outcome.boxes, 'box', 'boxes')} in {count(outcome.images, 'image')}"
    _print_table(title, ["class", "images", "boxes", "mean score"], rows)
    if outcome.without_boxes:
        more = "" if len(outcome.without_boxes) <= _NAMES_SHOWN else ", ..."
        names = ", ".join(outcome.without_boxes[:_NAMES_SHOWN])
        say(f"{count(len(outcome.without_boxes), 'image')} without boxes: {names}{more}")
    say(f"{output}: {outcome.hint}")
    if outcome.unreadable:
        raise RunError(f"{count(len(outcome.unreadable), 'image')} could not be read; all others are done")


@app.command()
def suggest(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder; or a detector file, with less to choose by.")],
    pool: Annotated[list[str], typer.Argument(metavar="POOL...", help="Images, folders, patterns or text lists.")],
    output: Annotated[Path, typer.Option("--output", help="Folder to write to, new or empty.")] = Path("suggested"),
    to: Annotated[
        LabelFormat | None, typer.Option("--to", help="Write drafts of their labels too, in a format of label.")
    ] = None,
    images: Annotated[int, typer.Option("--count", min=1, help="How many images to choose.")] = 50,
    score: Annotated[float, typer.Option("--score", min=0, max=1, help="Lowest score of a box in a draft.")] = 0.3,
) -> None:
    """Choose the images to label next: what the run is unsure of, rare classes, and no two that are alike."""
    from denseteacher import api

    outcome = api.suggest(run, pool, output=output, count=images, to=to, score=score)
    for message in [*outcome.unreadable, *outcome.notes]:
        remark(message)
    rows = [
        [str(rank), pick.record.path.name, number(pick.score, ".2f"), pick.reasons[0].text if pick.reasons else ""]
        for rank, pick in enumerate(outcome.picks[:_PICKS_SHOWN], 1)
    ]
    left_out = f"; {count(outcome.left_out, 'image')} left out, labeled already" if outcome.left_out else ""
    title = f"{len(outcome.picks):,} of {count(outcome.pool, 'image')}{left_out}"
    _print_table(title, ["", "image", "score", "first of its reasons"], rows)
    say(f"{output / 'suggested.txt'}: all of them; {outcome.page}: why")
    if to is not None:
        say(f"{output / 'drafts'}: {outcome.hint}")
    if outcome.unreadable:
        raise RunError(f"{count(len(outcome.unreadable), 'image')} could not be read; all others are done")


@app.command()
def audit(
    detector: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Run folder, detector file, or hf://OWNER/NAME; best not trained on these labels."
        ),
    ],
    labeled: Annotated[Path, typer.Argument(metavar="LABELED", help="Labeled data set, of any format.")],
    images: Images = None,
    format: DataFormat = None,
    subset: Subset = None,
    output: Annotated[
        Path, typer.Option("--output", help="Folder for audit.html, findings.csv and draft, new or empty.")
    ] = Path("audit"),
    to: Annotated[
        LabelFormat, typer.Option("--to", help="What the draft for a labeling tool is written as; see label.")
    ] = "coco",
    score: Annotated[float, typer.Option("--score", min=0, max=1, help="What has a lower score is left out.")] = 0.3,
    top: Annotated[int, typer.Option("--top", min=1, help="Most cases with a picture on the page.")] = 100,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for all that was found.")] = None,
) -> None:
    """Find labels that are probably wrong or missing; the most doubtful first."""
    from denseteacher import api

    outcome = api.audit(
        detector,
        labeled,
        images=images,
        format=format,
        subset=subset,
        output=output,
        to=to,
        score=score,
        top=top,
    )
    for message in (*outcome.notes, *outcome.unreadable):
        remark(message)
    if json_file is not None:
        write_json(json_file, outcome.content())
    title = f"{count(len(outcome.found), 'case')} in {count(outcome.images, 'image')} with {outcome.labels} labels"
    _print_table(title, ["kind", "cases"], [[kind, str(cases)] for kind, cases in outcome.kinds.items()])
    for one in outcome.found[:_NAMES_SHOWN]:
        say(one.sentence())
    say(f"{outcome.page}, {outcome.table}; {output / 'draft'}: {outcome.hint}")
    if outcome.unreadable:
        raise RunError(f"{count(len(outcome.unreadable), 'image')} could not be read; all others are done")


@app.command()
def export(
    detector: Detector,
    output: Annotated[Path, typer.Option("--output", help="File to write.")],
    format: Annotated[ExportFormat, typer.Option("--format", help="Kind of the file.")] = "onnx",
    nms: Annotated[
        bool, typer.Option("--nms/--no-nms", help="End in detections, or in boxes and scores at every location.")
    ] = True,
    opset: Annotated[
        int | None,
        typer.Option("--opset", min=18, max=23, help="Version of ONNX's operators; torch's choice if not given."),
    ] = None,
) -> None:
    """Write a detector as one file that runs without torch: any number of images, of any size."""
    from denseteacher import api

    api.export(detector, output=output, format=format, nms=nms, opset=opset)
    say(f"{output}: {output.stat().st_size / 2**20:.1f} MiB of {format.upper()}")


@app.command()
def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")],
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the hub; made if needed.")],
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody read a new repository; else it is private.")
    ] = False,
    revision: Annotated[
        str | None, typer.Option("--revision", metavar="BRANCH", help="Branch; made if needed.")
    ] = None,
    license: Annotated[
        str | None, typer.Option("--license", metavar="SPDX", help="License of the weights, as apache-2.0.")
    ] = None,
) -> None:
    """Put a run's detector on the Hugging Face Hub, with a page on it; paths of your machine stay here."""
    from denseteacher import api

    pushed = api.push(run, repo, public=public, revision=revision, license=license)
    say(f"{', '.join(pushed.files)}: {pushed.url}")
    say(f'To use it: denseteacher predict {pushed.place} ..., or denseteacher.load("{pushed.place}")')


def _parse_score(text: str) -> float | Literal["auto"]:
    """``0.5`` as a number; ``auto``."""
    if text == "auto":
        return "auto"
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise InputError(f"--score takes a number from 0 to 1, or auto, not {text!r}")
    return value


def _parse_class_score(text: str) -> tuple[str, float]:
    """``person=0.5`` as name and number."""
    name, _, score = text.rpartition("=")
    try:
        value = float(score)
    except ValueError:
        value = math.nan
    if not name or not 0 <= value <= 1:
        raise InputError(f"--class-score takes NAME=SCORE with a score from 0 to 1, as person=0.5, not {text!r}")
    return name, value
