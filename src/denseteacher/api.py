"""The composition root: from a recipe to objects to a run. The command line only calls what stands here."""

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from denseteacher.data.formats.coco import coco_ground_truth, read_coco, write_split
from denseteacher.data.geometry import EvalView
from denseteacher.data.loaders import StepDataset, StreamSettings
from denseteacher.data.records import LabeledImages
from denseteacher.data.sources import TrainingData, Validation, open_data
from denseteacher.data.splits import listed_split, published_split, seeded_split
from denseteacher.detectors import DenseDetector, DetectorCard, build_detector, save_detector
from denseteacher.errors import InputError
from denseteacher.evaluation.coco_map import CocoMap
from denseteacher.evaluation.evaluator import Evaluator
from denseteacher.inference.predictor import Predictor
from denseteacher.methods import DenseTeacher, Method
from denseteacher.recipe import Recipe, dump_recipe, load_recipe, resolve_auto, with_method
from denseteacher.report.page import SHOWN, environment_text, examples, run_view, write_report
from denseteacher.run_folder import (
    choose_folder,
    describe_run,
    resume_run,
    start_from_burn_in,
    with_precision_of,
)
from denseteacher.training.runtime import Runtime
from denseteacher.training.trainer import Progress, Trainer

_FOREGROUND_MULTIPLE = 2.5  # the paper selects 1 % where 0.4 % of the locations are foreground (section 4.4)
_FOREGROUND_STEPS = 32  # batches that the share of foreground is measured on


class TrainResult(NamedTuple):
    """What a training run leaves."""

    folder: Path
    step: int
    metrics: dict[str, float]
    """Of the last evaluation: ``teacher/AP``, ``student/AP50``, ..."""
    best: dict[str, float]
    """``step`` and ``AP`` of the best teacher."""
    stopped_by: str | None
    """Name of the signal that ended the run early."""


def train(
    recipe: str | Path = "custom",
    *,
    labeled: str | Path | None = None,
    images: str | Path | None = None,
    unlabeled: str | Path | None = None,
    val: str | Path | None = None,
    output: str | Path | None = None,
    method: Method | None = None,
    overrides: Mapping[str, Any] | Iterable[str] = (),
    resume: bool = False,
    burn_in_from: str | Path | None = None,
) -> TrainResult:
    """Trains a detector.

    Args:
        recipe: Name of a built-in recipe, or path of a YAML file.
        labeled: COCO JSON of the labeled images.
        images: Their folder; found beside the JSON if not given.
        unlabeled: Folder, COCO image-info JSON or text list of unlabeled images.
        val: COCO JSON to evaluate on.
        output: The run folder; a new one below ``runs`` if not given.
        method: A method of your own in place of the recipe's (``docs/add-a-method.md``).
        overrides: ``{"optim.lr": 0.02}`` or ``["optim.lr=0.02"]``.
        resume: Continue the run in ``output``, or the newest run of this recipe.
        burn_in_from: Another run of the same recipe and seed but for the method, whose burn-in to start from.

    Raises:
        InputError: If something given is wrong.
        RunError: If the run can't go on.
    """
    paths = {"labeled": labeled, "images": images, "unlabeled": unlabeled, "val": val}
    # a path on the command line is relative to where the user is, not to a recipe's root
    given = {f"data.{key}": str(Path(value).absolute()) for key, value in paths.items() if value is not None}
    config = load_recipe(recipe, [*_as_texts(given), *_as_texts(overrides)])
    if method is not None:
        config = with_method(config, method)
    folder = choose_folder(config.name, output, resume=resume)
    data = open_data(config.data)
    config = resolve_auto(config, labeled=len(data.labeled.images), unlabeled=len(data.unlabeled))
    _check_unlabeled(config, data)
    begun = folder if resume else None if burn_in_from is None else Path(burn_in_from)
    config = with_precision_of(config, begun)
    runtime = Runtime(config.runtime)
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"precision": runtime.precision})})
    torch.manual_seed(config.seed)
    student = build_detector(config.detector, len(data.labeled.categories))
    student = student.to(memory_format=torch.channels_last)
    config = _with_ratio(config, student, data.labeled)
    if runtime.is_main and not resume:
        describe_run(folder, config, data.split)
    trainer = _build_trainer(config, data, student, runtime, folder)
    if resume:
        resume_run(trainer, config, folder)
    elif burn_in_from is not None:
        start_from_burn_in(trainer, config, Path(burn_in_from))
    progress = trainer.fit()
    if runtime.is_main and progress.stopped_by is None:
        _finish(config, data, trainer, progress, folder)
    return TrainResult(folder, *progress)


class EvaluationResult(NamedTuple):
    """What an evaluation found."""

    metrics: CocoMap
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
    score_floor: float | None = None,
    workers: int = 0,
) -> EvaluationResult:
    """COCO AP of a detector on a labeled data set.

    Args:
        detector: Detector file or run folder.
        data: COCO JSON.
        images: Folder of its images; found beside the JSON if not given.
        score_floor: Class scores at or below are no detections; the detector's own if not given.
        workers: Loader processes.
    """
    predictor = Predictor.load(Path(detector), score_floor=score_floor)
    records = read_coco(
        Path(data), None if images is None else Path(images), bad_boxes="fix", categories=predictor.categories
    )
    evaluator = Evaluator(
        records.images,
        coco_ground_truth(Path(data)),
        predictor.categories,
        view=predictor.view,
        batch_size=8,
        workers=workers,
        source=Path(data),
    )
    floor = predictor.card.detector.score_floor
    return EvaluationResult(*evaluator(predictor.detector, predictor.device), floor)


def split(
    data: str | Path,
    *,
    output: str | Path,
    percent: float | None = None,
    count: int | None = None,
    fold: int = 1,
    seed: int = 0,
    published: bool = False,
    ids: str | Path | None = None,
) -> tuple[Path, Path]:
    """Cuts a COCO data set into a labeled and an unlabeled part.

    Args:
        data: COCO JSON.
        output: Folder for ``labeled.json`` and ``unlabeled.json``.
        percent: Share of labeled images.
        count: Number of labeled images, instead of a share.
        fold: Which of the splits of this size.
        seed: Of the draw.
        published: Use COCO-Standard's published table, for train2017.
        ids: File of the labeled images' ids, instead of a draw.

    Returns:
        The two files.
    """
    if sum(value is not None for value in (percent, count, ids)) != 1:
        raise InputError("split needs exactly one of --percent, --count and --ids")
    source = Path(data)
    content = coco_ground_truth(source)
    everything = [image["id"] for image in content["images"]]
    if ids is not None:
        chosen = listed_split(everything, Path(ids))
    elif published:
        if percent is None:
            raise InputError("the published split needs --percent")
        chosen = published_split(read_coco(source, bad_boxes="fix", check_files=False), percent, fold)
    else:
        chosen = seeded_split(everything, percent=percent, count=count, fold=fold, seed=seed)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    return write_split(source, chosen.labeled_ids, folder)


def _as_texts(overrides: Mapping[str, Any] | Iterable[str]) -> list[str]:
    if isinstance(overrides, Mapping):
        return [f"{key}={json.dumps(value, default=str)}" for key, value in overrides.items()]
    return list(overrides)


def _check_unlabeled(config: Recipe, data: TrainingData) -> None:
    last = int(config.schedule.max_steps) - 1
    if not data.unlabeled and config.method.needs_unlabeled(last):
        raise InputError(
            f"method {config.method.name!r} needs unlabeled images: give --unlabeled PATH, or a data.split that "
            "leaves some, or train with --set method.name=supervised"
        )


def stream_settings(config: Recipe, rank: int = 0, world_size: int = 1) -> StreamSettings:
    """What a recipe says about its streams, for one of ``world_size`` processes."""
    return StreamSettings(
        weak=config.augment.weak,
        labeled_batch=config.data.labeled_batch,
        unlabeled_batch=config.data.unlabeled_batch,
        seed=config.seed,
        needs_unlabeled=config.method.needs_unlabeled,
        rank=rank,
        world_size=world_size,
    )


def _with_ratio(config: Recipe, detector: DenseDetector, labeled: LabeledImages) -> Recipe:
    """Sets ``ratio: auto`` from the share of foreground locations of the first labeled batches."""
    method = config.method
    if getattr(method, "ratio", None) != "auto":
        return config
    steps = StepDataset(labeled, [], stream_settings(config)._replace(needs_unlabeled=_never))
    foreground, locations = 0, 0
    for step in range(min(_FOREGROUND_STEPS, steps.labeled_sampler.batches_per_epoch)):
        loaded = steps.load(step)
        height, width = loaded.labeled.pixels.shape[-2:]
        anchors = detector.anchors((height, width), torch.device("cpu"))
        found = detector.foreground(anchors, loaded.targets)
        foreground += int(found.sum())
        locations += found.numel()
    ratio = min(1.0, max(_FOREGROUND_MULTIPLE * foreground / locations, 1e-4))
    # three digits: the share is an estimate, and the recipe of the run is meant to be read
    method = method.model_copy(update={"ratio": float(f"{ratio:.3g}")})
    return config.model_copy(update={"method": method})


def _never(step: int) -> bool:
    return False


def _evaluator(config: Recipe, validation: Validation, data: TrainingData) -> Evaluator:
    return Evaluator(
        validation.images,
        validation.ground_truth,
        data.labeled.categories,
        view=EvalView(short_side=config.evaluation.short_side, max_side=config.evaluation.max_side),
        batch_size=config.evaluation.batch,
        workers=config.runtime.workers,
        source=validation.path,
    )


def _build_trainer(config: Recipe, data: TrainingData, student: nn.Module, runtime: Runtime, folder: Path) -> Trainer:
    evaluate_one = None
    if data.validation is not None:
        evaluator = _evaluator(config, data.validation, data)

        def evaluate_one(detector: DenseDetector) -> dict[str, float]:
            return evaluator(detector, runtime.device)[0].values

    def save_best(teacher: nn.Module, metrics: dict[str, float]) -> None:
        card = _card(config, data, "teacher", trainer.step, metrics)
        save_detector(folder / "detector.safetensors", teacher.state_dict(), card)

    decay, start = config.ema.decay, config.ema.start
    trainer = Trainer(
        student=student,
        method=config.method,
        strong=config.augment.strong,
        affine=config.augment.affine,
        dataset=StepDataset(
            data.labeled,
            data.unlabeled,
            stream_settings(config, runtime.rank, runtime.world_size),
            hidden=data.hidden,
        ),
        schedule=config.schedule,
        optim=config.optim,
        ema=(float(decay), int(start)),
        runtime=runtime,
        workers=config.runtime.workers,
        folder=folder,
        recipe=config.model_dump(mode="json"),
        evaluate=evaluate_one,
        save_best=save_best,
    )
    return trainer


def _card(config: Recipe, data: TrainingData, role: str, step: int, metrics: Mapping[str, float]) -> DetectorCard:
    trained: dict[str, str | int | float] = {"recipe": config.name, "role": role, "step": step}
    if f"{role}/AP" in metrics:
        trained["AP"] = metrics[f"{role}/AP"]
    return DetectorCard(
        detector=config.detector,
        categories=tuple((category.id, category.name) for category in data.labeled.categories),
        short_side=config.evaluation.short_side,
        max_side=config.evaluation.max_side,
        trained=trained,
    )


def _finish(config: Recipe, data: TrainingData, trainer: Trainer, progress: Progress, folder: Path) -> None:
    """Writes the last teacher and student, and the report."""
    for role, module in (("teacher", trainer.teacher.module), ("student", trainer.student_module)):
        card = _card(config, data, role, progress.step, progress.metrics)
        save_detector(folder / f"last_{role}.safetensors", module.state_dict(), card)
    if not progress.best:  # nothing was evaluated, so the last teacher is the one to use
        shutil.copyfile(folder / "last_teacher.safetensors", folder / "detector.safetensors")
    write_report(
        folder / "report.html",
        title=f"denseteacher: {config.name}",
        summary=_summary(config, data, progress),
        runs=[run_view(folder, config.method.name)],
        examples=examples(data.validation, data.labeled.categories),
        unlabeled=data.unlabeled[:SHOWN],
        method=config.method if isinstance(config.method, DenseTeacher) else None,
        recipe=dump_recipe(config),
        environment=environment_text(folder),
    )


def _summary(config: Recipe, data: TrainingData, progress: Progress) -> str:
    sentence = (
        f"{config.method.name} on {len(data.labeled.images)} labeled and {len(data.unlabeled)} unlabeled images, "
        f"{progress.step} steps"
    )
    if "teacher/AP" in progress.metrics:
        sentence += f": the teacher reaches {progress.metrics['teacher/AP']:.1f} AP"
    return sentence + "."
