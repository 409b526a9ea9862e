"""What a step of each method costs on Digits, measured in turns in one process.

    python benchmarks/method_steps.py [--rounds 3] [--steps 24] [--precision auto]

Every round trains each row of the experiment ``methods`` for a few steps at full weight; a row's value is the median
over all of them, so that what else the machine does meanwhile hits all rows alike.
"""

import argparse
import tempfile
from pathlib import Path
from statistics import median
from typing import get_args

import torch

from denseteacher import train
from denseteacher.data.choices import Precision
from denseteacher.experiments.schema import cells, load_experiment
from denseteacher.recipes.schema import dump_recipe
from denseteacher.runs.folder import RunFolder
from result_file import write_result

WARM = 8  # steps, the first with unlabeled images among them


def seconds(recipe: Path, folder: RunFolder, steps: int, precision: str) -> list[float]:
    """Seconds of each step after the warm ones."""
    supervised = "name: supervised" in recipe.read_text()
    method = [] if supervised else ["method.burn_in=2", "method.ramp=0"]
    settings = [
        *method,
        f"schedule.max_steps={WARM + steps}",
        "schedule.log_every=1",
        "ema.start=1",
        "runtime.threads=1",
        "runtime.workers=0",
        f"runtime.precision={precision}",
    ]
    train(recipe, output=folder.path, overrides=settings)
    return [row["step_seconds"] for row in folder.rows() if row["step"] > WARM and "step_seconds" in row]


def main() -> None:
    """Measures all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    precision = arguments.precision
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(arguments.rounds):
            for index, cell in enumerate(cells(load_experiment("methods"), "digits")):
                recipe = Path(temporary) / f"{index}.yaml"
                recipe.write_text(dump_recipe(cell.recipe))
                folder = RunFolder(Path(temporary) / f"{index}-{number}")
                found.setdefault(cell.row.label, []).extend(
                    seconds(recipe, folder, arguments.steps, arguments.precision)
                )
                precision = folder.recipe().runtime.precision
    rows = [
        {"label": label, "seeds": [1], "values": {"ms a step": [round(1000 * median(values), 1)]}}
        for label, values in found.items()
    ]
    base = median(found["Supervised"])
    ratios = {f"{label} over Supervised": round(median(values) / base, 3) for label, values in found.items()}
    for row in rows:
        print(row["label"], row["values"])
    print(
        write_result(
            "method_steps", rows, ratios, metrics=["ms a step"], data="Digits small, one thread", precision=precision
        )
    )


if __name__ == "__main__":
    main()
