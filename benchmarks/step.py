"""What a training step costs over its bare networks, over torchvision and over a PIL chain, on this machine.

    python benchmarks/step.py [--device cpu] [--rounds 5]

On a CPU a step is FCOS R50, 2 + 2 images at 320 x 416, and the strong views are measured at 800 x 1333 on one
thread; on a GPU it is the published 16 + 16 images at 800 x 1344 in bf16. Writes ``results/step_cpu.json`` or
``results/step_gpu.json``.
"""

import argparse

import torch

from denseteacher.benchmark.data import measure_data
from denseteacher.benchmark.peers import measure_strong_views, measure_supervised
from denseteacher.benchmark.scene import Size
from denseteacher.benchmark.step import measure_step
from denseteacher.benchmark.using import measure_evaluation
from denseteacher.recipe import load_recipe
from result_file import write_result

CLASSES = 80
PUBLISHED_STEPS = 180_000


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    on_gpu, rounds = arguments.device == "cuda", arguments.rounds
    size = Size(16, 16, 800, 1344, 8) if on_gpu else Size(2, 2, 320, 416, 8)
    keys = ["detector.pretrained=false", f"runtime.device={arguments.device}"]
    keys += [] if on_gpu else ["method.group_size=null", "runtime.precision=fp32"]
    rows, ratios = [], {}
    for detector in ("fcos", "retinanet"):
        recipe = load_recipe("coco_standard", [*keys, f"detector.name={detector}"])
        found = measure_step(recipe, size, classes=CLASSES, rounds=rounds)
        steps_per_s = 1 / found.seconds["step"]
        values = {
            "steps_per_s": steps_per_s,
            "mfu": found.mfu,
            "peak_gib": found.peak_gib,
            "tflop": found.tflop,
            "hours of 180,000 steps": PUBLISHED_STEPS * found.seconds["step"] / 3600,
            **{f"{part} s": seconds for part, seconds in found.seconds.items()},
        }
        rows.append({"label": f"{detector}, {found.precision}", "seeds": [0], "values": _lists(values)})
        if detector == "fcos":
            ratios |= found.ratios | {"steps_per_s": steps_per_s, "mfu": found.mfu, "peak_gib": found.peak_gib}
        else:
            ratios |= {f"retinanet_{name}": value for name, value in found.ratios.items()}
    recipe = load_recipe("coco_standard", keys)
    peers = Size(16, 0, 800, 1344, 8) if on_gpu else Size(4, 0, 320, 416, 8)
    supervised = measure_supervised(recipe, peers, classes=CLASSES, rounds=rounds)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    views = measure_strong_views(recipe.augment.strong, images=8, height=800, width=1333, rounds=2 * rounds)
    torch.set_num_threads(threads)
    for label, values in (("supervised FCOS R50", supervised), ("strong views, CPU, one thread", views)):
        own = {name: value for name, value in values.items() if "_over_" not in name}
        rows.append({"label": label, "seeds": [0], "values": _lists(own)})
        ratios |= {name: value for name, value in values.items() if "_over_" in name}
    rows.append({"label": "loader", "seeds": [0], "values": _lists(measure_data(recipe, steps=4 * rounds))})
    rows.append({"label": "COCO metrics, 5,000 x 100", "seeds": [0], "values": _lists(measure_evaluation())})
    rounded = {name: round(value, 4) for name, value in ratios.items()}
    for row in rows:
        print(row["label"], row["values"])
    print(rounded)
    name = "step_gpu" if on_gpu else "step_cpu"
    data = f"FCOS R50, {size.labeled} + {size.unlabeled} images of {size.height} x {size.width}"
    print(write_result(name, rows, rounded, data=data, size=size._asdict(), rounds=rounds, threads=threads))


def _lists(values: dict[str, float]) -> dict[str, list[float]]:
    return {name: [float(f"{value:.4g}")] for name, value in values.items()}


if __name__ == "__main__":
    main()
