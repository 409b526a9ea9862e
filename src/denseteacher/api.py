"""What a program calls: train, evaluate, split, check, load. The command line only calls what stands here."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.assembly import finish_run
from denseteacher.baseline import check_baseline, is_reported, train_baseline
from denseteacher.check import CheckReport, check_data
from denseteacher.data.choices import Format, Protocol
from denseteacher.data.formats import SplitFiles, read_annotations, with_categories, write_split
from denseteacher.data.sources import draw_split
from denseteacher.data.streams import WrittenStream, is_url
from denseteacher.data.unlabeled import UnlabeledSource, stream_sources
from denseteacher.errors import InputError
from denseteacher.evaluation.evaluator import Evaluator
from denseteacher.evaluation.metrics import Metrics, fitting_metrics
from denseteacher.inference.predictor import Predictor
from denseteacher.methods import Method
from denseteacher.recipe import Recipe, load_recipe, with_method, with_processes
from denseteacher.recipe_file import keys_by_hand
from denseteacher.report.unlabeled_gain import UnlabeledGain
from denseteacher.run_folder import choose_folder, goes_on_by_itself
from denseteacher.run_report import BASELINE
from denseteacher.run_start import prepare_run

_ABOUT = {
    "labeled": ("images", "subset", "format"),
    "unlabeled": ("unlabeled_images",),
    "val": ("val_images", "val_subset"),
}
"""Keys that say how to read another one's path."""


class TrainResult(NamedTuple):
    """What a training run leaves."""

    folder: Path
    step: int
    metrics: dict[str, float]
    """Of the last evaluation: ``teacher/AP``, ``student/AP50``, ..."""
    best: dict[str, float]
    """``step`` and ``AP`` of the best teacher."""
    stopped_by: str | None
    """Name of the signal that ended the run, or its baseline, early."""
    is_main: bool
    """False in the other processes of a run: they write nothing and know no metrics."""
    baseline: "TrainResult | None" = None
    """The same of the detector without unlabeled images, where one was asked for and begun."""
    gain: UnlabeledGain | None = None
    """What the unlabeled images were worth over that baseline, once it is finished."""


def train(
    recipe: str | Path = "custom",
    *,
    labeled: str | Path | None = None,
    images: str | Path | None = None,
    unlabeled: str | Path | Sequence[str | Path] | None = None,
    val: str | Path | None = None,
    root: str | Path | None = None,
    output: str | Path | None = None,
    method: Method | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    resume: bool = False,
    burn_in_from: str | Path | None = None,
    baseline: bool = False,
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
        output: The run folder; a new one below ``runs`` if not given.
        method: A method of your own in place of the recipe's (``docs/add-a-method.md``).
        overrides: ``{"optim.lr": 0.02}`` or ``["optim.lr=0.02"]``.
        resume: Continue the run in ``output``, or the newest run of this recipe. What torchrun or SLURM restarts
            goes on unasked.
        burn_in_from: Another run of the same recipe and seed but for the method, whose burn-in to start from.
        baseline: Also train the same detector without unlabeled images, from the same burn-in and for as many steps,
            in the folder ``baseline`` of the run folder, and say what they were worth: in ``TrainResult.gain``, in
            ``baseline.json`` and at the top of the report. With ``resume``, what is finished is not repeated.

    Raises:
        InputError: If something given is wrong.
        RunError: If the run can't go on.
    """
    given = _given_paths(labeled=labeled, unlabeled=unlabeled, val=val, images=images, root=root)
    texts = [*_as_texts(given), *_as_texts(overrides)]
    config = _run_recipe(recipe, texts, method)
    if baseline:
        check_baseline(config)
    resume = resume or goes_on_by_itself(output)
    folder = choose_folder(config.name, output, resume=resume)
    source = None if burn_in_from is None else Path(burn_in_from)
    by_hand = keys_by_hand("detector", str(recipe), texts)
    run = prepare_run(config, by_hand, folder, resume=resume, burn_in_from=source)
    progress = run.trainer.fit()
    if run.runtime.is_main and progress.stopped_by is None and not (baseline and is_reported(folder)):
        finish_run(run.recipe, run.data, run.trainer, progress, folder)
    result = TrainResult(folder, *progress, run.runtime.is_main)
    config, data, runtime = run[:3]
    del run  # the device has no memory for two trainers
    if not baseline or progress.stopped_by is not None:
        return result
    baseline_progress, gain = train_baseline(folder, config, data, runtime, burn_in_from=source)
    second = TrainResult(folder / BASELINE, *baseline_progress, runtime.is_main)
    return result._replace(stopped_by=second.stopped_by, baseline=second, gain=gain)


class EvaluationResult(NamedTuple):
    """What an evaluation found."""

    metrics: Metrics
    results: list[dict[str, Any]]
    """COCO result entries that the metrics are computed from."""
    score_floor: float
    """Class scores at or below were no detections; numbers with different floors do not compare."""


def load(path: str | Path) -> Predictor:
    """A trained detector, from its file or its run folder."""
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
        format: The format of ``data``; told by looking if not given.
        subset: The part of ``data``, where it has several; ``test`` or ``val`` if not given.
        score_floor: Class scores at or below are no detections; the detector's own if not given.
        workers: Loader processes.
        metrics: What to measure besides COCO's AP: ``voc``, ``crowdhuman``; what fits the data if not given.
    """
    predictor = Predictor.load(Path(detector), score_floor=score_floor)
    annotations = read_annotations(
        Path(data), None if images is None else Path(images), format=format, subset=subset, role="validation"
    )
    annotations = with_categories(annotations, predictor.categories)
    evaluator = Evaluator(
        annotations.records,
        annotations.content,
        predictor.categories,
        view=predictor.view,
        batch_size=8,
        workers=workers,
        source=Path(data),
        metrics=fitting_metrics(annotations.content, annotations.format) if metrics is None else metrics,
    )
    floor = predictor.card.detector.score_floor
    return EvaluationResult(*evaluator(predictor.detector, predictor.device), floor)


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
        format: The format of ``data``; told by looking if not given.
        subset: The part of ``data``, where it has several.
        percent: Share of labeled images.
        count: Number of labeled images, instead of a share.
        fold: Which of the splits of this size.
        seed: Of the draw.
        protocol: ``seeded``; ``stratified``, evenly over the classes; ``published``, COCO-Standard's table for
            train2017; or ``stac``, with replacement.
        ids: File of the labeled images' ids, instead of a draw.

    Returns:
        The two files, and the folder of the images that they name.
    """
    if sum(value is not None for value in (percent, count, ids)) != 1:
        raise InputError("split needs exactly one of --percent, --count and --ids")
    annotations = read_annotations(
        Path(data), None if images is None else Path(images), format=format, subset=subset, check_files=False
    )
    how = protocol if ids is None else Path(ids)
    chosen = draw_split(annotations, how, percent=percent, count=count, fold=fold, seed=seed)
    return write_split(annotations, chosen.labeled_ids, Path(output))


def stream(
    source: str | Path | Sequence[str | Path], *, output: str | Path, images: str | Path | None = None
) -> WrittenStream:
    """Writes unlabeled images as a LitData data set (``data.streams.write_stream``).

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
) -> CheckReport:
    """Looks for whatever is wrong with a data set, and measures what a recipe would make of it.

    Args:
        data: Annotations of any format (see ``data.formats.read_annotations``).
        images: Folder of its images; found near ``data`` if not given.
        format: The format of ``data`` and ``val``; told by looking if not given.
        subset: The part of ``data``, where it has several.
        unlabeled: As for ``train``.
        val: Annotations to evaluate on.
        val_subset: The part of ``val``, where it has several.
        recipe: Name of a built-in recipe, or path of a YAML file.
        overrides: As for ``train``.
        quick: Do not read the image files.

    Raises:
        InputError: If something given is wrong, or the data can't be read at all.
    """
    # the recipe's own paths are those of other data
    paths = ("builtin", "root", "images", "unlabeled", "unlabeled_images", "val", "val_images")
    given: dict[str, Any] = {f"data.{key}": None for key in paths}
    given |= _given_paths(labeled=data, images=images, unlabeled=unlabeled, val=val)
    given |= {"data.format": format, "data.subset": subset, "data.val_subset": val_subset}
    return check_data(load_recipe(recipe, [*_as_texts(given), *_as_texts(overrides)]), quick=quick)


def _run_recipe(recipe: str | Path, overrides: list[str], method: Method | None) -> Recipe:
    """The recipe of a run, for the processes that it has."""
    config = load_recipe(recipe, overrides)
    return with_processes(config if method is None else with_method(config, method))


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


def _as_list(paths: str | Path | Sequence[str | Path]) -> Sequence[str | Path]:
    return [paths] if isinstance(paths, str | Path) else paths


def _as_texts(overrides: Mapping[str, Any] | Iterable[str]) -> list[str]:
    if isinstance(overrides, Mapping):
        return [f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items()]
    return list(overrides)
