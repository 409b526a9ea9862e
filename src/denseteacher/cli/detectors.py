"""Commands that use a trained detector."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from denseteacher.cli.app import DataFormat, Detector, Images, Subset, app
from denseteacher.cli.printing import count, number, print_table, remark, require_readable, say
from denseteacher.data.choices import ExportFormat, Precision
from denseteacher.errors import InputError
from denseteacher.files import write_json

if TYPE_CHECKING:  # it imports NumPy
    from denseteacher.api import Metrics

_CLASSES_SHOWN = 30


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
    print_table(title, ["metric", "value"], [[name, number(value, ".2f")] for name, value in metrics.values.items()])
    shown = list(metrics.per_class.items())[: None if all_classes else _CLASSES_SHOWN]
    heads = ["class", *shown[0][1]]
    print_table("By class", heads, [[name, *(number(value, ".2f") for value in row.values())] for name, row in shown])
    if len(shown) < len(metrics.per_class):
        say(f"{len(shown)} of {len(metrics.per_class)} classes; --classes shows all")


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
    require_readable(outcome.unreadable)


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
