"""How the cost of a step grows with batch, resolution, classes and boxes.

    python benchmarks/step_sizes.py [--rounds 3]

On a CPU with the small network of Digits; on a GPU with ResNet-50. Each size is a process of its own, since a CPU's
peak memory never falls. Writes ``results/step_sizes_cpu.json`` or ``results/step_sizes_gpu.json``.
"""

import argparse
import json
import subprocess
import sys

import torch

from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.benchmark import Size
from harness.step import measure_step
from result_file import write_result

ON_GPU = torch.cuda.is_available()
BASE = {"images": 8, "side": 640 if ON_GPU else 96, "classes": 80, "boxes": 8}
SWEEPS = {
    "images": [1, 2, 4, 8, 16, 32],
    "side": [320, 640, 960, 1280] if ON_GPU else [64, 96, 192, 288],
    "classes": [1, 10, 80, 300, 1000],
    "boxes": [0, 1, 10, 100, 500],
}


def measure(images: int, side: int, classes: int, boxes: int, rounds: int) -> dict[str, float]:
    """What one size costs."""
    if ON_GPU:
        keys = ["detector.pretrained=false", "method.group_size=null", "runtime.precision=auto"]
        recipe = load_recipe("coco_standard", keys)
    else:
        recipe = load_recipe("digits", ["runtime.threads=1", "runtime.precision=fp32"])
    found = measure_step(recipe, Size(images, images, side, side, boxes), classes=classes, rounds=rounds)
    return {
        "ms a step": 1000 * found.seconds["step"],
        "times bare": found.ratios["step_over_bare"],
        "peak MiB": 1024 * found.peak_gib,
    }


def main() -> None:
    """Measures all sweeps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", help="a size as JSON: measures it and prints")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one), rounds=arguments.rounds)))
        return
    rows = []
    for name, values in SWEEPS.items():
        for value in values:
            size = json.dumps(BASE | {name: value})
            command = [sys.executable, __file__, "--rounds", str(arguments.rounds), "--one", size]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found = json.loads(output.splitlines()[-1])
            rows.append(
                {
                    "label": f"{name} {value}",
                    "seeds": [0],
                    "values": {key: [float(f"{number:.4g}")] for key, number in found.items()},
                }
            )
            print(rows[-1]["label"], found, flush=True)
    device = "gpu" if ON_GPU else "cpu"
    metrics = ["ms a step", "times bare", "peak MiB"]
    print(
        write_result(
            f"step_sizes_{device}",
            rows,
            {},
            metrics=metrics,
            base=BASE,
            data="made-up images of Dense Teacher steps, images labeled and as many unlabeled",
        )
    )


if __name__ == "__main__":
    main()
