"""The demonstration: what unlabeled images are worth, on the built-in Digits data."""

from pathlib import Path
from typing import NamedTuple

from denseteacher.data.open import open_data
from denseteacher.errors import InputError
from denseteacher.files import refusal_explained
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.folder import RunFolder
from denseteacher.runs.report import finished_run, report_runs
from denseteacher.runs.train import train_run


class DemoOutcome(NamedTuple):
    """The demonstration's result."""

    rows: list[tuple[str, dict[str, float]]]
    """Name and last evaluation of each run, Supervised first."""
    report: Path


def run_demo(output: Path, *, steps: int, overrides: list[str]) -> DemoOutcome:
    """Trains Dense Teacher, then Supervised from the same burn-in and for as many steps, and compares them.

    Args:
        output: Folder for both runs and ``report.html``.
        steps: Length of each run; burn-in and teacher are scaled to it.
        overrides: Recipe keys for both runs, ``KEY=VALUE``.

    Raises:
        InputError: If ``output`` holds something already.
        RunError: If it can't be written to.
    """
    with refusal_explained(output, "used as a folder"):
        if not RunFolder(output).is_free:
            raise InputError(f"{output} is not empty: choose another --output; nothing was changed")
    shared = [*scaled_to(steps), *overrides]
    dense = train_run("digits", shared, output=output / "dense_teacher")
    if dense.stopped_by is None:
        supervised = train_run(
            "digits",
            [*shared, "method.name=supervised"],
            output=output / "supervised",
            burn_in_from=dense.folder,
        )
    if dense.stopped_by is not None or supervised.stopped_by is not None:
        raise InputError("the demonstration was stopped; delete its folder and start it again")
    runs = [
        finished_run(folder, folder.recipe(), label)
        for folder, label in ((RunFolder(supervised.folder), "Supervised"), (RunFolder(dense.folder), "Dense Teacher"))
    ]
    data = open_data(runs[-1].recipe.data)
    before, after = (result.metrics["teacher/AP"] for result in (supervised, dense))
    page = output / "report.html"
    report_runs(
        page,
        runs,
        title="Dense Teacher and Supervised on Digits",
        summary=(
            f"With {len(data.labeled.images)} labeled images, {len(data.unlabeled):,} unlabeled ones bring the "
            f"detector from {before:.1f} to {after:.1f} AP ({after - before:+.1f})."
        ),
        data=data,
    )
    rows = [("Supervised", supervised.metrics), ("Dense Teacher", dense.metrics)]
    return DemoOutcome(rows, page)


def scaled_to(steps: int) -> list[str]:
    """The digits recipe's schedule for another number of steps."""
    recipe = load_recipe("digits")
    share = steps / int(recipe.schedule.max_steps)
    method, schedule = recipe.method.model_dump(), recipe.schedule
    scaled = {
        "schedule.max_steps": steps,
        "schedule.evaluate_every": max(1, round(schedule.evaluate_every * share)),
        "method.burn_in": round(method["burn_in"] * share),
        "method.ramp": round(method["ramp"] * share),
        "ema.start": round(int(recipe.ema.start) * share),
    }
    return [f"{key}={value}" for key, value in scaled.items()]
