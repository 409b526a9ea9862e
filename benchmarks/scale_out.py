"""What further processes cost: measured for two on this CPU, projected for up to 64 GPUs.

    python benchmarks/scale_out.py [--repeats 3] [--rounds 8] [--mfu 0.35]

Measured: steps of Digits with gloo, one thread and the same batch a process. Writes ``results/scale_out_cpu.json``.
Projected, since no GPU cluster is at hand: the published step from counted operations and counted bytes, under the
assumptions that ``results/scale_out_projected.json`` names.
"""

import argparse
import json
import os
import subprocess
import sys
from operator import truediv
from statistics import median
from typing import Any

import torch
from torch import distributed as dist
from torch.profiler import ProfilerActivity, profile

from denseteacher.recipes.schema import Recipe, load_recipe
from denseteacher.runs.benchmark import Size, made_up_step, make_student_teacher, open_runtime
from denseteacher.training.student_teacher import StudentTeacher
from denseteacher.training.throughput import pass_flops
from harness.timing import in_turns, medians
from result_file import write_result

DIGITS = Size(8, 8, 96, 96, 4)
TINY_R50 = Size(2, 2, 128, 128, 4)  # what it exchanges depends on the network alone
KINDS = {"1": (1, 1), "2, each a run of its own": (2, 1), "2 of one run": (1, 2)}
"""Runs at once, and processes of each."""
CANVAS = (800, 1344)
LABELED, UNLABELED = 16, 16  # of the published step; each labeled image in two views
GPUS = (1, 2, 4, 8, 16, 32, 64)
ASSUMED = {
    "peak TFLOP/s of a GPU": 989.4,
    "GPUs of a machine": 8,
    "GB/s of a ring within a machine": 300.0,
    "GB/s of a ring between machines": 40.0,
}


def main() -> None:
    """Measures, projects and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="times that processes are started, all kinds in turns")
    parser.add_argument("--rounds", type=int, default=8, help="steps that count in each of them")
    parser.add_argument("--mfu", type=float, default=0.35, help="of each GPU in the projection")
    parser.add_argument("--worker", choices=["times", "count"], help="is one of the processes that are measured")
    arguments = parser.parse_args()
    if arguments.worker:
        found = time_digits(arguments.rounds) if arguments.worker == "times" else count_published()
        if os.environ["RANK"] == "0":
            print(json.dumps(found))
        return
    repeats = range(arguments.repeats)
    turns = [{label: measure("times", *kind, arguments.rounds) for label, kind in KINDS.items()} for _ in repeats]
    exchanged = measure("count", 1, 2, 0)
    rows = [
        {
            "label": label,
            "seeds": list(repeats),
            "values": {metric: [round(one[label][metric], 3) for one in turns] for metric in turns[0][label]},
        }
        for label in KINDS
    ]
    one, apart, together = ([values[label]["ms a step"] for values in turns] for label in KINDS)
    ratios = {
        "together_over_apart": median(map(truediv, together, apart)),
        "together_over_one": median(map(truediv, together, one)),
        "r50_gradient_mb": exchanged["gradient bytes"] / 1e6,
        "r50_gradient_buckets": exchanged["buckets"],
        "r50_other_collectives": exchanged["other collectives"],
    }
    ratios = {name: float(f"{value:.4g}") for name, value in ratios.items()}
    metrics = list(rows[0]["values"])
    data = "processes of one thread, each with 8 + 8 images of 96 x 96, Digits' network, gloo; seeds are repetitions"
    print(write_result("scale_out_cpu", rows, ratios, data=data, metrics=metrics, rounds=arguments.rounds))
    print(project(exchanged["gradient bytes"], exchanged["buckets"], arguments.mfu))


def measure(what: str, runs: int, processes: int, rounds: int) -> dict[str, Any]:
    """What the first process of the first of several runs finds, all of which go on at once."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += [__file__, "--worker", what, "--rounds", str(rounds)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(runs)]
    outputs = [process.communicate()[0] for process in started]
    found: dict[str, Any] = json.loads(outputs[0].splitlines()[-1])
    print(runs, processes, found, flush=True)
    return found


def time_digits(rounds: int) -> dict[str, float]:
    """In each process: the step, the step without the exchange of gradients, and that exchange alone, in turns."""
    digits = load_recipe("digits", ["runtime.threads=1", "runtime.precision=fp32"])
    runtime = open_runtime(digits)
    student_teacher = make_student_teacher(digits, runtime, DIGITS, 10)
    loaded = made_up_step(DIGITS, 10, seed=runtime.rank)
    exchanged = collectives(student_teacher, DIGITS)
    pieces = {"step": lambda: student_teacher.train_step(loaded)}
    if runtime.world_size > 1:
        numbers = torch.zeros(exchanged["gradient bytes"] // 4)

        def quiet_step() -> None:
            with student_teacher.student.forward_module._forward_module.no_sync():
                student_teacher.train_step(loaded)

        pieces |= {"quiet": quiet_step, "all-reduce": lambda: dist.all_reduce(numbers)}
    seconds = medians(in_turns(pieces, rounds=rounds, warm=2, device=runtime.device))
    quiet, alone = seconds.get("quiet", seconds["step"]), seconds.get("all-reduce", 0.0)
    return {
        "ms a step": 1000 * seconds["step"],
        "ms of it for the exchange": 1000 * (seconds["step"] - quiet),
        "ms of the all-reduce alone": 1000 * alone,
        "MB exchanged": exchanged["gradient bytes"] / 1e6,
        "collectives": exchanged["buckets"] + exchanged["other collectives"],
    }


def count_published() -> dict[str, int]:
    """In each process: what the paper's network exchanges."""
    recipe = published()
    return collectives(make_student_teacher(recipe, open_runtime(recipe), TINY_R50, 80), TINY_R50)


def collectives(student_teacher: StudentTeacher, size: Size) -> dict[str, int]:
    """What a step exchanges with other processes, counted after DDP has ordered its buckets in a first one."""
    loaded = made_up_step(size, student_teacher.student.num_classes)
    student_teacher.train_step(loaded)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        student_teacher.train_step(loaded)
    shapes = [event.input_shapes[0] for event in profiler.events() if event.name.startswith("gloo:")]
    buckets = [shape[0] for shape in shapes if shape]
    return {
        "gradient bytes": 4 * sum(buckets),
        "buckets": len(buckets),
        "other collectives": len(shapes) - len(buckets),
    }


def published() -> Recipe:
    """The paper's network and method."""
    return load_recipe("coco_standard", ["detector.pretrained=false", "method.group_size=null", "runtime.device=cpu"])


def project(gradient_bytes: int, buckets: int, mfu: float) -> str:
    """The published step on 1 to 64 GPUs: counted work at a stated speed, and a ring all-reduce of the gradients.

    With overlap the exchange hides behind the backward pass, all of it but that of the last bucket.
    """
    flops = pass_flops(published().detector.build(80).train(), CANVAS)
    pixels = CANVAS[0] * CANVAS[1]
    trained = (2 * LABELED + UNLABELED) * flops.training * pixels
    backward = trained - (2 * LABELED + UNLABELED) * flops.forward * pixels
    total = trained + UNLABELED * flops.forward * pixels
    speed = mfu * ASSUMED["peak TFLOP/s of a GPU"] * 1e12
    rows = []
    for gpus in GPUS:
        inside = gpus <= ASSUMED["GPUs of a machine"]
        bandwidth = 1e9 * ASSUMED[f"GB/s of a ring {'within a machine' if inside else 'between machines'}"]
        ring = 2 * (gpus - 1) / gpus * gradient_bytes / bandwidth
        compute = total / speed
        each = compute + max(ring / buckets, ring - backward / speed)
        shared = total / gpus / speed + max(ring / buckets, ring - backward / gpus / speed)
        values = {
            "all-reduce, ms": [round(1000 * ring, 2)],
            "16 + 16 each, ms a step": [round(1000 * (compute + ring), 1)],
            "with overlap": [round(1000 * each, 1)],
            "% of linear": [round(100 * compute / each, 1)],
            "16 + 16 shared, with overlap": [round(1000 * shared, 1) if gpus <= LABELED else None],
        }
        rows.append({"label": str(gpus), "seeds": ["-"], "values": values})
    assumptions = ASSUMED | {"MFU": mfu, "TFLOP of a step": round(total / 1e12, 2), "gradient bytes": gradient_bytes}
    not_modeled = "latency, waiting for the slowest, lower MFU with few images a GPU, bandwidth shared with others"
    return str(
        write_result(
            "scale_out_projected",
            rows,
            {},
            device="projected, not measured",
            data=f"GPUs, FCOS R50, {LABELED} + {UNLABELED} images of {CANVAS[0]} x {CANVAS[1]}, bf16, fp32 gradients",
            metrics=list(rows[0]["values"]),
            assumptions=assumptions,
            not_modeled=not_modeled,
        )
    )


if __name__ == "__main__":
    main()
