"""What ``denseteacher suggest`` is worth: rounds of labels for the images that it picks, against as many random ones.

    python benchmarks/suggest.py [--data digits] [--seeds 1 2 3] [--rounds 3] [--count 20] [--steps 1200]
    python benchmarks/suggest.py --data masks --weights weights/mobilenetv2_100.safetensors

Labeling is simulated: the images of a pool have labels, which a run gets to see once they are picked. Both ways begin
with the same 20 random images and the same run (``start``). A round adds 20 images, picked from the rest by the last
run of its own or at random, and trains anew on all labels, the rest unlabeled. A seed is a start, a draw of the random
images and a run. A run is evaluated once, at its end, so that AP is not that of the best of several. Trains what is
missing (a call that was stopped goes on) and writes ``results/suggest.json`` after every run, with the rows of all data
sets whose runs are below ``--output``; labels of other data than digits end in the name of the data.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

import denseteacher
from denseteacher.data.open import TrainingData, open_data
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.evaluate import read_evaluation
from denseteacher.runs.folder import RunFolder
from real import DATA, SOURCES
from result_file import write_result

METRICS = ("AP", "AP50", "AP75")
START = "start"
SUGGESTED, RANDOM = "suggested", "random"
STEPS = {"digits": 1200, "masks": 800}
"""Steps of a run where they are not given."""


def main() -> None:
    """Trains what is missing, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(STEPS), default="digits")
    parser.add_argument("--root", type=Path, default=DATA, help="folder that holds masks/")
    parser.add_argument("--weights", type=Path, help="ImageNet weights of the backbone of masks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=20, help="labeled images at the start, and more a round")
    parser.add_argument("--steps", type=int, help="of a run")
    parser.add_argument("--output", type=Path, default=Path("runs/suggest"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    if arguments.data == "masks" and arguments.weights is None:
        parser.error("masks needs --weights, as weights/mobilenetv2_100.safetensors")
    arguments.steps = arguments.steps or STEPS[arguments.data]
    for seed in arguments.seeds:
        everything = open_data(load_recipe(arguments.data, keys(arguments, seed) | {"data.split": "none"}).data)
        ids = np.random.default_rng(seed).permutation([image.id for image in everything.labeled.images]).tolist()
        for strategy, number in runs(arguments.rounds):
            folder = place(arguments.output, arguments.data, seed, strategy, number)
            if not RunFolder(folder / "run").is_finished:
                train(arguments, seed, folder, labeled_ids(arguments, everything, seed, strategy, number, ids))
            write(arguments)


def runs(rounds: int) -> Iterator[tuple[str, int]]:
    """Strategy and round of each run of a seed, in the order in which they are trained."""
    yield START, 0
    for number in range(1, rounds + 1):
        yield SUGGESTED, number
        yield RANDOM, number


def place(output: Path, data: str, seed: int, strategy: str, number: int) -> Path:
    """Folder of a run, of the ids of its labeled images, and of what it suggests."""
    return output / data / f"{seed}-{strategy}-{number}"


def keys(arguments: argparse.Namespace, seed: int) -> dict[str, Any]:
    """What all runs of a seed share, over the recipe of the data."""
    steps = arguments.steps
    common = {"seed": seed, "data.count": None, "schedule.max_steps": steps, "schedule.evaluate_every": steps}
    common["runtime.threads"] = 1
    if arguments.data == "masks":
        weights = str(arguments.weights.resolve())
        return common | {"data.root": str((arguments.root / "masks").resolve()), "detector.pretrained": weights}
    # the recipe's lengths, for other steps than its 2,400
    burn_in = max(1, steps * 5 // 12)
    lengths = {"method.burn_in": burn_in, "method.ramp": max(1, steps // 8), "ema.start": burn_in // 2}
    return common | lengths | {"optim.warmup_steps": min(100, max(1, steps // 12))}


def labeled_ids(
    arguments: argparse.Namespace, everything: TrainingData, seed: int, strategy: str, number: int, ids: list[int]
) -> list[int]:
    """Ids of the labeled images of a run.

    Args:
        arguments: Of the command line.
        everything: All images, all of them labeled.
        seed: Of the run.
        strategy: How its images were picked.
        number: Its round.
        ids: All ids in a random order.
    """
    count = arguments.count
    if strategy != SUGGESTED:
        return ids[: count * (number + 1)]
    before = place(arguments.output, arguments.data, seed, SUGGESTED if number > 1 else START, max(0, number - 1))
    labeled = json.loads((before / "labeled.json").read_text())
    by_file = {str(image.path.absolute()): image.id for image in everything.labeled.images}
    pool, picked = before / "pool.txt", before / "picked"
    if not (picked / "suggested.html").is_file():  # which is written last
        shutil.rmtree(picked, ignore_errors=True)
        pool.write_text("".join(f"{file}\n" for file, id_ in by_file.items() if id_ not in set(labeled)))
        denseteacher.suggest(before / "run", pool, output=picked, count=count)
    picks = json.loads((picked / "suggested.json").read_text())["picks"]
    return labeled + [by_file[pick["file"]] for pick in picks]


def train(arguments: argparse.Namespace, seed: int, folder: Path, labeled: list[int]) -> None:
    """Trains a run, or trains it on."""
    folder.mkdir(parents=True, exist_ok=True)
    split = (folder / "labeled.json").resolve()
    split.write_text(json.dumps(labeled))
    changes = keys(arguments, seed) | {"data.split": str(split)}
    overrides = [*(f"{key}={json.dumps(value)}" for key, value in changes.items()), *arguments.overrides]
    run = RunFolder(folder / "run")
    denseteacher.train(arguments.data, output=run.path, overrides=overrides, resume=run.has_checkpoint)


def write(arguments: argparse.Namespace) -> None:
    """Writes the results file from the runs that are finished."""
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    for data in STEPS:
        suffix = "" if data == "digits" else f", {data}"
        own: dict[str, dict[int, float]] = {}
        for strategy, number in runs(arguments.rounds):
            found = {
                seed: read_evaluation(RunFolder(place(arguments.output, data, seed, strategy, number) / "run"))
                for seed in arguments.seeds
            }
            done = {seed: one.metrics for seed, one in found.items() if one is not None}
            if done:
                steps = max(one.step for one in found.values() if one is not None)
                label = f"{strategy}, round {number}{suffix}"
                values = {metric: [metrics[metric] for metrics in done.values()] for metric in METRICS}
                rows.append({"label": label, "seeds": list(done), "values": values, "data": data})
                rows[-1] |= {"labeled_images": arguments.count * (number + 1), "steps": steps}
                own[f"{strategy} {number}"] = dict(zip(done, values["AP"], strict=True))
        for number in range(1, arguments.rounds + 1):
            picked, drawn = (own.get(f"{strategy} {number}", {}) for strategy in (SUGGESTED, RANDOM))
            shared = sorted(picked.keys() & drawn.keys())
            if shared and any(drawn[seed] for seed in shared):
                ratio = mean(picked[seed] for seed in shared) / mean(drawn[seed] for seed in shared)
                ratios[f"suggested over random, round {number}{suffix}"] = round(ratio, 4)
    details = {"data": f"Digits small, 4,200 images; {SOURCES['masks']}"}
    path = write_result("suggest", rows, ratios, metrics=list(METRICS), **details)
    print(path, {row["label"]: row["values"]["AP"] for row in rows})


if __name__ == "__main__":
    main()
