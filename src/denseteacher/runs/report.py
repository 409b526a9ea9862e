"""What a finished run is evaluated to, and its report: from run folders to a page."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from denseteacher.data.loading.steps import StepDataset
from denseteacher.data.open import TrainingData, Validation
from denseteacher.data.records import LabeledImages
from denseteacher.data.splits import read_split_sizes
from denseteacher.detectors import BestScores, add_best_scores
from denseteacher.evaluation.diagnostics import (
    confusion_matrix,
    confusions,
    match_arrays,
    precision_recall,
    worst_images,
)
from denseteacher.evaluation.evaluator import Evaluator
from denseteacher.evaluation.gain import UnlabeledGain, read_gain
from denseteacher.evaluation.summary import describe_evaluation
from denseteacher.evaluation.thresholds import best_points, score_curves
from denseteacher.inference.predictor import Predictor
from denseteacher.recipes.schema import Recipe, dump_recipe
from denseteacher.report.charts import confusion_chart, precision_recall_chart, score_chart
from denseteacher.report.curves import ShownRun
from denseteacher.report.gallery import Picture, unlabeled_row, validation_row
from denseteacher.report.label_charts import label_figure
from denseteacher.report.page import Report, write_report
from denseteacher.report.previews import first_views, unlabeled_examples
from denseteacher.runs.damage import damage_explained
from denseteacher.runs.evaluate import read_detections, read_evaluation, write_evaluation, write_figures
from denseteacher.runs.folder import RunFolder
from denseteacher.training.health import health_notes
from denseteacher.visualization.boxes import SHOWN_ABOVE
from denseteacher.visualization.figure import save_png

_SHOWN = 6  # rows of each gallery


class FinishedRun(NamedTuple):
    """A run that is done."""

    folder: RunFolder
    recipe: Recipe
    shown: ShownRun
    labeled: int
    """Images."""
    unlabeled: int

    @property
    def best_step(self) -> int | None:
        """The step of the evaluation at which its teacher was best; None where nothing was evaluated."""
        found = [(row["teacher/AP"], row["step"]) for row in self.shown.rows if row.get("teacher/AP") is not None]
        return max(found, key=lambda pair: pair[0])[1] if found else None


def evaluate_run(folder: RunFolder, evaluator: Evaluator, *, file: Path, step: int) -> None:
    """Evaluates the detector of a run, and writes what users expect to find beside it.

    ``evaluation.json``, ``detections.json`` (COCO results), ``per_class.csv`` and the figures of ``write_figures``. The
    detector is read from its file, so that the numbers are those of what is used; its best scores are written there.

    Args:
        folder: Folder of the run.
        evaluator: On its validation images.
        file: Where their annotations are from.
        step: Step of the detector.
    """
    predictor = Predictor.load(folder.path)
    found, results = evaluator(predictor.detector, predictor.device)
    points = best_points(score_curves(match_arrays(evaluator.ground_truth, results)))
    described = describe_evaluation(evaluator.ground_truth, found, points, file=file, step=step)
    if points.overall is not None:
        by_class = tuple(None if one.best is None else one.best.score for one in described.classes)
        add_best_scores(folder.detector, BestScores(overall=points.overall.score, classes=by_class))
    write_evaluation(folder, described, results)
    try:
        write_figures(folder, evaluator.ground_truth, results)
    except Exception as error:  # a picture is no reason to lose a report
        warnings.warn(f"the figures of {folder} can't be made: {error}", stacklevel=2)


def draw_labels(folder: RunFolder, labeled: LabeledImages) -> None:
    """Writes ``labels.png``; a picture is no reason to lose a report."""
    try:
        save_png(folder.labels, label_figure(labeled))
    except Exception as error:
        warnings.warn(f"the labels of {folder} can't be drawn: {error}", stacklevel=2)


def finished_run(folder: RunFolder, recipe: Recipe, label: str) -> FinishedRun:
    """A run as a page shows it.

    Raises:
        InputError: If one of its files is damaged.
    """
    burn_in = None if recipe.method.burn_in_steps is None else int(recipe.method.burn_in_steps)
    shown = ShownRun(label, folder.rows(), burn_in, read_evaluation(folder))
    with damage_explained(folder.split):
        sizes = read_split_sizes(folder.split)
    return FinishedRun(folder, recipe, shown, *sizes)


def report_run(folder: RunFolder, recipe: Recipe, data: TrainingData) -> None:
    """Writes the ``report.html`` of one run; beside its baseline where that is finished."""
    run = finished_run(folder, recipe, recipe.method.name)
    with damage_explained(folder.gain):
        gain = read_gain(folder.gain)
    runs = [run]
    if gain is not None:
        runs.insert(0, finished_run(folder.baseline, folder.baseline.recipe(), "baseline"))
    report_runs(
        folder.report,
        runs,
        title=f"{recipe.name}: {run.shown.label}",
        summary=_summary(run) if gain is None else f"{gain.sentence} {gain.certainty}",
        data=data,
        gain=gain,
    )


def _summary(run: FinishedRun) -> str:
    """What a run reaches, in a sentence."""
    summary = f"{run.shown.label} on {run.labeled:,} labeled and {run.unlabeled:,} unlabeled images"
    if run.shown.metrics:
        summary += (
            f": after {run.shown.metrics['step']:,} steps the teacher reaches {run.shown.metrics['teacher/AP']:.1f} AP"
        )
    return f"{summary}."


def report_runs(
    path: Path,
    runs: Sequence[FinishedRun],
    *,
    title: str,
    summary: str,
    data: TrainingData | None,
    notes: Sequence[str] = (),
    differences: Mapping[str, Sequence[str]] | None = None,
    gain: UnlabeledGain | None = None,
) -> None:
    """Writes a page on one run, or on several beside each other.

    Args:
        path: The HTML file.
        runs: The last is the one that the page is about, the first what it is measured against.
        title: Title of the page.
        summary: A sentence.
        data: Data of the last run; without it the page has no pictures.
        notes: What must be known before comparing.
        differences: Keys of the recipes that differ, with each run's value.
        gain: Gain of the last run over the first, its baseline.
    """
    last = runs[-1]
    comparable = same_validation(runs)
    report = Report(
        title=title,
        summary=summary,
        runs=[run.shown for run in runs],
        facts=_facts(runs, comparable=comparable, gain=gain),
        gain=gain,
        notes=notes,
        health=health_notes(last.shown.rows, burn_in=last.shown.burn_in),
        comparable=comparable,
        taught=last.recipe.method.legend(),
        differences=differences or {},
        recipe=dump_recipe(last.recipe),
        environment=_environment(last.folder),
    )
    if data is not None:
        report = report._replace(unlabeled=_unlabeled_rows(last, data))
        if data.validation is not None:
            report = _with_evaluation(report, runs if comparable else [last], data.validation)
    write_report(path, report)


def same_validation(runs: Sequence[FinishedRun]) -> bool:
    """Whether all runs were evaluated on the same images and boxes; without an evaluation, on the same file."""
    found = [run.shown.evaluation for run in runs]
    digests = {one.digest for one in found if one is not None}
    if None not in found:
        return len(digests) == 1
    return len(digests) < 2 and len({validation_file(run) for run in runs}) == 1


def validation_file(run: FinishedRun) -> str:
    """What a run was evaluated on, as its recipe names it."""
    path = run.recipe.data.path("val")
    return str(path.absolute()) if path is not None else run.recipe.data.builtin or "nothing"


def _with_evaluation(report: Report, runs: Sequence[FinishedRun], validation: Validation) -> Report:
    """The report with figures and pictures of the runs that have kept their detections."""
    truth = validation.ground_truth
    results = {run.shown.label: read_detections(run.folder) for run in runs}
    matched = {label: match_arrays(truth, found) for label, found in results.items() if found is not None}
    last = runs[-1].shown.label
    if last not in matched:
        return report
    names = matched[last].arrays.names
    matrix = confusion_matrix(matched[last].arrays, score=SHOWN_ABOVE)
    records = {record.id: record for record in validation.images}
    worst = worst_images(matched[last], above=SHOWN_ABOVE, most=_SHOWN)
    spread = validation.images[:: max(1, len(validation.images) // _SHOWN)][:_SHOWN]
    curves = score_curves(matched[last])
    by_score = [] if curves.overall.best is None else [score_chart(curves)]
    return report._replace(
        figures=[precision_recall_chart(precision_recall(matched[last])), *by_score, confusion_chart(matrix, names)],
        confusions=confusions(matrix, names),
        mistakes=[validation_row(records[id_], {last: matched[last]}) for id_ in worst],
        examples=[validation_row(record, matched) for record in spread],
    )


def _unlabeled_rows(run: FinishedRun, data: TrainingData) -> list[list[Picture]]:
    """Rows of the run's first unlabeled images."""
    recipe, predictor = run.recipe, Predictor.load(run.folder.path)
    needs_unlabeled = recipe.method.needs_unlabeled
    steps = StepDataset(data, recipe.data, recipe.augment, seed=recipe.seed, needs_unlabeled=needs_unlabeled)
    views = first_views(steps, most=_SHOWN)
    examples = unlabeled_examples(recipe.method, predictor.detector, views, predictor.device)
    return [unlabeled_row(one, predictor.class_names) for one in examples]


def _facts(runs: Sequence[FinishedRun], *, comparable: bool, gain: UnlabeledGain | None) -> list[tuple[str, str]]:
    first, last = runs[0].shown, runs[-1]
    metrics, facts = last.shown.metrics, list[tuple[str, str]]()
    if gain is not None:
        facts += [
            (f"{gain.gain:+.1f}", "AP by the unlabeled images"),
            (f"{gain.with_.AP:.1f}", "AP with them"),
            (f"{gain.without.AP:.1f}", "AP without them"),
        ]
    elif metrics:
        facts += [
            (f"{metrics[f'teacher/{name}']:.1f}", name) for name in ("AP", "AP50") if f"teacher/{name}" in metrics
        ]
        if len(runs) > 1 and comparable and first.metrics:
            facts.append((f"{metrics['teacher/AP'] - first.metrics['teacher/AP']:+.1f}", f"AP over {first.label}"))
    if last.shown.evaluation is not None:
        facts.append((f"{last.shown.evaluation.step:,}", "step of the best teacher"))
    facts += [(f"{last.labeled:,}", "labeled images"), (f"{last.unlabeled:,}", "unlabeled images")]
    facts.append((f"{last.recipe.schedule.max_steps:,}", "steps"))
    if last.shown.step_seconds is not None:
        facts.append((f"{last.shown.step_seconds:.2g} s", "a step"))
    return facts


def _environment(folder: RunFolder) -> str:
    """The environment file of a run folder, readable; empty where it has none."""
    file = folder.environment
    with damage_explained(file):
        return json.dumps(json.loads(file.read_text(encoding="utf-8")), indent=2) if file.is_file() else ""
