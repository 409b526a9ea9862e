"""The pictures of ``docs/concepts``, from a finished Dense Teacher run on Digits.

    python benchmarks/concept_pictures.py --run DEMO_FOLDER/dense_teacher [--image 32]

Each is a PNG in ``docs/images/concepts``. Colors are Okabe and Ito's and viridis, told apart with any color vision.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torchvision.ops import box_iou

from denseteacher.data.augment.config import AugmentConfig
from denseteacher.data.augment.weak import pad_batch, pad_targets
from denseteacher.data.images import decode_image
from denseteacher.data.loading.strong_views import with_strong_views
from denseteacher.data.open import TrainingData, open_data
from denseteacher.data.records import LabeledImages
from denseteacher.inference.predictor import Predictor
from denseteacher.methods import DenseTeacher
from denseteacher.ops.losses import quality_focal_loss
from denseteacher.recipes.schema import Recipe, load_recipe
from denseteacher.runs.build import build_steps
from denseteacher.structures import DenseOutput, Detections, ImageBatch
from denseteacher.training.metrics_log import metric_series, read_metrics, smooth
from denseteacher.visualization.figure import BLUE, GREEN, PINK
from denseteacher.visualization.figure import VERMILLION as ORANGE
from denseteacher.visualization.heatmap import score_map

FOLDER = Path(__file__).parent.parent / "docs" / "images" / "concepts"
THRESHOLDS = (0.3, 0.5, 0.7)


class Run(NamedTuple):
    """A finished run and the image that its pictures show."""

    recipe: Recipe
    method: DenseTeacher
    data: TrainingData
    hidden: LabeledImages
    """The unlabeled images with their labels."""
    teacher: Predictor
    student: Predictor
    rows: list[dict[str, Any]]
    image: int


def main() -> None:
    """Writes all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="finished Dense Teacher run on Digits")
    parser.add_argument("--image", type=int, default=32, help="which unlabeled image to show")
    arguments = parser.parse_args()
    run = open_run(arguments.run, arguments.image)
    FOLDER.mkdir(parents=True, exist_ok=True)
    pictures: list[Callable[[Run], Figure]] = [overview, views, locations, pseudo_labels, losses, teacher, evaluation]
    with torch.no_grad():
        for draw in pictures:
            figure = draw(run)
            figure.savefig(FOLDER / f"{draw.__name__}.png", dpi=90, pil_kwargs={"optimize": True})
            plt.close(figure)


def open_run(folder: Path, image: int) -> Run:
    """Reads what the pictures need."""
    recipe = load_recipe(folder / "recipe.yaml")
    assert isinstance(recipe.method, DenseTeacher)
    data = open_data(recipe.data.model_copy(update={"hidden_labels": True}))
    assert data.hidden is not None
    predictors = (Predictor.load(folder / f"last_{role}.safetensors") for role in ("teacher", "student"))
    return Run(recipe, recipe.method, data, data.hidden, *predictors, read_metrics(folder / "metrics.jsonl"), image)


def overview(run: Run) -> Figure:
    """The whole data flow on one unlabeled image."""
    weak, strong = view_pair(run, step=run.recipe.schedule.max_steps, image=run.image)
    output = run.teacher.detector(weak)
    labels = run.method.pseudo_labels(run.teacher.detector, output)
    answer = run.student.detector(strong)
    figure, axes = plt.subplots(2, 3, figsize=(8.6, 5.7), layout="constrained", gridspec_kw={"wspace": 0.2})
    show(axes[0, 0], weak, "weak view")
    show_heat(axes[0, 1], weak, run, highest(output), "teacher: score everywhere")
    show_heat(axes[0, 2], weak, run, labels.targets[0].amax(-1), "dense pseudo-label")
    show(axes[1, 0], strong, "strong view")
    show_heat(axes[1, 1], strong, run, highest(answer), "student: score everywhere")
    axes[1, 2].axis("off")
    axes[1, 2].text(0.5, 0.62, "loss", ha="center", fontsize=15, color=ORANGE, weight="bold")
    axes[1, 2].text(0.5, 0.38, "gradient: student alone\nteacher: average of students", ha="center", fontsize=10)
    for start, end in (((0, 0), (0, 1)), ((0, 1), (0, 2)), ((1, 0), (1, 1)), ((1, 1), (1, 2))):
        arrow(axes[start], axes[end], (1.01, 0.5), (-0.01, 0.5))
    arrow(axes[0, 0], axes[1, 0], (0.9, -0.01), (0.9, 1.02))
    arrow(axes[0, 2], axes[1, 2], (0.5, -0.01), (0.5, 0.78))
    return figure


def views(run: Run) -> Figure:
    """An image as the file has it, and its weak and strong views in two steps."""
    figure, axes = plt.subplots(2, 3, figsize=(6.6, 4.7), layout="constrained")
    record = run.data.unlabeled[run.image]
    show(axes[0, 0], pad_batch([decode_image(record.path)]), "the file")
    axes[1, 0].axis("off")
    for column, step in enumerate((2001, 2002), start=1):
        weak, strong = view_pair(run, step=step, image=run.image)
        show(axes[0, column], weak, f"weak view, step {step}")
        show(axes[1, column], strong, "strong view")
    return figure


def locations(run: Run) -> Figure:
    """The locations of every level, and which of them the labels of one image make foreground."""
    detector = run.teacher.detector
    record, boxes = run.hidden.images[run.image], run.hidden.boxes[run.image]
    batch = pad_batch([decode_image(record.path)])
    anchors = detector.anchors(tuple(batch.pixels.shape[-2:]), torch.device("cpu"))
    found = detector.foreground(pad_targets([boxes], [run.hidden.labels[run.image]]), anchors)[0]
    centers, sides = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2] - anchors[:, 0]
    figure, axes = plt.subplots(1, len(detector.strides), figsize=(9.2, 3.5), layout="constrained")
    for level, (axis, stride) in enumerate(zip(axes, detector.strides, strict=True), start=3):
        show(axis, batch, f"P{level}, stride {stride}")
        for mask, style in ((~found, {"color": "white", "s": 5}), (found, {"color": ORANGE, "s": 34, "marker": "s"})):
            x, y = centers[mask & (sides == stride)].T
            axis.scatter(x, y, edgecolors="black", linewidths=0.5, **style)
        for box in boxes:
            outline(axis, box, "white")
    figure.supxlabel("squares: foreground, trained on a box; dots: background", fontsize=10)
    return figure


def pseudo_labels(run: Run) -> Figure:
    """What dense pseudo-labels keep of one image, and what boxes above a threshold do."""
    weak, _ = view_pair(run, step=2002, image=run.image)
    output = run.teacher.detector(weak)
    kept = run.method.pseudo_labels(run.teacher.detector, output).targets[0].amax(-1)
    found = run.teacher.detector.detect(output, weak.sizes)[0]
    figure, axes = plt.subplots(2, 3, figsize=(7.8, 5.8), layout="constrained")
    show(axes[0, 0], weak, "weak view")
    show_heat(axes[0, 1], weak, run, highest(output), "S, the highest score (eq. 3)")
    drawn = show_heat(axes[0, 2], weak, run, kept, f"y: the richest {run.method.ratio:.0%}, else 0 (eq. 4)")
    figure.colorbar(drawn, ax=axes[0].tolist(), shrink=0.8, pad=0.01)
    for axis, threshold in zip(axes[1], THRESHOLDS, strict=True):
        show(axis, weak, f"boxes above {threshold}")
        for box, score, label in detected(found, above=threshold):
            outline(axis, box, ORANGE, name=f"{run.teacher.class_names[label]} {score:.2f}")
    return figure


def losses(run: Run) -> Figure:
    """The class loss against its target, and the losses of the run."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.4), layout="constrained")
    student = torch.linspace(0.005, 0.995, 200)
    for target, color, style in ((0.0, BLUE, "-"), (0.3, ORANGE, "--"), (0.7, GREEN, "-."), (1.0, PINK, ":")):
        loss = quality_focal_loss(student.logit(), torch.full_like(student, target))
        left.plot(student, loss, color=color, linestyle=style, label=f"teacher says {target:g}")
    left.set(xlabel="student's score p", ylabel="quality focal loss (eq. 2)", ylim=(0, 1.5))
    styles = {"sup/cls": (BLUE, "-"), "unsup/cls": (ORANGE, "--"), "unsup/box": (GREEN, "-.")}
    for key, (color, style) in styles.items():
        steps, values = metric_series(run.rows, key)
        right.plot(steps, smooth(values), color=color, linestyle=style, label=key)
    burn_in = int(run.method.burn_in)
    end = burn_in + (run.method.ramp if run.method.ramp is not None else burn_in)
    right.axvspan(burn_in, end, color="0.9", zorder=0)
    right.annotate("ramp", ((burn_in + end) / 2, 0.93), xycoords=("data", "axes fraction"), ha="center", fontsize=9)
    right.set(xlabel="step", ylabel="weighted loss")
    return finished(figure, left, right)


def teacher(run: Run) -> Figure:
    """AP of teacher and student, and how much of each past step a teacher is made of."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.4), layout="constrained")
    for role, color, style in (("teacher", BLUE, "-"), ("student", ORANGE, "--")):
        steps, values = metric_series(run.rows, f"{role}/AP")
        left.plot(steps, values, color=color, linestyle=style, marker="o", markersize=4, label=role)
    left.set(xlabel="step", ylabel="AP on the validation images", ylim=(0, None))
    end = int(run.recipe.schedule.max_steps)
    steps = np.arange(end + 1)
    for decay, color, style in ((float(run.recipe.ema.decay), BLUE, "-"), (0.9996, ORANGE, "--")):
        newest = decay ** (end - steps)  # share of the final teacher that is no older than each step
        right.plot(steps, newest, color=color, linestyle=style, label=f"decay {decay:g}")
    right.set(xlabel="step", ylabel="share of the last teacher\nfrom before this step", ylim=(0, 1))
    return finished(figure, left, right)


def evaluation(run: Run) -> Figure:
    """Detections of the teacher on three validation images beside the ground truth."""
    assert run.data.validation is not None
    names, classes = run.teacher.class_names, [category.id for category in run.data.labeled.categories]
    figure, axes = plt.subplots(1, 3, figsize=(9.2, 3.7), layout="constrained")
    for axis, record in zip(axes, run.data.validation.images[3::80], strict=False):
        here = [one for one in run.data.validation.ground_truth["annotations"] if one["image_id"] == record.id]
        missed = {index: classes.index(one["category_id"]) for index, one in enumerate(here)}
        truth = torch.tensor([[x, y, x + width, y + height] for x, y, width, height in (one["bbox"] for one in here)])
        show(axis, pad_batch([decode_image(record.path)]), "")
        right = wrong = 0
        for box, score, label in detected(run.teacher.predict([record.path])[0], above=0.5):
            overlap = box_iou(torch.tensor([box]), truth)[0].tolist()
            hit = next((index for index in missed if missed[index] == label and overlap[index] >= 0.5), None)
            right, wrong = right + (hit is not None), wrong + (hit is None)
            missed.pop(hit, None)
            outline(axis, box, BLUE if hit is not None else ORANGE, name=f"{names[label]} {score:.2f}")
        for index in missed:
            outline(axis, truth[index].tolist(), "white", style=":", name=names[missed[index]])
        axis.set_title(f"{right} right, {wrong} wrong, {len(missed)} missed", fontsize=10)
    figure.supxlabel("blue: right (class, and IoU of at least 0.5); orange: wrong; white, dotted: missed", fontsize=10)
    return figure


def view_pair(run: Run, *, step: int, image: int) -> tuple[ImageBatch, ImageBatch]:
    """The weak and the strong view that training would make of one unlabeled image at a step."""
    recipe, cpu = run.recipe, torch.device("cpu")
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"unlabeled_batch": 1})})
    dataset = build_steps(recipe, TrainingData(run.data.labeled, [run.data.unlabeled[image]])).with_unlabeled()
    batch = with_strong_views(
        dataset.load(step), AugmentConfig(strong=recipe.augment.strong), seed=recipe.seed, device=cpu
    )
    assert batch.unlabeled is not None
    return batch.unlabeled.weak, batch.unlabeled.strong


def highest(output: DenseOutput) -> torch.Tensor:
    """(N,) feature richness of the first image (eq. 3)."""
    return output.logits[0].sigmoid().amax(-1)


def show(axis: Axes, batch: ImageBatch, title: str) -> None:
    """The first image of a batch without its padding."""
    height, width = batch.sizes[0].tolist()
    axis.imshow(batch.pixels[0, :, :height, :width].permute(1, 2, 0), interpolation="nearest")
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()


def show_heat(axis: Axes, batch: ImageBatch, run: Run, values: torch.Tensor, title: str) -> Any:
    """A value in [0, 1] of every location over a gray image; nothing is drawn where it is 0."""
    height, width = batch.sizes[0].tolist()
    show(axis, batch, title)
    axis.imshow(batch.pixels[0, :, :height, :width].float().mean(0) / 2, cmap="gray", vmin=0, vmax=255)
    detector = run.teacher.detector
    canvas = (batch.pixels.shape[2], batch.pixels.shape[3])
    anchors = detector.anchors(canvas, torch.device("cpu"))
    heat = score_map(values, anchors, detector.shapes(canvas), detector.strides, (height, width))
    return axis.imshow(np.ma.masked_equal(heat, 0), cmap="viridis", norm=PowerNorm(0.5, 0, 1), alpha=0.8)


def detected(found: Detections, *, above: float) -> list[tuple[list[float], float, int]]:
    """Box, score and class of detections above a score, the best first."""
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True)
    return [row for row in rows if row[1] > above]


def outline(axis: Axes, box: Any, color: str, *, style: str = "-", name: str = "") -> None:
    """A box on a dark rim, so that it is seen on any ground, and its name where no other stands."""
    x1, y1, x2, y2 = box
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec="black", lw=3.4))
    axis.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=color, lw=1.7, ls=style))
    if name and all(abs(text.get_position()[0] - x1) + abs(text.get_position()[1] - y1) > 16 for text in axis.texts):
        ground = {"facecolor": "black" if color == "white" else color, "pad": 1.5, "linewidth": 0}
        axis.text(x1, max(y1, 6), name, fontsize=9, color="white", bbox=ground)


def arrow(start: Axes, end: Axes, leaves: tuple[float, float], arrives: tuple[float, float]) -> None:
    """From one panel to another, in shares of their sides."""
    start.annotate(
        "",
        xy=arrives,
        xycoords=end.transAxes,
        xytext=leaves,
        textcoords=start.transAxes,
        arrowprops={"arrowstyle": "-|>", "lw": 1.8, "color": "0.2"},
        annotation_clip=False,
    )


def finished(figure: Figure, *axes: Axes) -> Figure:
    """Curves with a legend and without a frame."""
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, fontsize="small")
    return figure


if __name__ == "__main__":
    main()
