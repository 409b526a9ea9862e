"""What missing labels cost, and what ``data.labels_complete: false`` gives back: a third of the boxes is removed.

    python benchmarks/partly_labeled.py --weights weights/mobilenetv2_100.safetensors [--seeds 1 2 3] [--steps 1200]

Three rows of the recipe ``masks`` (see ``real.py``): all labels, a third of the boxes
removed at random, and the same boxes removed with ``data.labels_complete: false``. The labels of the validation images
stay complete. A seed is a split, a draw of the removed boxes and a run. Trains what is missing (a call that was stopped
goes on) and writes ``results/partly_labeled.json`` after every run.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

import denseteacher
from denseteacher.data.open import open_data
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.evaluate import read_evaluation
from denseteacher.runs.folder import RunFolder
from real import DATA, SOURCES
from result_file import write_result

SHARE = 1 / 3
"""Share of the boxes that is removed."""
METRICS = ("AP", "AP50", "AP75")
COMPLETE = "complete labels"
ROWS = (
    (COMPLETE, False, True),
    ("a third removed", True, True),
    ("a third removed, labels_complete: false", True, False),
)
"""Label, whether boxes are removed, and ``data.labels_complete``."""


def main() -> None:
    """Trains what is missing, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of the recipe's backbone")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds masks/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="each is a split and a seed")
    parser.add_argument("--steps", type=int, help="steps a run; those of the recipe if not given")
    parser.add_argument("--row", dest="rows", action="append", default=[], help="train only rows with this text")
    parser.add_argument("--output", type=Path, default=Path("runs/partly_labeled"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        common, partly = prepare(arguments, seed)
        for number, (label, removed, complete) in enumerate(ROWS):
            folder = RunFolder(arguments.output / f"{seed}-{number}")
            wanted = not arguments.rows or any(text in label for text in arguments.rows)
            if wanted and not folder.is_finished:
                changes = ({"data.labeled": str(partly)} if removed else {}) | {"data.labels_complete": complete}
                keys = [f"{key}={json.dumps(value)}" for key, value in (common | changes).items()]
                overrides = [*keys, *arguments.overrides]
                denseteacher.train("masks", output=folder.path, overrides=overrides, resume=folder.has_checkpoint)
            write(arguments)


def prepare(arguments: argparse.Namespace, seed: int) -> tuple[dict[str, Any], Path]:
    """The keys that the rows of a seed share, and its labels without a third of the boxes.

    The split is stratified by the boxes, so it is made of the complete ones and named by its ids in all rows.
    """
    root = (arguments.data / "masks").resolve()
    folder = (arguments.output / f"labels-{seed}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    recipe = load_recipe("masks", {"data.root": str(root), "data.fold": seed})
    assert recipe.data.labeled is not None
    content = json.loads((root / recipe.data.labeled).read_text())
    kept = np.random.default_rng(seed).random(len(content["annotations"])) >= SHARE
    content["annotations"] = [one for one, stays in zip(content["annotations"], kept, strict=True) if stays]
    partly, split = folder / "partly.json", folder / "split.json"
    partly.write_text(json.dumps(content))
    split.write_text(json.dumps(open_data(recipe.data).split.labeled_ids))
    keys = {"seed": seed, "data.root": str(root), "data.split": str(split), "data.count": None}
    keys["detector.pretrained"] = str(arguments.weights.resolve())
    return keys if arguments.steps is None else keys | {"schedule.max_steps": arguments.steps}, partly


def write(arguments: argparse.Namespace) -> None:
    """Writes the results file from the runs that are finished."""
    rows: list[dict[str, Any]] = []
    for number, (label, _, _) in enumerate(ROWS):
        found = {seed: read_evaluation(RunFolder(arguments.output / f"{seed}-{number}")) for seed in arguments.seeds}
        done = {seed: one.metrics for seed, one in found.items() if one is not None}
        values = {metric: [metrics[metric] for metrics in done.values()] for metric in METRICS}
        rows.append({"label": label, "seeds": list(done), "values": values})
    shared = [seed for seed in arguments.seeds if all(seed in row["seeds"] for row in rows)]
    ratios = {}
    if shared:
        means = [mean(row["values"]["AP"][row["seeds"].index(seed)] for seed in shared) for row in rows]
        ratios = {
            f"{label} over {COMPLETE}": means[number] / means[0] for number, (label, *_) in enumerate(ROWS) if number
        }
    details = {"data": SOURCES["masks"], "weights": arguments.weights.name, "overrides": arguments.overrides}
    path = write_result("partly_labeled", rows, ratios, metrics=list(METRICS), steps=arguments.steps, **details)
    print(path, {row["label"]: row["values"]["AP"] for row in rows})


if __name__ == "__main__":
    main()
