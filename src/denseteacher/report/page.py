"""One self-contained HTML page that shows a run, or several side by side."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, cast

import jinja2
import numpy as np
import torch
from PIL import Image

from denseteacher.data.geometry import pad_batch
from denseteacher.data.images import decode_image
from denseteacher.data.records import Category, ImageRecord
from denseteacher.data.sources import Validation
from denseteacher.inference.draw import draw_boxes, draw_detections
from denseteacher.inference.predictor import Predictor
from denseteacher.methods import DenseTeacher
from denseteacher.report.figures import (
    curve_figure,
    heat_overlay,
    metric_series,
    picture_uri,
    richness_map,
    smooth,
)
from denseteacher.structures import ImageBatch
from denseteacher.training.logging import read_metrics

_ZOOM_BELOW = 300  # px; smaller pictures are shown enlarged
SHOWN = 8  # images of each gallery
_METRICS = ("AP", "AP50", "AP75")


class RunView(NamedTuple):
    """One run to show."""

    label: str
    rows: list[dict[str, Any]]
    """Of ``metrics.jsonl``."""
    metrics: dict[str, float]
    """Of the last evaluation; empty where nothing was evaluated."""
    teacher: Predictor


class Example(NamedTuple):
    """A validation image with its ground truth."""

    record: ImageRecord
    boxes: list[list[float]]
    labels: list[int]


class Panel(NamedTuple):
    """A picture under a caption."""

    caption: str
    uri: str


def write_report(
    path: Path,
    *,
    title: str,
    summary: str,
    runs: Sequence[RunView],
    examples: Sequence[Example] = (),
    unlabeled: Sequence[ImageRecord] = (),
    method: DenseTeacher | None = None,
    recipe: str = "",
    environment: str = "",
) -> None:
    """Writes the page.

    Args:
        path: The HTML file.
        title: Of the page.
        summary: The sentence that a reader with ten seconds reads.
        runs: One or several.
        examples: Validation images shown with every run's detections.
        unlabeled: Images shown with the last run's dense pseudo-label.
        method: Says how the learning region is selected; without it no dense label is shown.
        recipe: YAML.
        environment: JSON text.
    """
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        (resources.files("denseteacher.report") / "page.html.j2").read_text(encoding="utf-8")
    )
    dense = [] if method is None else [dense_label(runs[-1].teacher, record, method) for record in unlabeled]
    page = template.render(
        title=title,
        summary=summary,
        metrics=_METRICS,
        table=[
            (run.label, role, [run.metrics.get(f"{role}/{metric}") for metric in _METRICS])
            for run in runs
            if run.metrics
            for role in ("teacher", "student")
        ],
        curves=_curves(runs),
        examples=[_example(runs, example) for example in examples],
        dense=dense,
        recipe=recipe,
        environment=environment,
    )
    path.write_text(page, encoding="utf-8")


def run_view(folder: Path, label: str) -> RunView:
    """A finished run as a report shows it."""
    rows = read_metrics(folder / "metrics.jsonl")
    evaluations = [row for row in rows if "teacher/AP" in row]
    metrics = {key: value for key, value in evaluations[-1].items() if value is not None} if evaluations else {}
    return RunView(label, rows, metrics, Predictor.load(folder))


def examples(validation: Validation | None, categories: Sequence[Category]) -> list[Example]:
    """A few validation images, spread over the set, with their ground truth."""
    if validation is None:
        return []
    by_id: dict[int, list[dict[str, Any]]] = {}
    for annotation in validation.ground_truth["annotations"]:
        by_id.setdefault(annotation["image_id"], []).append(annotation)
    classes = {category.id: index for index, category in enumerate(categories)}
    chosen = validation.images[:: max(1, len(validation.images) // SHOWN)][:SHOWN]
    shown = []
    for record in chosen:
        annotations = [one for one in by_id.get(record.id, []) if not one.get("iscrowd")]
        boxes = [[x, y, x + width, y + height] for x, y, width, height in (one["bbox"] for one in annotations)]
        shown.append(Example(record, boxes, [classes[one["category_id"]] for one in annotations]))
    return shown


def _curves(runs: Sequence[RunView]) -> list[str]:
    """SVG figures: AP of all runs, then the losses of each."""
    ap = {
        f"{run.label}, {role}": metric_series(run.rows, f"{role}/AP")
        for run in runs
        for role in ("teacher", "student")
        if metric_series(run.rows, f"{role}/AP")[0]
    }
    figures = [curve_figure(ap, title="COCO AP on the validation images", ylabel="AP")] if ap else []
    for run in runs:
        for prefix, name in (("sup", "labeled"), ("unsup", "unlabeled")):
            keys = sorted({key for row in run.rows for key in row if key.startswith(f"{prefix}/")})
            series = {}
            for key in keys:
                steps, values = metric_series(run.rows, key)
                series[key] = (steps, smooth(values))
            if series:
                figures.append(curve_figure(series, title=f"{run.label}: {name} losses", ylabel="weighted loss"))
    return figures


def _example(runs: Sequence[RunView], example: Example) -> list[Panel]:
    image = Image.fromarray(_pixels(example.record))
    names = runs[0].teacher.class_names
    zoom = _zoom(image)
    large = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC)
    boxes = [[value * zoom for value in box] for box in example.boxes]
    panels = [Panel("ground truth", picture_uri(draw_boxes(large, boxes, example.labels, names)))]
    for run in runs:
        found = run.teacher.predict([image])[0]
        found = found._replace(boxes=found.boxes * zoom)
        panels.append(Panel(f"{run.label}, teacher", picture_uri(draw_detections(large, found, names))))
    return panels


@torch.no_grad()
def dense_label(teacher: Predictor, record: ImageRecord, method: DenseTeacher) -> list[Panel]:
    """What a student is told about an unlabeled image: the image, the teacher's scores, the region kept."""
    tensor = teacher.view.apply(decode_image(record.path, declared_size=(record.height, record.width)))
    batch = pad_batch([tensor])
    output = teacher.detector(ImageBatch(batch.pixels.to(teacher.device), batch.sizes.to(teacher.device)))
    labels = method.model_copy(update={"group_size": None}).pseudo_labels(output)
    size = cast(tuple[int, int], tuple(tensor.shape[1:]))
    pixels = tensor.permute(1, 2, 0).contiguous().numpy()
    canvas = cast(tuple[int, int], tuple(batch.pixels.shape[-2:]))
    levels = teacher.detector.shapes(canvas), teacher.detector.strides
    everything = richness_map(output.logits[0].sigmoid().amax(-1), *levels, size)
    kept = richness_map(labels.targets[0].amax(-1), *levels, size)
    found = teacher.detector.detect(output, batch.sizes)[0]
    image = Image.fromarray(pixels)
    zoom = _zoom(image)
    large = image.resize((image.width * zoom, image.height * zoom), Image.Resampling.BICUBIC)
    boxes = found._replace(boxes=found.boxes.cpu() * zoom, scores=found.scores.cpu(), labels=found.labels.cpu())
    return [
        Panel("unlabeled image", picture_uri(large)),
        Panel("highest class score", picture_uri(heat_overlay(pixels, everything), zoom=zoom)),
        Panel("dense pseudo-label", picture_uri(heat_overlay(pixels, kept), zoom=zoom)),
        Panel(
            "what pseudo-boxes would keep",
            picture_uri(draw_detections(large, boxes, teacher.class_names, score_floor=0.5)),
        ),
    ]


def _pixels(record: ImageRecord) -> np.ndarray[Any, np.dtype[np.uint8]]:
    tensor = decode_image(record.path, declared_size=(record.height, record.width))
    return tensor.permute(1, 2, 0).contiguous().numpy()


def _zoom(image: Image.Image) -> int:
    return max(1, _ZOOM_BELOW // max(image.size))


def environment_text(folder: Path) -> str:
    """The environment of a run folder, readable; empty where it has none."""
    file = folder / "environment.json"
    return json.dumps(json.loads(file.read_text()), indent=2) if file.is_file() else ""
