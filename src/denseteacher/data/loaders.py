"""Two endless streams, labeled and unlabeled, as one loader of whole steps."""

import signal
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from denseteacher.data.geometry import WeakView, pad_batch, pad_targets
from denseteacher.data.images import decode_image
from denseteacher.data.photometry import StrongView
from denseteacher.data.randomness import Draw, keyed_generator
from denseteacher.data.records import ImageRecord, LabeledImages
from denseteacher.data.samplers import LabeledSampler, UnlabeledSampler, is_portrait
from denseteacher.errors import InputError
from denseteacher.structures import ImageBatch, SemiBatch, Targets

Boxes = npt.NDArray[np.float32]
_NO_BOXES: Boxes = np.zeros((0, 4), dtype=np.float32)


class LoadedStep(NamedTuple):
    """The weak views of one step and one process, on the CPU or already on its device."""

    step: int
    labeled: ImageBatch
    targets: Targets
    unlabeled: ImageBatch | None
    labeled_slots: list[int]
    """Positions of the images in the global batch: part of the key of their random draws."""
    unlabeled_slots: list[int]
    files: list[str]
    """Image files of the step, for messages."""


class StreamSettings(NamedTuple):
    """How steps are put together."""

    weak: WeakView
    labeled_batch: int
    """Labeled images a step over all processes."""
    unlabeled_batch: int
    seed: int
    needs_unlabeled: Callable[[int], bool]
    """Which steps hold unlabeled images; a step without them is not slowed down by them."""
    rank: int = 0
    world_size: int = 1


class StepDataset(Dataset[LoadedStep | InputError]):
    """Item ``step`` is that step's batch, a pure function of the step: the same in any worker, on any run."""

    def __init__(self, labeled: LabeledImages, unlabeled: Sequence[ImageRecord], settings: StreamSettings) -> None:
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.settings = settings
        self.labeled_sampler = LabeledSampler(is_portrait(labeled.images), settings.labeled_batch, settings.seed)
        self.unlabeled_sampler = UnlabeledSampler(is_portrait(unlabeled), settings.unlabeled_batch, settings.seed)

    def __getitem__(self, step: int) -> LoadedStep | InputError:
        """The batch, or the error that its files raise (an exception would lose its type in a worker)."""
        try:
            return self.load(step)
        except InputError as error:
            return error

    def load(self, step: int) -> LoadedStep:
        """The batch of a step.

        Raises:
            InputError: If one of its images can't be read.
        """
        settings = self.settings
        chosen = self.labeled_sampler.batch(step)
        slots = _share(settings.labeled_batch, settings)
        images, boxes = [], []
        for slot in slots:
            position = chosen[slot]
            image, moved = self._weak_view(
                self.labeled.images[position], self.labeled.boxes[position], Draw.LABELED_WEAK, step, slot
            )
            images.append(image)
            boxes.append(moved)
        labels = [self.labeled.labels[chosen[slot]] for slot in slots]
        files = [str(self.labeled.images[chosen[slot]].path) for slot in slots]

        others: list[Tensor] = []
        other_slots: list[int] = []
        if settings.needs_unlabeled(step):
            first = self.labeled.images[chosen[0]]
            drawn = self.unlabeled_sampler.batch(step, portrait=first.height > first.width)
            other_slots = _share(settings.unlabeled_batch, settings)
            for slot in other_slots:
                record = self.unlabeled[drawn[slot]]
                others.append(self._weak_view(record, _NO_BOXES, Draw.UNLABELED_WEAK, step, slot)[0])
                files.append(str(record.path))

        # one canvas for all, so that the student sees every view in one pass
        padded = pad_batch(images + others)
        count = len(images)
        return LoadedStep(
            step,
            ImageBatch(padded.pixels[:count], padded.sizes[:count]),
            pad_targets(boxes, labels),
            ImageBatch(padded.pixels[count:], padded.sizes[count:]) if others else None,
            slots,
            other_slots,
            files,
        )

    def _weak_view(self, record: ImageRecord, boxes: Boxes, draw: Draw, step: int, slot: int) -> tuple[Tensor, Boxes]:
        rng = keyed_generator(self.settings.seed, draw, step, slot)
        image = decode_image(record.path, declared_size=(record.height, record.width))
        return self.settings.weak.apply(image, boxes, rng)


def _share(batch: int, settings: StreamSettings) -> list[int]:
    """The slots of the global batch that belong to this process."""
    size = batch // settings.world_size
    return list(range(settings.rank * size, (settings.rank + 1) * size))


def step_loader(
    dataset: StepDataset, steps: range, *, workers: int, pin_memory: bool
) -> DataLoader[LoadedStep | InputError]:
    """The dataset's steps in order, made ahead by loader processes."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=2 if workers else None,
        worker_init_fn=ignore_signals,
    )


def ignore_signals(_: int) -> None:
    """A signal to the whole process group must not take the loader from under the run's last step.

    Whoever iterates must therefore let go of the iterator in the end: then the workers leave by themselves,
    as they do when the main process dies.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def with_strong_views(loaded: LoadedStep, strong: StrongView, *, seed: int, device: torch.device) -> SemiBatch:
    """Moves a step to its device and makes the strong views there."""
    labeled, unlabeled = _to(loaded.labeled, device), None
    labeled_strong, unlabeled_strong = (
        strong(labeled, seed=seed, step=loaded.step, samples=loaded.labeled_slots, draw=Draw.LABELED_STRONG),
        None,
    )
    if loaded.unlabeled is not None:
        unlabeled = _to(loaded.unlabeled, device)
        unlabeled_strong = strong(
            unlabeled, seed=seed, step=loaded.step, samples=loaded.unlabeled_slots, draw=Draw.UNLABELED_STRONG
        )
    targets = Targets(*(field.to(device, non_blocking=True) for field in loaded.targets))
    return SemiBatch(labeled, labeled_strong, targets, unlabeled, unlabeled_strong)


def _to(images: ImageBatch, device: torch.device) -> ImageBatch:
    return ImageBatch(images.pixels.to(device, non_blocking=True), images.sizes.to(device, non_blocking=True))
