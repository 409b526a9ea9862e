"""What each trick of the training step gives: the time with it over the time without, side by side in one run.

    python benchmarks/tricks.py [--device cpu] [--rounds 3] [--skip-compile]

On a CPU a step is FCOS R50, 2 + 2 images at 320 x 416 in fp32 (about five minutes on two cores); on a GPU it is the
published 16 + 16 images at 800 x 1344 in bf16 (``PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True`` leaves room for
steps of different kinds in turns). Each row says what was expected before. Writes
``results/tricks_cpu.json`` or ``results/tricks_gpu.json``.
"""

import argparse
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, NamedTuple
from unittest.mock import patch

import timm
import torch
from torch import Tensor, nn

from denseteacher.data.loading.strong_views import with_strong_views
from denseteacher.detectors import FCOS, FCOSConfig, frozen_norm
from denseteacher.hardware import chosen_precision, this_machine
from denseteacher.ops.padding import real_area
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.benchmark import Size, as_loaded, made_up_step, make_student_teacher
from denseteacher.structures import ImageBatch
from denseteacher.training.runtime import Runtime, RuntimeConfig
from denseteacher.training.student_teacher import StudentTeacher
from harness.parts import StepParts
from harness.timing import in_turns, medians, ratio_of_medians
from result_file import write_result

CLASSES = 80
Works = dict[str, Callable[[], object]]


class Trick(NamedTuple):
    """One comparison."""

    label: str
    on: str
    """Names of two pieces of work."""
    off: str
    expected: tuple[float, float]
    """Time with over time without, on a CPU and on a GPU, as guessed before anything was measured."""


TRICKS = [
    Trick("channels_last, the step", "step", "step, NCHW", (0.95, 0.75)),
    Trick("frozen batch norm folded, the step", "step", "step, not folded", (0.93, 0.85)),
    Trick("bf16 autocast over fp32, the step", "step, bf16", "step, fp32", (0.55, 0.40)),
    Trick("torch.compile, the step", "step, compiled", "step", (1.05, 0.80)),
    Trick("one selection for the batch over one for 2 images, the step", "step", "step, group_size 2", (1.0, 1.0)),
    Trick("one pass over all views, the student's passes", "student", "student, three passes", (1.0, 0.97)),
    Trick("fused optimizer, its step", "SGD", "SGD, loop", (0.5, 0.1)),
    Trick("foreach EMA, its update", "EMA", "EMA, loop", (0.9, 0.1)),
]


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skip-compile", action="store_true")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    size = Size(16, 16, 800, 1344, 8) if on_gpu else Size(2, 2, 320, 416, 8)
    base: dict[str, Any] = {
        "detector.pretrained": False,
        "method.group_size": "null",
        "runtime.device": arguments.device,
        "runtime.precision": chosen_precision("auto", arguments.device, this_machine()),
    }
    work = steps(base, size, compiled=not arguments.skip_compile and "compile" in RuntimeConfig.model_fields)
    student_teacher = student_teacher_of(base, size)
    work |= parts_of(student_teacher, size)
    seconds = in_turns(work, rounds=arguments.rounds, device=student_teacher.runtime.device)
    seconds[f"step, {base['runtime.precision']}"] = seconds["step"]
    rows, ratios = [], {}
    for trick in TRICKS:
        if trick.on in seconds:
            rows.append(row_of(trick, seconds, on_gpu=on_gpu))
            ratios[trick.label] = round(rows[-1]["values"]["measured %"][0] / 100, 3)
            print(rows[-1]["label"], rows[-1]["values"])
    print(
        write_result(
            "tricks_gpu" if on_gpu else "tricks_cpu",
            rows,
            ratios,
            metrics=["expected %", "measured %", "ms with", "ms without"],
            data=f"FCOS R50, {size.labeled} + {size.unlabeled} images of {size.height} x {size.width}, "
            f"{base['runtime.precision']} where not said otherwise",
            rounds=arguments.rounds,
            threads=torch.get_num_threads(),
        )
    )


def row_of(trick: Trick, seconds: Mapping[str, list[float]], *, on_gpu: bool) -> dict[str, Any]:
    """A trick's row: expected, measured, and both times."""
    found = medians(seconds)
    values = {
        "expected %": 100 * trick.expected[on_gpu],
        "measured %": 100 * ratio_of_medians(seconds, trick.on, trick.off),
        "ms with": 1000 * found[trick.on],
        "ms without": 1000 * found[trick.off],
    }
    return {"label": trick.label, "seeds": [0], "values": {name: [round(value, 3)] for name, value in values.items()}}


def steps(base: dict[str, Any], size: Size, *, compiled: bool) -> Works:
    """Whole steps, each of a pair that lacks one trick or has another setting."""
    variants: dict[str, dict[str, Any]] = {
        "step": {},
        "step, group_size 2": {"method.group_size": 2},
    }
    other = "fp32" if base["runtime.precision"] == "bf16" else "bf16"
    variants[f"step, {other}"] = {"runtime.precision": other}
    if compiled:
        variants["step, compiled"] = {"runtime.compile": True}
    variants_made = {name: student_teacher_of(base | changed, size) for name, changed in variants.items()}
    with patch.object(frozen_norm, "freeze_batch_norm", timm.layers.freeze_batch_norm_2d):
        variants_made["step, not folded"] = student_teacher_of(base, size)
    with patch.object(FCOSConfig, "build", nchw_detector):
        variants_made["step, NCHW"] = student_teacher_of(base, size)
    loaded = as_loaded(made_up_step(size, CLASSES), variants_made["step"].runtime.device)
    return {
        name: lambda student_teacher=student_teacher: student_teacher.train_step(loaded)
        for name, student_teacher in variants_made.items()
    }


def student_teacher_of(settings: dict[str, Any], size: Size) -> StudentTeacher:
    """The published recipe with these keys."""
    recipe = load_recipe("coco_standard", [f"{key}={value}" for key, value in settings.items()])
    return make_student_teacher(recipe, Runtime(recipe.runtime), size, CLASSES)


def nchw_detector(config: FCOSConfig, num_classes: int) -> nn.Module:
    """A detector that stays in torch's usual memory format, as do its copies."""

    def features(self: Any, images: ImageBatch) -> list[Tensor]:
        pixels = (images.pixels.to(self.mean.dtype) - self.mean) / self.std
        pixels = pixels * real_area(images.sizes, *pixels.shape[-2:])
        found: list[Tensor] = self.backbone(pixels.contiguous())
        return found

    def to(self: nn.Module, *arguments: Any, memory_format: object = None, **others: Any) -> nn.Module:
        return nn.Module.to(self, *arguments, **others) if arguments or others else self

    detector: nn.Module = FCOS(num_classes=num_classes, **dict(config))
    for method in (features, to):
        setattr(detector, method.__name__, MethodType(method, detector))
    return detector


def parts_of(student_teacher: StudentTeacher, size: Size) -> Works:
    """Parts of a step, as they are and as they would be without their trick."""
    loaded = as_loaded(made_up_step(size, CLASSES), student_teacher.runtime.device)
    batch = with_strong_views(loaded, student_teacher.augment, seed=1, device=student_teacher.runtime.device)
    whole = StepParts(student_teacher, batch)
    assert batch.unlabeled is not None
    views = (batch.labeled.weak, batch.labeled.strong, batch.unlabeled.strong)
    plain = torch.optim.SGD(student_teacher.parameters, lr=0.0, momentum=0.9, foreach=False, fused=False)
    fused = torch.optim.SGD(student_teacher.parameters, lr=0.0, momentum=0.9, fused=True)

    def passes(images: tuple[ImageBatch, ...]) -> None:
        for one in images:
            output = student_teacher.student(one)
            assert output.quality is not None
            student_teacher.runtime.backward(output.logits.sum() + output.deltas.sum() + output.quality.sum())
        student_teacher.optimizer.zero_grad(set_to_none=True)

    def optimize(optimizer: torch.optim.Optimizer) -> None:
        for parameter, gradient in zip(student_teacher.parameters, whole.gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()

    return {
        "student": lambda: passes((whole.views,)),
        "student, three passes": lambda: passes(views),
        "SGD": lambda: optimize(fused),
        "SGD, loop": lambda: optimize(plain),
        "EMA": lambda: student_teacher.ema.update(0.999),
        "EMA, loop": lambda: _loop_ema(student_teacher.ema.module, student_teacher.student_module, 0.999),
    }


@torch.no_grad()
def _loop_ema(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """As the published code: over the state dicts, two operations a tensor."""
    source = student.state_dict()
    for name, value in teacher.state_dict().items():
        if value.is_floating_point():
            value.mul_(decay).add_(source[name], alpha=1 - decay)


if __name__ == "__main__":
    main()
