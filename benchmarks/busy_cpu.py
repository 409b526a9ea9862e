"""Steps a second of Digits on a CPU that other programs use too, by threads and by how they wait for each other.

    python benchmarks/busy_cpu.py [--seconds 20] [--busy 0 2]

Every setting runs in a process of its own, since OpenMP reads its settings once, beside as many endless loops as
``--busy`` says (one row each). Writes ``results/busy_cpu.json``: what was measured on a machine that others use as well
says which setting is better, not how fast it is; ``load`` is what the machine had to do before.
"""

import argparse
import os
import subprocess
import sys
import time

import torch

from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.benchmark import Size, made_up_step, make_student_teacher
from denseteacher.training.runtime import Runtime
from result_file import write_result

SIZE = Size(8, 8, 96, 96, 8)
SETTINGS: dict[str, tuple[int, dict[str, str]]] = {
    "spinning": (0, {}),
    "spinning shortly": (0, {"GOMP_SPINCOUNT": "10000"}),
    "sleeping": (0, {"OMP_WAIT_POLICY": "passive"}),
    "one thread": (1, {}),
}
"""By label: threads (0 as many as cores) and environment; "spinning shortly" is what ``denseteacher`` sets."""


def main() -> None:
    """Measures all settings, or in a process of its own one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2], help="endless loops beside")
    parser.add_argument("--one", type=int, help="measures with so many threads and prints")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(*measure(arguments.one, arguments.seconds))
        return
    load = os.getloadavg()[0]
    rows, ratios = [], {}
    for busy in arguments.busy:
        speeds = {}
        for label, (threads, environment) in SETTINGS.items():
            speeds[label], cores = measure_beside(busy, threads, environment, arguments.seconds)
            values = {"steps_per_s": [round(speeds[label], 3)], "cores used": [round(cores, 3)]}
            rows.append({"label": f"{label}, {busy} busy", "seeds": [0], "values": values})
            print(rows[-1], flush=True)
        ratios |= {f"{label}_over_spinning_{busy}_busy": speeds[label] / speeds["spinning"] for label in SETTINGS}
    ratios = {name: round(value, 3) for name, value in ratios.items()}
    settings = {label: {"threads": threads, **environment} for label, (threads, environment) in SETTINGS.items()}
    data = "made-up steps of the recipe digits, 8 + 8 images of 96 x 96"
    print(write_result("busy_cpu", rows, ratios, data=data, settings=settings, seconds=arguments.seconds, load=load))


def measure_beside(busy: int, threads: int, environment: dict[str, str], seconds: float) -> tuple[float, float]:
    """Steps a second, and cores used, of a process beside endless loops."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))} | environment
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    command = [sys.executable, __file__, "--one", str(threads), "--seconds", str(seconds)]
    try:
        output = subprocess.run(command, env=own, check=True, capture_output=True, text=True).stdout
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    speed, cores = output.split()[-2:]
    return float(speed), float(cores)


def measure(threads: int, seconds: float) -> tuple[float, float]:
    """Steps a second, and cores used, in this process."""
    recipe = load_recipe("digits", ["runtime.precision=fp32", "runtime.device=cpu"])
    student_teacher = make_student_teacher(recipe, Runtime(recipe.runtime), SIZE, 10)
    if threads:
        torch.set_num_threads(threads)
    loaded = made_up_step(SIZE, 10)
    for _ in range(2):
        student_teacher.train_step(loaded)
    start, used, steps = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        student_teacher.train_step(loaded)
        steps += 1
    wall = time.perf_counter() - start
    return steps / wall, (time.process_time() - used) / wall


if __name__ == "__main__":
    main()
