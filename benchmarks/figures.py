"""The figures of docs/figures.md, and their numbers as results files.

    python benchmarks/figures.py --tables RESULTS_OR_REPRODUCED --run FCOS=RUN_FOLDER [--run RetinaNet=RUN_FOLDER]

Runs are of Dense Teacher on Digits, with checkpoints along the way. Pictures are those of the first one; each run
gets a ``results/figures_LABEL.json``.
"""

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from denseteacher.analysis.analyze import analyze
from denseteacher.recipes.schema import load_recipe
from result_file import write_result

PICTURES = Path(__file__).parent.parent / "docs" / "images"
DATA = "Digits small: 128 of the 4,000 unlabeled images, with the labels that the split hid"
SHARES = ("true_positives", "right_class", "hard_negatives", "foreground_selected", "missed_objects")
Rows = dict[str, dict[str, float | None]]


def main() -> None:
    """Draws and measures everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="folder with fig2a and fig2b")
    parser.add_argument("--run", action="append", required=True, metavar="LABEL=FOLDER")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep(analyze("fig2ab", tables=arguments.tables, output=Path(tempfile.mkdtemp())).picture)
    for number, text in enumerate(arguments.run):
        label, _, folder = text.partition("=")
        found = {
            name: analyze(name, [folder], output=tempfile.mkdtemp()) for name in ("fig2cd", "fig3", "fig4", "region")
        }
        numbers = {name: json.loads(one.numbers.read_text()) for name, one in found.items()}
        if number == 0:
            for one in found.values():
                keep(one.picture)
        seed = load_recipe(Path(folder) / "recipe.yaml").seed
        rows = [
            {"label": row, "seeds": [seed], "values": {name: [value] for name, value in values.items()}}
            for row, values in rows_of(numbers).items()
        ]
        summaries = {name: one.summary for name, one in found.items()}
        print(write_result(f"figures_{label.lower()}", rows, {}, data=DATA, summaries=summaries))


def keep(picture: Path) -> None:
    """Puts a picture into the documentation, where all are called ``fig...``."""
    name = picture.name if picture.name.startswith("fig") else f"fig_{picture.name}"
    shutil.copyfile(picture, PICTURES / name)


def rows_of(numbers: dict[str, dict[str, Any]]) -> Rows:
    """The numbers of all figures, a row a threshold, bin or step."""
    rows: Rows = {}
    errors = numbers["fig2cd"]
    for place, threshold in enumerate(errors["thresholds"]):
        rows[f"fig2cd, threshold {threshold}"] = {
            "false positives": errors["false_positives"][place],
            "false negatives": errors["false_negatives"][place],
            "objects": errors["objects"],
        }
    assigned = numbers["fig3"]
    rows["fig3"] = {
        key: assigned[key] for key in ("disagreement", "both", "truth_alone", "pseudo_alone", "other_class")
    }
    for level in assigned["levels"]:
        rows[f"fig3, stride {level['stride']}"] = {key: level[key] for key in ("disagreement", "foreground")}
    for one in assigned["by_iou"]:
        rows[f"fig3, IoU {one['from']} to {one['to']}"] = {key: one[key] for key in ("disagreement", "pairs")}
    rows["fig4"] = {key: numbers["fig4"][key] for key in SHARES}
    for step in numbers["region"]["steps"]:
        rows[f"region, step {step['step']}"] = {key: step[key] for key in SHARES}
    calibration = numbers["region"]["calibration"]
    rows["region, calibration error"] = {kind: one["ece"] for kind, one in calibration.items()}
    return rows


if __name__ == "__main__":
    main()
