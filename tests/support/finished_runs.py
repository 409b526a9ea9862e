"""Finished runs for the tests of pages: trained for a few steps, with detections as of a much better detector."""

import numpy as np

import denseteacher
from conftest import TINY
from denseteacher.data.open import open_data
from denseteacher.evaluation.diagnostics import match_arrays
from denseteacher.evaluation.metrics import measure
from denseteacher.evaluation.summary import describe_evaluation
from denseteacher.evaluation.thresholds import best_points, score_curves
from denseteacher.runs.evaluate import write_evaluation, write_figures
from denseteacher.runs.folder import RunFolder
from denseteacher.runs.report import report_run

SHORT = ["method.burn_in=2", "method.ramp=1", "schedule.evaluate_every=4", "schedule.preview_every=4"]


def trained(folder, coco, unlabeled, *overrides, val=True):
    """A run of eight steps."""
    denseteacher.train(
        "custom",
        labeled=coco,
        unlabeled=unlabeled,
        val=coco if val else None,
        output=folder,
        overrides=[*TINY, *SHORT, *overrides],
    )
    return folder


def with_detections(folder, *, seed=0, missed=0.2):
    """Gives a run made-up detections of its validation images, and the report that follows from them."""
    run = RunFolder(folder)
    recipe = run.recipe()
    data = open_data(recipe.data)
    truth = data.validation.ground_truth
    results = random_results(truth, np.random.default_rng(seed), missed=missed)
    points = best_points(score_curves(match_arrays(truth, results)))
    found = describe_evaluation(truth, measure(truth, results), points, file=data.validation.path, step=8)
    write_evaluation(run, found, results)
    write_figures(run, truth, results)
    report_run(run, recipe, data)
    return folder


def random_results(truth, rng, *, missed):
    """Results near most objects, some of them of another class, and some nowhere near one."""
    ids = [category["id"] for category in truth["categories"]]
    results = []
    for one in truth["annotations"]:
        if one["iscrowd"] or rng.random() < missed:
            continue
        near = np.asarray(one["bbox"], dtype=float) + rng.normal(0, 1, 4)
        wrong = rng.random() < 0.2
        category = int(rng.choice(ids)) if wrong else one["category_id"]
        results.append(_result(one["image_id"], category, near, rng.uniform(0.3, 1)))
    for image in truth["images"]:
        results.append(_result(image["id"], int(rng.choice(ids)), rng.uniform(5, 25, 4), rng.uniform(0.05, 0.8)))
    return results


def _result(image, category, box, score):
    return {"image_id": image, "category_id": category, "bbox": [float(side) for side in box], "score": float(score)}
