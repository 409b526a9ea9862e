"""What a published step would take on an H100: projected from counted operations, not measured.

    python benchmarks/projection.py

Counts the operations of one step of 16 + 16 images at 800 x 1344 (48 views through the student, 16 through the
teacher) on tensors without storage, and the memory that its tensors take with convolutions and normalizations in bf16.
Speeds are what the counted operations give at a share of the data sheet's peak; about 35 % is what the best public
entry for this kind of network reaches. For 32 strong views it counts the bytes that the operators read and write.
Writes ``results/projection.json``.
"""

import argparse
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from denseteacher.check.cost import step_memory
from denseteacher.data.augment.strong import StrongView
from denseteacher.data.randomness import Draw
from denseteacher.detectors import shape_detector
from denseteacher.recipes.schema import load_recipe
from denseteacher.structures import ImageBatch
from denseteacher.training.throughput import data_sheet_speed, pass_flops
from result_file import write_result

CANVAS, LABELED, UNLABELED, CLASSES, BOXES = (800, 1344), 16, 16, 80, 20
GPU, BANDWIDTH = "H100", 3.35e12  # bytes/s of its memory, from the data sheet
SHARES = (0.20, 0.35, 0.45)
STEPS = 180_000
aten = torch.ops.aten
_OF_RESULT = (aten.index_select.default, aten.gather.default)
_IN_BF16 = (torch.conv2d, torch.nn.functional.group_norm)


def main() -> None:
    """Counts and writes."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    peak = data_sheet_speed(GPU)
    assert peak is not None
    rows = [{"label": f"{name} R50", "seeds": [0], "values": projected(name, peak)} for name in ("FCOS", "RetinaNet")]
    bytes_moved = strong_view_bytes(load_recipe("coco_standard").augment.strong)
    ratios = {
        "strong_views_gb_moved": round(bytes_moved / 1e9, 1),
        "strong_views_ms_at_80_percent_of_bandwidth": round(1000 * bytes_moved / (0.8 * BANDWIDTH), 1),
    }
    for row in rows:
        print(row)
    print(ratios)
    print(
        write_result(
            "projection",
            rows,
            ratios,
            metrics=list(rows[0]["values"]),
            data=f"PROJECTED from counted operations for one {GPU} ({peak:g} TFLOP/s in bf16), not measured: "
            f"{LABELED} + {UNLABELED} images of {CANVAS[0]} x {CANVAS[1]}",
            projected=True,
            peak_tflops=peak,
        )
    )


def projected(name: str, peak: float) -> dict[str, list[float]]:
    """Operations and memory of a step, and what follows from them at each share of the peak."""
    recipe = load_recipe("coco_standard", ["detector.pretrained=false", f"detector.name={name.lower()}"])
    flops = pass_flops(recipe.detector.build(CLASSES).train(), CANVAS)
    pixels = CANVAS[0] * CANVAS[1]
    tflop = pixels * (flops.training * (2 * LABELED + UNLABELED) + flops.forward * UNLABELED) / 1e12
    student = shape_detector(recipe.detector, CLASSES)
    with _Autocast():
        memory = step_memory(recipe, student, CANVAS, BOXES).parts[1]
    values = {"TFLOP a step": tflop, "GiB of tensors": memory / 2**30}
    values |= {f"steps/s at {share:.0%}": share * peak / tflop for share in SHARES}
    values |= {f"hours at {share:.0%}": STEPS * tflop / (share * peak) / 3600 for share in SHARES}
    return {key: [round(value, 2)] for key, value in values.items()}


def strong_view_bytes(strong: StrongView, images: int = 32, steps: int = 5) -> float:
    """Mean bytes that the operators of a batch's strong views read and write on a GPU."""
    batch = ImageBatch(
        torch.empty((images, 3, *CANVAS), dtype=torch.uint8, device="meta"),
        torch.empty((images, 2), dtype=torch.int64, device="meta"),
    )
    with _Traffic() as traffic:
        for step in range(steps):
            strong(batch, seed=0, step=step, samples=range(images), draw=Draw.UNLABELED_STRONG)
    total: int = traffic.bytes
    return total / steps


class _Autocast(TorchFunctionMode):
    """Autocast for tensors without storage: the operators whose results are kept for the backward pass."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _IN_BF16:
            args, kwargs = tree_map_only(Tensor, Tensor.bfloat16, (args, kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Traffic(TorchDispatchMode):
    """Sums the tensors of every operator that touches their values; of indexed ones the part that it touches."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _OF_RESULT:
            touched: Any = (result, result)
        elif func is aten.index_copy_.default:
            touched = (args[3], args[3])
        else:
            touched = () if func.is_view else (args, kwargs, result)
        for one in tree_leaves(touched):
            if isinstance(one, Tensor) and one.device.type == "meta":
                self.bytes += one.numel() * one.element_size()
        return result


if __name__ == "__main__":
    main()
