"""The demonstration: what unlabeled images are worth, on the built-in Digits data."""

from pathlib import Path
from typing import NamedTuple

from denseteacher import api
from denseteacher.data.sources import open_data
from denseteacher.errors import InputError
from denseteacher.methods import DenseTeacher
from denseteacher.recipe import dump_recipe, load_recipe
from denseteacher.report.page import environment_text, examples, run_view, write_report

_FOLDERS = {"dense_teacher": "Dense Teacher", "supervised": "Supervised"}


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
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise InputError(f"{output} is not empty: choose another --output; nothing was changed")
    shared = [*scaled_to(steps), *overrides]
    dense = api.train("digits", output=output / "dense_teacher", overrides=shared)
    if dense.stopped_by is None:
        supervised = api.train(
            "digits",
            output=output / "supervised",
            overrides=[*shared, "method.name=supervised"],
            burn_in_from=dense.folder,
        )
    if dense.stopped_by is not None or supervised.stopped_by is not None:
        raise InputError("the demonstration was stopped; delete its folder and start it again")
    rows = [("Supervised", supervised.metrics), ("Dense Teacher", dense.metrics)]
    report = output / "report.html"
    recipe = load_recipe(dense.folder / "recipe.yaml")
    data = open_data(recipe.data)
    gain = dense.metrics["teacher/AP"] - supervised.metrics["teacher/AP"]
    write_report(
        report,
        title="Dense Teacher and Supervised on Digits",
        summary=(
            f"With {len(data.labeled.images)} labeled images, {len(data.unlabeled)} unlabeled ones bring the detector "
            f"from {supervised.metrics['teacher/AP']:.1f} to {dense.metrics['teacher/AP']:.1f} AP ({gain:+.1f})."
        ),
        runs=[
            run_view(supervised.folder, _FOLDERS["supervised"]),
            run_view(dense.folder, _FOLDERS["dense_teacher"]),
        ],
        examples=examples(data.validation, data.labeled.categories),
        unlabeled=data.unlabeled[:6],
        method=recipe.method if isinstance(recipe.method, DenseTeacher) else None,
        recipe=dump_recipe(recipe),
        environment=environment_text(dense.folder),
    )
    return DemoOutcome(rows, report)


def scaled_to(steps: int) -> list[str]:
    """The digits recipe's schedule for another number of steps."""
    recipe = load_recipe("digits")
    assert isinstance(recipe.method, DenseTeacher)
    share = steps / int(recipe.schedule.max_steps)
    scaled = {
        "schedule.max_steps": steps,
        "schedule.evaluate_every": max(1, round(recipe.schedule.evaluate_every * share)),
        "method.burn_in": round(int(recipe.method.burn_in) * share),
        "method.ramp": round((recipe.method.ramp or 0) * share),
        "ema.start": round(int(recipe.ema.start) * share),
    }
    return [f"{key}={value}" for key, value in scaled.items()]
