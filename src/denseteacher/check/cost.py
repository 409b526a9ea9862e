"""What a run takes: memory of a step, and time on a CPU."""

import math
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from denseteacher.data.augment.weak import WeakView
from denseteacher.data.objects import image_sizes
from denseteacher.data.records import ImageRecord, LabeledImages
from denseteacher.data.sizes import common_canvas, resized_size
from denseteacher.detectors import DenseDetector, PyramidDetector, shape_detector
from denseteacher.detectors.pieces import forward_in_pieces
from denseteacher.hardware import this_machine
from denseteacher.methods import DenseTeacher, Method, Supervised
from denseteacher.recipes.object_scales import middle_scale
from denseteacher.recipes.resolve import resolve
from denseteacher.recipes.schema import Recipe, load_recipe
from denseteacher.structures import (
    METHOD_RANDOM,
    DenseOutput,
    ImageBatch,
    LabeledBatch,
    SemiBatch,
    Targets,
    UnlabeledBatch,
)
from denseteacher.training.forecast import SMALL_RECIPE, duration
from denseteacher.training.throughput import pass_flops, step_flops

_MARGIN = 1.3  # for what the allocator can't use
_CONTEXT = 2**30  # bytes of the device's libraries
_STAND_IN = DenseTeacher(ratio=0.01, burn_in=0, ramp=0)
_META = torch.device("meta")

_MEASURED = 4e10  # operations of the measured pass, at most: a second or less
_LONG = 600.0  # seconds
_MUCH_SHORTER = 3.0  # times


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
    """Bytes in all, by the number of micro-batches (``schedule.accumulate``) of a step."""

    def fitting(self, gigabytes: float) -> int | None:
        """The fewest parts that a device of this size can hold; None where it can't hold one image of each kind."""
        room = (gigabytes * 1e9 - _CONTEXT) / _MARGIN
        return next((parts for parts, size in self.parts.items() if size <= room), None)


def worst_canvas(weak: WeakView, images: Sequence[ImageRecord]) -> tuple[int, int]:
    """The canvas of a batch that holds the widest and the tallest of all views."""
    shapes = {(image.height, image.width) for image in images}
    short = max(weak.sides)
    return weak.canvas_for([resized_size(*shape, short, weak.bound) for shape in shapes], short)


def step_memory(recipe: Recipe, student: PyramidDetector, canvas: tuple[int, int], boxes: int) -> StepMemory:
    """Counts what a step allocates; methods other than Dense Teacher and Supervised count as Dense Teacher.

    Half-size views and the mosaics of Dense Teacher are counted.

    Args:
        recipe: The recipe.
        student: As ``shape_detector`` gives it.
        canvas: Height and width.
        boxes: Most boxes of an image.
    """
    teacher = shape_detector(recipe.detector, student.num_classes).eval().requires_grad_(False)
    processes = recipe.runtime.devices * recipe.runtime.nodes
    batches = recipe.data.labeled_batch // processes, recipe.data.unlabeled_batch // processes
    most = math.gcd(*batches)
    method = _stand_in(recipe.method)
    batch = _batch(*batches, canvas, boxes)

    def step(parts: int) -> int:
        return _peak(lambda: _forward_backward(method, _InParts(student, parts), _InParts(teacher, parts), batch))

    trainable = sum(_bytes(parameter) for parameter in student.parameters() if parameter.requires_grad)
    weights = sum(map(_bytes, [*student.parameters(), *student.buffers()]))
    copies = 3 if recipe.method.static_teacher else 2
    fixed = copies * weights + trainable * (1 if recipe.optim.name == "sgd" else 2)
    smallest, largest = step(most), step(1)
    slope = (largest - smallest) / (1 - 1 / most) if most > 1 else 0.0
    parts = [number for number in range(1, most + 1) if most % number == 0]
    return StepMemory(canvas, fixed, {one: fixed + round(largest - slope * (1 - 1 / one)) for one in parts})


def _stand_in(method: Method) -> Method:
    """A method without a state that shows the student as many images."""
    if method.burn_in_steps is None:
        return Supervised()
    mix = method.mix if isinstance(method, DenseTeacher) else "none"
    return _STAND_IN.model_copy(update={"half_view": method.needs_finer_level, "mix": mix})


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
    others = UnlabeledBatch(
        images(unlabeled),
        images(unlabeled),
        positions=torch.arange(unlabeled, device=_META),
        to_weak=torch.eye(3, device=_META).repeat(unlabeled, 1, 1),
        to_strong=None,
        random=torch.full((unlabeled, METHOD_RANDOM), 0.5),
        hidden_targets=None,
    )
    return SemiBatch(LabeledBatch(images(labeled), images(labeled), targets), others)


class _InParts:
    """A detector as a run of several parts a step sees it."""

    def __init__(self, detector: PyramidDetector, parts: int) -> None:
        self.detector, self.parts = detector, parts

    def __call__(self, images: ImageBatch, halved: int = 0) -> DenseOutput:
        return forward_in_pieces(self.detector, images, self.parts, halved)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.detector, name)


def _forward_backward(method: Method, student: _InParts, teacher: _InParts, batch: SemiBatch) -> None:
    losses = method.losses(student, teacher, batch, 1).losses
    torch.autograd.backward(torch.stack(list(losses.values())).sum())
    student.detector.zero_grad(set_to_none=True)


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


class Duration(NamedTuple):
    """Time of a run's networks on this CPU; views, losses and evaluations come on top."""

    steps: int
    seconds: float
    """Seconds of all steps."""
    measured: tuple[int, int]
    """Height and width of the canvas whose pass was measured; the rest is counted in operations."""
    threads: int

    @property
    def text(self) -> str:
        """The time as one reads it: ``40 min``, ``3.5 h``."""
        return duration(self.seconds)


def measure_duration(recipe: Recipe, labeled: LabeledImages, *, unlabeled: int) -> Duration:
    """Times one forward and backward pass on one image, and counts how many of them the run takes.

    Args:
        recipe: Resolved.
        labeled: Says how large the views are.
        unlabeled: Number of unlabeled images.
    """
    detector = recipe.detector.model_copy(update={"pretrained": False}).build(len(labeled.categories))
    detector = detector.to(memory_format=torch.channels_last).train()
    canvas = _usual_canvas(recipe, labeled)
    flops = pass_flops(detector, canvas)
    pixels = canvas[0] * canvas[1]
    part = min(1.0, (_MEASURED / (flops.training * pixels)) ** 0.5)
    measured = common_canvas([(max(1, int(canvas[0] * part) - 31), max(1, int(canvas[1] * part) - 31))])
    if part == 1.0:
        measured = canvas
    speed = pass_flops(detector, measured).training * measured[0] * measured[1] / _pass_seconds(detector, measured)
    batches = step_flops(flops, recipe.data.labeled_batch, recipe.data.unlabeled_batch)
    steps = int(recipe.schedule.max_steps)
    full = steps - int(recipe.method.burn_in_steps or 0) if unlabeled and _learns_unlabeled(recipe) else 0
    seconds = pixels * (batches.supervised * (steps - full) + batches.full * full) / speed
    return Duration(steps, seconds, measured, torch.get_num_threads())


def shorter_run(duration: Duration, labeled: LabeledImages, *, unlabeled: int) -> Duration | None:
    """The duration of the recipe for CPUs on the same data, where that is much shorter than a long run."""
    if duration.seconds < _LONG:
        return None
    recipe = resolve(load_recipe(SMALL_RECIPE), labeled=labeled, unlabeled=unlabeled, machine=this_machine())
    small = measure_duration(recipe, labeled, unlabeled=unlabeled)
    return small if _MUCH_SHORTER * small.seconds < duration.seconds else None


def batch_cost(recipe: Recipe, detector: DenseDetector) -> str | None:
    """A sentence on what unlabeled images cost where a step has not just as many of them as labeled ones.

    Args:
        recipe: Says how many.
        detector: In training mode, with or without storage.
    """
    labeled, unlabeled = recipe.data.labeled_batch, recipe.data.unlabeled_batch
    if labeled == unlabeled or not _learns_unlabeled(recipe):
        return None
    assert isinstance(detector, torch.nn.Module)
    flops = pass_flops(detector, (256, 256))
    times = step_flops(flops, labeled, unlabeled).full / step_flops(flops, labeled, labeled).full
    return (
        f"a step of {labeled} labeled and {unlabeled} unlabeled images takes {times:.2g} times the operations of one "
        f"of {labeled} and {labeled} (counted)"
    )


def _learns_unlabeled(recipe: Recipe) -> bool:
    return recipe.method.burn_in_steps is not None


def _usual_canvas(recipe: Recipe, labeled: LabeledImages) -> tuple[int, int]:
    """The canvas of views of middle size, all lying on their side."""
    sizes = image_sizes(labeled.images)
    views = np.sort(sizes * middle_scale(sizes, recipe.augment.weak)[:, None], axis=1)
    short, long = np.median(views, axis=0)
    return common_canvas([(int(short), int(long))])


def _pass_seconds(detector: torch.nn.Module, canvas: tuple[int, int]) -> float:
    """The second one's: the first one asks for memory."""
    images = ImageBatch(torch.zeros((1, 3, *canvas), dtype=torch.uint8), torch.tensor([canvas]))
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        output = detector(images)
        predictions = [part for part in (output.logits, output.deltas, output.quality) if part is not None]
        torch.autograd.backward([part.sum() for part in predictions])
        seconds = time.perf_counter() - start
    return seconds
