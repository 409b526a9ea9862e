"""The README's table: Supervised and three steps towards Dense Teacher, at the length of the demonstration.

    python benchmarks/digits_main.py [--steps 2400] [--seeds 1 2 3] [--processes 2] [--folder RUNS] [--precision auto]

For each seed the full method is trained first; the other rows start from its burn-in (the steps on labeled
images alone, which are the same for all) and have as many steps. Runs that are finished are not repeated.
"""

import argparse
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, stdev
from typing import get_args

from denseteacher.data.choices import Precision
from denseteacher.runs.demo import scaled_to
from denseteacher.runs.folder import RunFolder
from result_file import write_result

FULL = "Dense Teacher (region, cls+box)"
ROWS = {
    FULL: [],
    "Supervised": ["method.name=supervised"],
    "Dense Teacher (all, cls)": ["method.region=all", "method.box=false", "method.quality=false"],
    "Dense Teacher (region, cls)": ["method.box=false", "method.quality=false"],
}
ORDER = [*(label for label in ROWS if label != FULL), FULL]
METRICS = ("AP", "AP50", "AP75")


def folder_of(label: str, seed: int, arguments: argparse.Namespace) -> RunFolder:
    """The folder of a row with a seed."""
    return RunFolder(arguments.folder / f"{label.lower().translate(str.maketrans(' ,+', '___', '()'))}-{seed}")


def run(label: str, seed: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Trains one row with one seed, unless it is done, and returns its last evaluation."""
    folder = folder_of(label, seed, arguments)
    if not folder.is_finished:
        overrides = [
            *scaled_to(arguments.steps),
            f"seed={seed}",
            "runtime.workers=0",
            "runtime.threads=1",
            *ROWS[label],
        ]
        overrides.append(f"runtime.precision={arguments.precision}")
        command = [sys.executable, "-m", "denseteacher.cli", "train", "digits", "--output", str(folder)]
        if label != FULL:
            command += ["--burn-in-from", str(folder_of(FULL, seed, arguments))]
        if folder.exists:
            command += ["--resume"]
        for override in overrides:
            command += ["--set", override]
        start = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{label}, seed {seed}: {done.stderr[-2000:]}")
        print(f"{label}, seed {seed}: {time.monotonic() - start:.0f} s", flush=True)
    evaluations = [row for row in folder.rows() if "teacher/AP" in row]
    return evaluations[-1]


def main() -> None:
    """Runs everything and writes ``results/digits_main.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--folder", type=Path, default=Path("runs/digits_main"))
    parser.add_argument("--precision", choices=get_args(Precision), default="auto")
    arguments = parser.parse_args()
    start = time.monotonic()
    found = {}
    with ThreadPoolExecutor(arguments.processes) as pool:
        for labels in ([FULL], [label for label in ROWS if label != FULL]):  # the burn-ins come first
            jobs = {
                (label, seed): pool.submit(run, label, seed, arguments) for label in labels for seed in arguments.seeds
            }
            found |= {key: job.result() for key, job in jobs.items()}
    rows = []
    for label in ORDER:
        values = {
            name: [round(found[label, seed][key], 3) for seed in arguments.seeds]
            for name, key in [(metric, f"teacher/{metric}") for metric in METRICS] + [("student AP", "student/AP")]
        }
        spread = {f"{name} std": round(stdev(numbers), 3) for name, numbers in values.items() if len(numbers) > 1}
        means = {f"{name} mean": round(mean(numbers), 3) for name, numbers in values.items()}
        rows.append({"label": label, "seeds": arguments.seeds, "values": values, "summary": means | spread})
        print(f"{label:34} AP {means['AP mean']:5.1f}  {values['AP']}")
    supervised, full = (
        mean(next(row for row in rows if row["label"] == label)["values"]["AP"]) for label in ("Supervised", FULL)
    )
    print(f"gain over Supervised: {100 * (full / supervised - 1):.1f} %")
    path = write_result(
        "digits_main",
        rows,
        {"gain_over_supervised": full / supervised - 1},
        steps=arguments.steps,
        precision=folder_of(FULL, arguments.seeds[0], arguments).recipe().runtime.precision,
        minutes=round((time.monotonic() - start) / 60, 1),
        metrics=METRICS,
        data="Digits small: 200 labeled, 4,000 unlabeled, 300 validation images",
    )
    print(path)


if __name__ == "__main__":
    main()
