"""What a step on a CPU gains where the C library keeps freed memory, and what it takes.

    python benchmarks/kept_memory.py [--rounds 3] [--steps 40]

Each measurement is a process of its own, since an option of the library holds for a process: with
``hardware.keep_freed_memory`` and without, in turns. Writes ``results/kept_memory.json``.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from statistics import median
from typing import Any

from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.benchmark import Size, made_up_step, make_student_teacher
from denseteacher.training import runtime
from result_file import write_result
from step import DENSE_TEACHER_ON_FCOS

SIZES = {
    "digits": [Size(8, 8, 96, 96), Size(8, 8, 64, 96), Size(8, 8, 96, 64)],
    "custom_small": [Size(2, 4, 256, 352), Size(2, 4, 352, 256), Size(2, 4, 288, 384), Size(2, 4, 192, 320)],
}
"""Canvases of the steps by recipe, which follow one another as in a run."""
_WARM = 8


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--one", nargs=2, metavar=("RECIPE", "KEEP"), help="one measurement, printed as JSON")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(one(arguments.one[0], keep=arguments.one[1] == "True", steps=arguments.steps)))
        return
    rows, ratios = [], {}
    for name in SIZES:
        found: dict[bool, list[dict[str, float]]] = {False: [], True: []}
        for keep in (False, True) * arguments.rounds:
            command = [sys.executable, __file__, "--one", name, str(keep), "--steps", str(arguments.steps)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found[keep].append(json.loads(done.stdout.splitlines()[-1]))
        for keep, label in ((False, "given back"), (True, "kept")):
            values = {key: [one[key] for one in found[keep]] for key in found[keep][0]}
            rows.append({"label": f"{name}, {label}", "seeds": list(range(arguments.rounds)), "values": values})
        for key in ("ms a step", "peak MiB"):
            before, after = (median(one[key] for one in found[keep]) for keep in (False, True))
            ratios[f"{name}, {key}, kept over given back"] = round(after / before, 4)
        print(rows[-2:], ratios, flush=True)
    data = "made-up images, Dense Teacher on FCOS, one thread, fp32"
    print(
        write_result("kept_memory", rows, ratios, metrics=["ms a step", "peak MiB"], data=data, steps=arguments.steps)
    )


def one(name: str, *, keep: bool, steps: int) -> dict[str, Any]:
    """Median processor time of a step, and the most memory that the process took."""
    if not keep:
        runtime.keep_freed_memory = lambda: None
    keys = ["runtime.threads=1", "runtime.precision=fp32", "runtime.device=cpu", "detector.pretrained=false"]
    recipe = load_recipe(name, [*keys, *DENSE_TEACHER_ON_FCOS])
    student_teacher = make_student_teacher(recipe, runtime.Runtime(recipe.runtime), SIZES[name][0], 10)
    loaded = [made_up_step(size, 10) for size in SIZES[name]]
    times = []
    for step in range(_WARM + steps):
        start = time.process_time()
        student_teacher.train_step(loaded[step % len(loaded)])
        times.append(1000 * (time.process_time() - start))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ms a step": median(times[_WARM:]), "peak MiB": peak}


if __name__ == "__main__":
    main()
