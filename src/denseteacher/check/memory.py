"""How much memory the largest step of a run takes, counted on tensors that have shapes and no storage."""

import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from denseteacher.data.geometry import WeakView
from denseteacher.data.records import ImageRecord
from denseteacher.data.sizes import resized_size
from denseteacher.detectors import FCOS, RetinaNet, build_detector
from denseteacher.methods import DenseTeacher, Method, SemiSupervised, Supervised
from denseteacher.recipe import Recipe
from denseteacher.structures import ImageBatch, SemiBatch, Targets

_MARGIN = 1.3  # for what the allocator can't use
_CONTEXT = 2**30  # bytes of the device's libraries
_STAND_IN = DenseTeacher(ratio=0.01, burn_in=0, ramp=0)
_META = torch.device("meta")


class StepMemory(NamedTuple):
    """Bytes of one process at its largest step, in fp32.

    Only tensors are counted: a step of a ResNet-50 takes 5 % more on a CPU (benchmarks/results/check_speed.json).
    Under bf16 autocast frozen batch norms keep copies in both precisions, so it may save nothing.
    """

    canvas: tuple[int, int]
    """Height and width."""
    fixed: int
    """Student, teacher and the optimizer's state."""
    parts: dict[int, int]
    """In all, by the number of parts (``schedule.accumulate``) that the step is computed in."""

    def fitting(self, gigabytes: float) -> int | None:
        """The fewest parts that a device of this size can hold; None where it can't hold one image of each kind."""
        room = (gigabytes * 1e9 - _CONTEXT) / _MARGIN
        return next((parts for parts, size in self.parts.items() if size <= room), None)


def shape_detector(config: Recipe, classes: int) -> FCOS | RetinaNet:
    """The recipe's detector without weights: for its shapes, anchors and assigner."""
    with torch.device("meta"):
        detector = build_detector(config.detector.model_copy(update={"pretrained": False}), classes)
    return detector.to(memory_format=torch.channels_last)


def worst_canvas(weak: WeakView, images: Sequence[ImageRecord]) -> tuple[int, int]:
    """The canvas of a batch that holds the widest and the tallest of all views."""
    shapes = {(image.height, image.width) for image in images}
    short = max(weak.sides)
    return weak.canvas_for([resized_size(*shape, short, weak.bound) for shape in shapes], short)


def step_memory(config: Recipe, student: FCOS | RetinaNet, canvas: tuple[int, int], boxes: int) -> StepMemory:
    """Counts what a step allocates; methods other than Dense Teacher and Supervised count as Dense Teacher.

    Args:
        config: The recipe.
        student: As ``shape_detector`` gives it.
        canvas: Height and width.
        boxes: Most boxes of an image.
    """
    teacher = shape_detector(config, student.num_classes).eval().requires_grad_(False)
    processes = config.runtime.devices * config.runtime.nodes
    batches = config.data.labeled_batch // processes, config.data.unlabeled_batch // processes
    most = math.gcd(*batches)
    method = _STAND_IN if isinstance(config.method, SemiSupervised) else Supervised()

    def step(parts: int) -> int:
        batch = _batch(batches[0] // parts, batches[1] // parts, canvas, boxes)
        return _peak(lambda: _forward_backward(method, student, teacher, batch))

    trainable = sum(_bytes(parameter) for parameter in student.parameters() if parameter.requires_grad)
    weights = sum(map(_bytes, [*student.parameters(), *student.buffers()]))
    copies = 3 if config.method.static_teacher else 2
    fixed = copies * weights + trainable * (1 if config.optim.name == "sgd" else 2)
    smallest, largest = step(most), step(1)
    slope = (largest - smallest) / (1 - 1 / most) if most > 1 else 0.0
    parts = [number for number in range(1, most + 1) if most % number == 0]
    return StepMemory(canvas, fixed, {one: fixed + round(largest - slope * (1 - 1 / one)) for one in parts})


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _batch(labeled: int, unlabeled: int, canvas: tuple[int, int], boxes: int) -> SemiBatch:
    def images(count: int) -> ImageBatch:
        return ImageBatch(
            torch.zeros((count, 3, *canvas), dtype=torch.uint8, device=_META),
            torch.zeros((count, 2), dtype=torch.int64, device=_META),
        )

    targets = Targets(
        torch.zeros((labeled, boxes, 4), device=_META),
        torch.zeros((labeled, boxes), dtype=torch.int64, device=_META),
        torch.zeros((labeled, boxes), dtype=torch.bool, device=_META),
    )
    return SemiBatch(images(labeled), images(labeled), targets, images(unlabeled), images(unlabeled))


def _forward_backward(method: Method, student: FCOS | RetinaNet, teacher: FCOS | RetinaNet, batch: SemiBatch) -> None:
    losses = method.losses(student, teacher, batch, 1).losses
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    student.zero_grad(set_to_none=True)


def _peak(work: Callable[[], None]) -> int:
    with _Allocations() as allocations:
        work()
    peak: int = allocations.peak
    return peak


class _Allocations(TorchDispatchMode):
    """Follows the storages that operators make, until nothing refers to them any more."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for storage in self._new_storages(result):
            size, key = storage.nbytes(), storage._cdata
            self._known.add(key)
            self.now += size
            weakref.finalize(storage, self._free, key, size)
        self.peak = max(self.peak, self.now)
        return result

    def _new_storages(self, result: Any) -> Iterator[torch.UntypedStorage]:
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self._known:
                yield leaf.untyped_storage()

    def _free(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
