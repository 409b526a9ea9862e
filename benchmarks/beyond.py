"""What came after the paper: methods, what each part adds to Dense Teacher, and detectors (the experiment ``beyond``).

    python benchmarks/beyond.py digits [--folds 1 2 3] [--jobs 2] [--row TEXT]... [--output RUNS]
    python benchmarks/beyond.py masks|bccd --weights weights/mobilenetv2_100.safetensors [--data DATA]
    python benchmarks/beyond.py digits --sweep
    python benchmarks/beyond.py digits --time 3

Trains what is missing (see ``denseteacher reproduce``) and writes ``results/NAME_beyond.json`` after every call, with
the rows that are finished. ``--sweep`` trains the methods that have a threshold with each of a few, on a fold that no
table uses; its AP stand in the results file of the next call. ``--time N`` trains nothing to its end: it measures a
step of every row in N rounds of turns in one process, at full weight, and keeps the medians, which the next call puts
beside the rows.
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
import yaml

from denseteacher.experiments.reproduce import make_plan, reproduce
from denseteacher.experiments.schema import load_experiment
from denseteacher.experiments.table import content
from denseteacher.recipes.schema import dump_recipe
from denseteacher.runs.folder import RunFolder
from method_steps import seconds
from real import DATA, SOURCES
from result_file import write_result

TIME = "ms a step"
ABOUT = {
    "digits": "Digits small: 200 labeled, 4,000 unlabeled, 300 validation images, 1,600 steps",
    "masks": f"{SOURCES['masks']}; 40 labeled images, 1,200 steps",
    "bccd": f"{SOURCES['bccd']}; 20 labeled images, 1,200 steps",
}
SWEEP_FOLD = 9
SWEPT = {"Unbiased Teacher": (0.3, 0.5, 0.6, 0.7), "MixPL": (0.3, 0.4, 0.55, 0.7)}
COMPARED = ("Supervised", "Unbiased Teacher", "Dense Teacher")


def main() -> None:
    """Trains, or measures steps, and writes the results file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=list(ABOUT))
    parser.add_argument("--folds", type=int, nargs="+", default=[1, 2, 3], help="each is a split and a seed")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--row", dest="rows", action="append", default=[], help="only rows with this text")
    parser.add_argument("--weights", type=Path, help="ImageNet weights of the photographs' backbone")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds masks/ and bccd/")
    parser.add_argument("--output", type=Path, default=Path("runs/beyond"))
    parser.add_argument("--sweep", action="store_true", help=f"try thresholds on fold {SWEEP_FOLD} instead")
    parser.add_argument("--time", type=int, default=0, metavar="N", help="measure steps in N rounds instead")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--result", help="name of the results file; NAME_beyond if not given")
    arguments = parser.parse_args()
    overrides = list(arguments.overrides)
    if arguments.weights is not None:
        overrides.append(f"detector.pretrained={json.dumps(str(arguments.weights.resolve()))}")
    if arguments.name in SOURCES:
        overrides.append(f"data.root={json.dumps(str((arguments.data / arguments.name).resolve()))}")
    measured = arguments.output / f"{arguments.name}_steps.json"
    if arguments.time:
        measured.parent.mkdir(parents=True, exist_ok=True)
        before = json.loads(measured.read_text()) if measured.is_file() else {}
        measured.write_text(json.dumps(before | step_times(arguments, overrides)))
        return
    swept = arguments.output / f"{arguments.name}_sweep.json"
    if arguments.sweep:
        swept.parent.mkdir(parents=True, exist_ok=True)
        swept.write_text(json.dumps(threshold_sweep(arguments, overrides)))
        return
    times = json.loads(measured.read_text()) if measured.is_file() else {}
    sweep = json.loads(swept.read_text()) if swept.is_file() else {}
    table = trained(arguments, "beyond", arguments.folds, arguments.rows, overrides)
    write(arguments, table, times, sweep)


def trained(
    arguments: argparse.Namespace, experiment: str | Path, folds: list[int], rows: list[str], overrides: list[str]
) -> dict[str, Any]:
    """Table of an experiment, after its missing runs were trained.

    Raises:
        SystemExit: A run failed, or it was stopped.
    """
    result = reproduce(
        experiment,
        root=arguments.data / arguments.name if arguments.name in SOURCES else None,
        profile=arguments.name,
        folds=folds,
        output=arguments.output / arguments.name,
        jobs=arguments.jobs,
        rows=rows,
        overrides=overrides,
    )
    if result.stopped_by is not None or result.failures:
        raise SystemExit(f"{arguments.name}: {result.stopped_by or result.failures}")
    return content(result.table)


def threshold_sweep(arguments: argparse.Namespace, overrides: list[str]) -> dict[str, float]:
    """AP of each method that has a threshold at each of a few, on a fold that the tables don't use."""
    beyond = load_experiment("beyond")
    rows = tuple(
        row.model_copy(
            update={
                "label": f"{row.label}, {value}",
                arguments.name: (getattr(row, arguments.name) or {}) | {"method.threshold": value},
            }
        )
        for row in beyond.rows
        for value in SWEPT.get(row.label, ())
    )
    changes = {"name": "beyond-thresholds", "title": "Thresholds", "rows": rows, "gain_over": None}
    with tempfile.TemporaryDirectory() as temporary:
        experiment = Path(temporary) / "thresholds.yaml"
        experiment.write_text(yaml.safe_dump(beyond.model_copy(update=changes).model_dump(mode="json")))
        table = trained(arguments, experiment, [SWEEP_FOLD], [], overrides)
    return {row["label"]: row["values"]["AP"][0] for row in table["rows"]}


def write(
    arguments: argparse.Namespace, table: dict[str, Any], times: dict[str, float], sweep: dict[str, float]
) -> None:
    """Writes the results file from the runs that are finished."""
    rows = [row for row in table["rows"] if row["seeds"]]
    for row in rows:
        if row["label"] in times:
            row["values"][TIME] = [times[row["label"]]]  # a median of all rounds
        print(f"{row['label']:34} {mean(row['values']['AP']):5.1f}  {row['values']['AP']}  {times.get(row['label'])}")
    about = {"title": table["title"], "metrics": [*table["metrics"], TIME], "note": table["note"]}
    about |= {"data": ABOUT[arguments.name], "overrides": arguments.overrides}
    about |= {f"thresholds, AP on fold {SWEEP_FOLD}": sweep} if sweep else {}
    print(write_result(arguments.result or f"{arguments.name}_beyond", rows, gains(rows), **about))


def step_times(arguments: argparse.Namespace, overrides: list[str]) -> dict[str, float]:
    """Median milliseconds of a step of each chosen row, measured in turns."""
    torch.set_num_threads(1)
    plan = make_plan("beyond", profile=arguments.name, folds=[1], rows=arguments.rows, overrides=overrides)
    of_chosen_rows = {run.name for run in plan.runs}
    chosen = [cell for cell, runs in plan.cells if runs[0].name in of_chosen_rows]
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(arguments.time):
            for index, cell in enumerate(chosen):
                recipe = Path(temporary) / f"{index}.yaml"
                recipe.write_text(dump_recipe(cell.recipe))
                folder = RunFolder(Path(temporary) / f"{index}-{number}")
                steps = seconds(recipe, folder, 12, str(cell.recipe.runtime.precision))
                found.setdefault(cell.row.label, []).extend(steps)
    return {label: round(1000 * median(values), 1) for label, values in found.items()}


def gains(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Relative gain in mean AP of each row over the rows that it is compared with, over the seeds that both have."""
    found = {}
    by_label = {row["label"]: row for row in rows}
    for label, row in by_label.items():
        for base in COMPARED:
            other = by_label.get(base)
            shared = sorted(set(row["seeds"]) & set(other["seeds"])) if other is not None else []
            if other is not None and label != base and shared:
                ours, theirs = (
                    mean(one["values"]["AP"][one["seeds"].index(seed)] for seed in shared) for one in (row, other)
                )
                found[f"{label} over {base}"] = round(ours / theirs - 1, 4)
    return found


if __name__ == "__main__":
    main()
