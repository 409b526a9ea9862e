"""What a program calls: one function a command, with the command's arguments. The command line calls nothing else."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.analysis.analyze import analyze
from denseteacher.check import CheckReport, check_data, write_check_page
from denseteacher.check.machine import MachineReport, inspect_machine
from denseteacher.data.choices import ExportFormat, Format, LabelFormat, Protocol
from denseteacher.data.config import UnlabeledSource
from denseteacher.data.formats import (
    AnnotationSource,
    Notes,
    SplitFiles,
    read_annotations,
    with_categories,
    write_split,
)
from denseteacher.data.formats.litdata import WrittenStream, is_url
from denseteacher.data.open import Validation, draw_split, stream_sources
from denseteacher.errors import InputError
from denseteacher.evaluation.evaluator import Evaluator
from denseteacher.evaluation.metrics import Metrics, fitting_metrics
from denseteacher.experiments.costs import describe_experiments
from denseteacher.experiments.reproduce import make_plan, reproduce
from denseteacher.experiments.schema import experiment_names
from denseteacher.inference.export import export_onnx
from denseteacher.inference.label import label_images as label
from denseteacher.inference.predict import predict_files as predict
from denseteacher.inference.predictor import Predictor
from denseteacher.methods import Method
from denseteacher.recipes.schema import Recipe, builtin_recipes, dump_recipe, load_recipe
from denseteacher.runs.audit import AuditOutcome, audit_labels
from denseteacher.runs.benchmark import Size
from denseteacher.runs.benchmark import benchmark as measure_steps
from denseteacher.runs.compare import Comparison
from denseteacher.runs.compare import compare_runs as compare
from denseteacher.runs.demo import DemoOutcome, run_demo
from denseteacher.runs.folder import RunFolder
from denseteacher.runs.monitor import Monitor, monitor_run
from denseteacher.runs.push import Pushed, push_run
from denseteacher.runs.suggest import Suggestions, suggest_images
from denseteacher.runs.train import TrainResult, train_run

__all__ = [
    "AuditOutcome",
    "Comparison",
    "EvaluationResult",
    "MachineReport",
    "Metrics",
    "Monitor",
    "Pushed",
    "Suggestions",
    "TrainResult",
    "analyze",
    "audit",
    "benchmark",
    "check",
    "compare",
    "demo",
    "describe_experiments",
    "doctor",
    "evaluate",
    "experiments",
    "export",
    "label",
    "load",
    "make_plan",
    "monitor",
    "predict",
    "push",
    "recipes",
    "reproduce",
    "show_recipe",
    "split",
    "stream",
    "suggest",
    "train",
]
_ABOUT = {
    "labeled": ("images", "subset", "format"),
    "unlabeled": ("unlabeled_images",),
    "val": ("val_images", "val_subset"),
}
"""Keys that say how to read another one's path."""


def train(
    recipe: str | Path = "custom",
    *,
    labeled: str | Path | None = None,
    images: str | Path | None = None,
    unlabeled: str | Path | Sequence[str | Path] | None = None,
    val: str | Path | None = None,
    root: str | Path | None = None,
    format: Format | None = None,
    subset: str | None = None,
    val_subset: str | None = None,
    output: str | Path | None = None,
    method: Method | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    resume: bool = False,
    burn_in_from: str | Path | None = None,
    baseline: bool = False,
    monitor: bool = False,
    devices: int | None = None,
    nodes: int | None = None,
    log: Sequence[str] = (),
) -> TrainResult:
    """Trains a detector.

    Args:
        recipe: Name of a built-in recipe, or path of a YAML file.
        labeled: Annotations of the labeled images, of any format (see ``data.formats.read_annotations``).
        images: Their folder; found near the annotations if not given.
        unlabeled: Folder, tar shards, COCO image-info JSON, VOC image set or text list of unlabeled images, or
            several of them; or a LitData data set, its folder or URL.
        val: Annotations to evaluate on.
        root: Folder of the recipe's data set in its published layout.
        format: The format of ``labeled`` and ``val``; detected if not given.
        subset: The part of ``labeled``, where it has several.
        val_subset: The part of ``val``, where it has several.
        output: The run folder; a new one below ``runs`` if not given.
        method: A method of your own in place of the recipe's (``docs/add-a-method.md``).
        overrides: ``{"optim.lr": 0.02}`` or ``["optim.lr=0.02"]``.
        resume: Continue the run in ``output``, or the newest run of this recipe. What torchrun or SLURM restarts
            goes on unasked.
        burn_in_from: Another run of the same recipe and seed but for the method, whose burn-in to start from.
        baseline: Also train without unlabeled images, from the same burn-in and for as many steps, into ``baseline`` of
            the run folder, and say what they were worth: ``TrainResult.gain`` and the top of the report.
        monitor: Serve a live view of the run to this machine's browser while it lasts (``monitor``).
        devices: Processes, one a device, on each node.
        nodes: Machines.
        log: Trackers that get the run's numbers, previews and report: ``wandb``, ``mlflow``.

    Raises:
        InputError: If something given is wrong.
        RunError: If the run can't go on.
    """
    given = _given_paths(labeled=labeled, unlabeled=unlabeled, val=val, images=images, root=root)
    options = _given_data(format=format, subset=subset, val_subset=val_subset)
    options |= _given_runtime(devices=devices, nodes=nodes, log=list(log))
    return train_run(
        recipe,
        [*_as_texts(given), *_as_texts(overrides), *_as_texts(options)],
        output=output,
        method=method,
        resume=resume,
        burn_in_from=None if burn_in_from is None else Path(burn_in_from),
        baseline=baseline,
        monitor=monitor,
    )


def monitor(run: str | Path, *, host: str = "127.0.0.1", port: int = 0) -> Monitor:
    """Serves a live view of a run that goes on, is finished or has not begun, until it is closed.

    One page that refreshes itself: curves, what the run says of its health, the latest previews. It can only be read.

    Args:
        run: Folder of the run.
        host: Where to listen; other machines reach the page only if their network reaches this address.
        port: Port; 0 for any that is free.

    Raises:
        InputError: If ``run`` is a file, or there can't be listened.
    """
    return monitor_run(RunFolder(Path(run)), host=host, port=port)


class EvaluationResult(NamedTuple):
    """What an evaluation found."""

    metrics: Metrics
    results: list[dict[str, Any]]
    """COCO result entries that the metrics are computed from."""
    score_floor: float
    """Class scores at or below were no detections; numbers with different floors do not compare."""
    notes: tuple[str, ...] = ()
    """Sentences on what stands in the data otherwise than it is read."""


def load(path: str | Path) -> Predictor:
    """A trained detector: from its file, its run folder, or the hub (``hf://OWNER/NAME``, ``hf://OWNER/NAME@REVISION``).

    Raises:
        InputError: If there is none.
        RunError: If the hub can't be reached, and its cache has none.
    """
    return Predictor.load(Path(path))


def evaluate(
    detector: str | Path,
    *,
    data: str | Path,
    images: str | Path | None = None,
    format: Format | None = None,
    subset: str | None = None,
    score_floor: float | None = None,
    workers: int = 0,
    metrics: Sequence[str] | None = None,
) -> EvaluationResult:
    """Metrics of a detector on a labeled data set.

    Args:
        detector: Detector file or run folder.
        data: Annotations of any format (see ``data.formats.read_annotations``).
        images: Folder of its images; found near ``data`` if not given.
        format: The format of ``data``; detected if not given.
        subset: The part of ``data``, where it has several; ``test`` or ``val`` if not given.
        score_floor: Class scores at or below are not detections; the detector's own if not given.
        workers: Loader processes.
        metrics: What to measure besides COCO's AP: ``voc``, ``crowdhuman``; what fits the data if not given.
    """
    predictor, notes = Predictor.load(Path(detector), score_floor=score_floor), Notes()
    source = AnnotationSource.of(data, images, format, subset)
    annotations = read_annotations(source, role="validation", on_fault=notes)
    annotations = with_categories(annotations, predictor.categories)
    evaluator = Evaluator(
        Validation(annotations.records, annotations.content, Path(data)),
        predictor.categories,
        view=predictor.view,
        batch_size=8,
        workers=workers,
        metrics=fitting_metrics(annotations.content, annotations.format) if metrics is None else metrics,
    )
    floor = predictor.card.detector.score_floor
    return EvaluationResult(*evaluator(predictor.detector, predictor.device), floor, notes.sentences)


def audit(
    detector: str | Path,
    labeled: str | Path,
    *,
    images: str | Path | None = None,
    format: Format | None = None,
    subset: str | None = None,
    output: str | Path = "audit",
    to: LabelFormat = "coco",
    score: float = 0.3,
    top: int = 100,
) -> AuditOutcome:
    """Finds labels that are probably wrong or missing, by a detector's confident detections (``runs.audit``).

    Args:
        detector: Detector file or run folder; best of one that was not trained on these labels.
        labeled: Annotations of any format (see ``data.formats.read_annotations``).
        images: Folder of its images; found near ``labeled`` if not given.
        format: The format of ``labeled``; detected if not given.
        subset: The part of ``labeled``, where it has several.
        output: Folder for the page, the table and the draft; new or empty.
        to: What the draft is written as: the images in doubt, with their labels and the detections that none covers.
        score: What has a lower score, from 0 to 1, is left out.
        top: Most cases with a picture on the page.

    Raises:
        InputError: If something given is wrong.
        RunError: If the disk refuses.
    """
    source = AnnotationSource.of(labeled, images, format, subset)
    return audit_labels(detector, source, output, to=to, score=score, top=top)


def split(
    data: str | Path,
    *,
    output: str | Path,
    images: str | Path | None = None,
    format: Format | None = None,
    subset: str | None = None,
    percent: float | None = None,
    count: int | None = None,
    fold: int = 1,
    seed: int = 0,
    protocol: Protocol = "seeded",
    ids: str | Path | None = None,
) -> SplitFiles:
    """Cuts a labeled data set into a labeled and an unlabeled part.

    Args:
        data: Annotations of any format (see ``data.formats.read_annotations``).
        output: Folder for ``labeled.json`` and ``unlabeled.json``, which name files as ``data`` does.
        images: Folder of its images, for formats that need them.
        format: The format of ``data``; detected if not given.
        subset: The part of ``data``, where it has several.
        percent: Share of labeled images.
        count: Number of labeled images, instead of a share.
        fold: Which of the splits of this size.
        seed: Seed of the draw.
        protocol: ``seeded``; ``stratified``, evenly over the classes; ``published``, COCO-Standard's table for
            train2017; or ``stac``, with replacement.
        ids: File of the labeled images' ids, instead of a draw.

    Returns:
        The two files, and the folder of the images that they name.
    """
    if sum(value is not None for value in (percent, count, ids)) != 1:
        raise InputError("split needs exactly one of --percent, --count and --ids")
    annotations = read_annotations(AnnotationSource.of(data, images, format, subset), check_files=False)
    how = protocol if ids is None else Path(ids)
    chosen = draw_split(annotations, how, percent=percent, count=count, fold=fold, seed=seed)
    return write_split(annotations, chosen.labeled_ids, Path(output))


def stream(
    source: str | Path | Sequence[str | Path], *, output: str | Path, images: str | Path | None = None
) -> WrittenStream:
    """Writes unlabeled images as a LitData data set (``data.formats.litdata``).

    Args:
        source: As ``unlabeled`` of ``train``.
        output: A folder, new or empty.
        images: Folder that a list's or a JSON's paths are relative to.

    Raises:
        InputError: If none of the images can be read, LitData is not installed, or ``output`` is not empty.
        RunError: If the disk refuses.
    """
    folder = None if images is None else Path(images)
    sources = [UnlabeledSource(path=Path(place), images=folder) for place in _as_list(source)]
    return stream_sources(sources, Path(output))


def check(
    data: str | Path,
    *,
    images: str | Path | None = None,
    format: Format | None = None,
    subset: str | None = None,
    unlabeled: str | Path | Sequence[str | Path] | None = None,
    val: str | Path | None = None,
    val_subset: str | None = None,
    recipe: str | Path = "custom",
    overrides: Mapping[str, Any] | Iterable[str] = (),
    quick: bool = False,
    pool: bool | None = None,
    html: str | Path | None = None,
) -> CheckReport:
    """Looks for whatever is wrong with a data set, and measures what a recipe would make of it.

    Args:
        data: Annotations of any format (see ``data.formats.read_annotations``).
        images: Folder of its images; found near ``data`` if not given.
        format: The format of ``data`` and ``val``; detected if not given.
        subset: The part of ``data``, where it has several.
        unlabeled: As for ``train``.
        val: Annotations to evaluate on.
        val_subset: The part of ``val``, where it has several.
        recipe: Name of a built-in recipe, or path of a YAML file.
        overrides: As for ``train``.
        quick: Do not read the image files.
        pool: Whether to compare unlabeled images with labeled ones by the features of the recipe's backbone; True
            fetches its weights. None does it where images are read and the weights are on this machine.
        html: Page to write, with charts of the labels.

    Raises:
        InputError: If something given is wrong, or the data can't be read at all.
        RunError: If the disk refuses the page.
    """
    # the recipe's own paths are those of other data
    paths = ("builtin", "root", "images", "unlabeled", "unlabeled_images", "val", "val_images")
    given: dict[str, Any] = {f"data.{key}": None for key in paths}
    given |= _given_paths(labeled=data, images=images, unlabeled=unlabeled, val=val)
    given |= {"data.format": format, "data.subset": subset, "data.val_subset": val_subset}
    report = check_data(load_recipe(recipe, [*_as_texts(given), *_as_texts(overrides)]), quick=quick, pool=pool)
    if html is not None:
        write_check_page(Path(html), report)
    return report


def doctor(output: str | Path = "runs", *, compile: bool = False) -> MachineReport:
    """What this machine can do, what is missing, and what would be faster.

    Args:
        output: Where runs will be written.
        compile: Whether to compile a small function with torch, which takes up to a minute; else its compiler is looked
            for alone.
    """
    return inspect_machine(Path(output), compile=compile)


def demo(
    output: str | Path = "demo", *, steps: int = 2400, overrides: Mapping[str, Any] | Iterable[str] = ()
) -> DemoOutcome:
    """Trains Supervised and Dense Teacher on the built-in Digits data, and compares them.

    Args:
        output: Folder for the two runs and the report.
        steps: Training steps of each run.
        overrides: As for ``train``.

    Raises:
        InputError: If ``output`` is not empty.
    """
    return run_demo(Path(output), steps=steps, overrides=_as_texts(overrides))


def export(
    detector: str | Path,
    *,
    output: str | Path,
    format: ExportFormat = "onnx",
    nms: bool = True,
    opset: int | None = None,
) -> None:
    """Writes a detector as one file that runs without torch: any number of images, of any size.

    Args:
        detector: Detector file or run folder.
        output: File to write.
        format: Kind of the file.
        nms: Whether the file ends in detections, or in boxes and scores at every location.
        opset: Version of ONNX's operators; torch's choice if not given.

    Raises:
        InputError: If there is not a detector, ``output`` is there already, or the extra ``onnx`` is not installed.
        RunError: If torch can't export the network, or the disk refuses.
    """
    export_onnx(Path(detector), Path(output), nms=nms, opset=opset)


def push(
    run: str | Path,
    repo: str,
    *,
    public: bool = False,
    revision: str | None = None,
    license: str | None = None,
) -> Pushed:
    """Puts a finished run's detector on the Hugging Face Hub, with a generated page; ``load`` reads it from there.

    Args:
        run: Folder of the run.
        repo: ``OWNER/NAME``, which is made if it is not there.
        public: Whether a new repository can be read by everybody.
        revision: Branch, which is made if it is not there; the main one if not given.
        license: SPDX name of the license of the weights, as ``apache-2.0``.

    Raises:
        InputError: If there is no detector, or the hub does not let this account write.
        RunError: If the hub can't be reached.
    """
    return push_run(RunFolder(Path(run)), repo, public=public, revision=revision, license=license)


def suggest(
    run: str | Path,
    pool: str | Path | Sequence[str | Path],
    *,
    output: str | Path = "suggested",
    count: int = 50,
    to: LabelFormat | None = None,
    score: float = 0.3,
) -> Suggestions:
    """Chooses the images of a pool to label next: what the run is unsure of, rare classes, and no two that are alike.

    Args:
        run: Run folder; or a detector file, of which student and labeled images are not known.
        pool: Image files, folders, glob patterns or text lists. Images that the run has labels of are left out.
        output: Folder to write to, new or empty: ``suggested.txt``, ``suggested.json``, ``suggested.html``, ``drafts``.
        count: How many images to choose.
        to: Format of the drafts of their labels, as for ``label``; None writes none.
        score: Boxes with lower scores are left out of the drafts.

    Raises:
        InputError: If there is no detector, no image, or ``output`` is not empty.
        RunError: If the disk refuses.
    """
    return suggest_images(run, _as_list(pool), output, count=count, to=to, score=score)


def benchmark(
    recipe: str | Path = "coco_standard",
    *,
    batch: int = 2,
    size: tuple[int, int] = (320, 416),
    rounds: int = 5,
    padding: float = 0.0,
    trace: str | Path | None = None,
    device: str = "auto",
    overrides: Mapping[str, Any] | Iterable[str] = (),
) -> dict[str, Any]:
    """Times training steps on made-up images (``runs.benchmark``).

    Args:
        recipe: Name of a built-in recipe, or path of a YAML file: says detector, method and views.
        batch: Labeled images, and as many unlabeled ones.
        size: Height and width of the canvas, multiples of 32.
        rounds: Steps that are timed.
        padding: Share of the canvas that is not an image.
        trace: File for a profile of two steps, as chrome://tracing reads it.
        device: ``auto``, ``cpu`` or ``cuda``.
        overrides: As for ``train``.

    Returns:
        What was measured, by name.

    Raises:
        InputError: If something given is wrong.
        RunError: If the trace can't be written.
    """
    keys = ["detector.pretrained=false", "method.group_size=null", f"runtime.device={device}", *_as_texts(overrides)]
    measured = Size(batch, batch, *size, padding=padding)
    return measure_steps(
        load_recipe(recipe, keys), measured, rounds=rounds, trace=None if trace is None else Path(trace)
    )


def experiments() -> list[str]:
    """Names of the tables and figures that ``reproduce`` knows."""
    return experiment_names()


def recipes() -> dict[str, str]:
    """Names of the recipes that come with the package, and what they are for."""
    return builtin_recipes()


def show_recipe(recipe: str | Path | Recipe, overrides: Mapping[str, Any] | Iterable[str] = ()) -> str:
    """A recipe with all its values, as YAML that ``train`` reads.

    Args:
        recipe: Name of a built-in recipe, path of a YAML file, or a recipe that was read.
        overrides: As for ``train``; of a recipe that was read there are none.

    Raises:
        InputError: If there is not such a recipe, or a key or value is wrong.
    """
    return dump_recipe(recipe if isinstance(recipe, Recipe) else load_recipe(recipe, overrides))


def _given_paths(**paths: str | Path | Sequence[str | Path] | None) -> dict[str, Any]:
    """Recipe keys of paths, which are relative to where the user is, not to a recipe's root.

    What a recipe says about its own data (``data.subset``, ``data.val_images``) says nothing about the user's.
    """
    given: dict[str, Any] = {}
    for key, value in paths.items():
        if value:
            several = [str(one) if is_url(one) else str(Path(one).absolute()) for one in _as_list(value)]
            given |= {f"data.{about}": None for about in _ABOUT.get(key, ())}
            given[f"data.{key}"] = several if len(several) > 1 else several[0]
    return given


def _given_data(**options: str | None) -> dict[str, Any]:
    """Recipe keys of what else is said of the data, where something is."""
    return {f"data.{key}": value for key, value in options.items() if value is not None}


def _given_runtime(**options: int | list[str] | None) -> dict[str, Any]:
    """Recipe keys of what is said of processes and trackers, where something is."""
    return {f"runtime.{key}": value for key, value in options.items() if value}


def _as_list(paths: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [paths] if isinstance(paths, str | Path) else paths


def _as_texts(overrides: Mapping[str, Any] | Iterable[str]) -> list[str]:
    if isinstance(overrides, Mapping):
        return [f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items()]
    return list(overrides)
