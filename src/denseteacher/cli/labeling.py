"""Commands that help to label: drafts, what to label next, labels that may be wrong."""

import math
from pathlib import Path
from typing import Annotated

import typer

from denseteacher.cli.app import DataFormat, Detector, Images, Subset, app
from denseteacher.cli.printing import count, number, print_table, remark, require_readable, say
from denseteacher.data.choices import LabelFormat
from denseteacher.errors import InputError
from denseteacher.files import write_json

_NAMES_SHOWN = 5
_PICKS_SHOWN = 10


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
    print_table(title, ["class", "images", "boxes", "mean score"], rows)
    if outcome.without_boxes:
        more = "" if len(outcome.without_boxes) <= _NAMES_SHOWN else ", ..."
        names = ", ".join(outcome.without_boxes[:_NAMES_SHOWN])
        say(f"{count(len(outcome.without_boxes), 'image')} without boxes: {names}{more}")
    say(f"{output}: {outcome.hint}")
    require_readable(outcome.unreadable)


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
    print_table(title, ["", "image", "score", "first of its reasons"], rows)
    say(f"{output / 'suggested.txt'}: all of them; {outcome.page}: why")
    if to is not None:
        say(f"{output / 'drafts'}: {outcome.hint}")
    require_readable(outcome.unreadable)


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
    print_table(title, ["kind", "cases"], [[kind, str(cases)] for kind, cases in outcome.kinds.items()])
    for one in outcome.found[:_NAMES_SHOWN]:
        say(one.sentence())
    say(f"{outcome.page}, {outcome.table}; {output / 'draft'}: {outcome.hint}")
    require_readable(outcome.unreadable)


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
