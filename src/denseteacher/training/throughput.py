"""How fast a run is: images and operations of its steps, counted on the host alone, and what its device can do.

Nothing here waits for the device but ``peak_speed``, once.
"""

import math
import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property, lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

from denseteacher.data.loading.steps import LoadedStep
from denseteacher.structures import DenseOutput, ImageBatch
from denseteacher.training.student_teacher import StudentTeacher

_DATA_SHEETS = {
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.4,
    "H200": 989.4,
    "A100": 312.0,
    "B200": 2250.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
}
"""Dense bf16 TFLOP/s by the words of a GPU's name, the longer names first; TF32 is half of it."""


class PassFlops(NamedTuple):
    """Operations for each pixel of the canvas, padding included; a multiplication and an addition are two."""

    forward: float
    """Operations of a pass without gradients."""
    training: float
    """Operations of a forward and backward pass; frozen parameters take part in the forward alone."""


class StepFlops(NamedTuple):
    """Operations of a training step for each pixel of its canvas."""

    supervised: float
    """Operations of a step on labeled images alone."""
    full: float
    """Operations of a step with unlabeled images."""


class Throughput:
    """Time, images and operations of the steps since it was last read."""

    def __init__(self, student_teacher: StudentTeacher) -> None:
        """Watches the steps of student and teacher.

        Args:
            student_teacher: Its student and pseudo-labeler count the pixels that they are shown.
        """
        self._student_teacher = student_teacher
        self._detectors = (student_teacher.student, student_teacher.pseudo_labeler)
        self._shape = (0, 0)
        self.last_seconds = 0.0
        """Seconds of the last step, its wait for data included; on a GPU of what the host did."""
        self._clear()

    def _clear(self) -> None:
        self._steps = self._images = self._real = self._canvas = 0
        self._data_wait = self._seconds = 0.0
        self._pixels = Counter[bool]()

    @contextmanager
    def step(self, loaded: LoadedStep, data_wait: float) -> Iterator[None]:
        """Measures one step, inside the context.

        Args:
            loaded: What it is made of.
            data_wait: Seconds that were waited for it.
        """
        for detector in self._detectors:
            detector.pixels.clear()
        start = time.perf_counter()
        yield
        self._steps += 1
        self._data_wait += data_wait
        self.last_seconds = data_wait + time.perf_counter() - start
        self._seconds += self.last_seconds
        self._shape = (loaded.labeled.pixels.shape[2], loaded.labeled.pixels.shape[3])
        for images in [loaded.labeled] + ([] if loaded.unlabeled is None else [loaded.unlabeled.weak]):
            self._images += len(images.sizes)
            self._real += int(images.sizes.prod(1).sum())
            self._canvas += images.computed
        for detector in self._detectors:
            self._pixels.update(detector.pixels)

    def read(self) -> dict[str, float]:
        """Means over the steps since the last call; the last of them has waited for the device.

        Returns:
            ``data_wait`` and ``step_seconds`` (seconds a step), ``images_per_second`` (labeled and unlabeled ones of
            all processes), ``padded_share`` of their canvases, ``mfu`` (counted operations of the networks' passes
            over what the device could have done meanwhile, nan where that is not known), and on a GPU ``peak_gib``,
            the memory that tensors took at most since the run began.
        """
        runtime, seconds = self._student_teacher.runtime, self._seconds
        values = {
            "data_wait": self._data_wait / self._steps,
            "step_seconds": seconds / self._steps,
            "images_per_second": self._images * runtime.world_size / seconds,
            "padded_share": 1 - self._real / self._canvas,
        }
        values["mfu"] = self._utilization(seconds)
        if runtime.device.type == "cuda":
            values["peak_gib"] = torch.cuda.max_memory_allocated(runtime.device) / 2**30
        self._clear()
        return values

    def _utilization(self, seconds: float) -> float:
        if self.flops is None:
            return math.nan
        done = self.flops.training * self._pixels[True] + self.flops.forward * self._pixels[False]
        runtime = self._student_teacher.runtime
        share = done / seconds / (1e12 * peak_speed(runtime.device, runtime.dtype)[0])
        # a busy CPU is faster than its measured peak as soon as others let go of it
        return share if share <= 1 else math.nan

    @cached_property
    def flops(self) -> PassFlops | None:
        """The operations, counted once, on the canvas of the first step that is read."""
        try:
            return pass_flops(self._student_teacher.student_module, self._shape)
        except Exception:  # in how many ways a network of others may refuse tensors without storage, nobody knows
            return None


def step_flops(flops: PassFlops, labeled: int, unlabeled: int) -> StepFlops:
    """Counts a step of Dense Teacher; methods whose student or teacher looks more often take more.

    The student learns from two views of a labeled and one of an unlabeled image, the teacher looks at another one.

    Args:
        flops: Flops of the detector.
        labeled: Images.
        unlabeled: Images.
    """
    supervised = 2 * labeled * flops.training
    return StepFlops(supervised, supervised + unlabeled * (flops.training + flops.forward))


def pass_flops(detector: nn.Module, canvas: tuple[int, int]) -> PassFlops:
    """Counts on tensors without storage: nothing is computed, the detector and random states stay as they are.

    Convolutions, matrix products and attention are counted. Levels are rounded up to whole locations, so that a small
    canvas costs up to 1 % more a pixel than a large one.

    Args:
        detector: A ``DenseDetector``, on any device, in the mode in which it is trained.
        canvas: Height and width of the images to count for.
    """
    tensors = {
        name: torch.empty_like(value, device="meta", requires_grad=value.requires_grad)
        for name, value in [*detector.named_parameters(), *detector.named_buffers()]
    }
    images = ImageBatch(
        torch.empty((1, 3, *canvas), dtype=torch.uint8, device="meta"),
        torch.empty((1, 2), dtype=torch.int64, device="meta"),
    )
    with torch.enable_grad(), torch.compiler.set_stance("force_eager"):
        with FlopCounterMode(display=False) as forward:
            output: DenseOutput = functional_call(detector, tensors, (images,))
        predictions = [part for part in (output.logits, output.deltas, output.quality) if part is not None]
        with FlopCounterMode(display=False) as backward:
            torch.autograd.backward([part.sum() for part in predictions])
    pixels = canvas[0] * canvas[1]
    once = forward.get_total_flops()
    return PassFlops(once / pixels, (once + backward.get_total_flops()) / pixels)


@lru_cache
def peak_speed(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """TFLOP/s that the device can do at most, and where the number is from.

    A known GPU's is the data sheet's (for fp32 that of TF32, which its convolutions use); anything else is what a
    large matrix product reaches.
    """
    if device.type == "cuda":
        known = data_sheet_speed(torch.cuda.get_device_name(device))
        if known is not None:
            return (known, "data sheet") if dtype is torch.bfloat16 else (known / 2, "data sheet, TF32")
    side = 8192 if device.type == "cuda" else 1024
    rng = torch.Generator(device).manual_seed(0)
    left, right = (torch.randn((side, side), device=device, generator=rng).to(dtype) for _ in range(2))
    return 2 * side**3 / _fastest_product(left, right) / 1e12, f"product of {side} x {side} matrices"


def data_sheet_speed(gpu: str) -> float | None:
    """Dense bf16 TFLOP/s of a GPU of this name; None where it is not known here."""
    return next((speed for words, speed in _DATA_SHEETS.items() if re.search(rf"\b{words}\b", gpu)), None)


def _fastest_product(left: Tensor, right: Tensor, rounds: int = 5) -> float:
    """Seconds."""
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return min(seconds)
