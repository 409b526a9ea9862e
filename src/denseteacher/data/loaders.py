"""Two endless streams, labeled and unlabeled, as one loader of whole steps."""

import signal
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from denseteacher.data.affine import AffineView
from denseteacher.data.geometry import WeakView, pad_batch, pad_targets, transform
from denseteacher.data.images import load_image
from denseteacher.data.photometry import StrongView
from denseteacher.data.randomness import Draw, keyed_generator, keyed_uniforms
from denseteacher.data.records import ImageRecord, LabeledImages
from denseteacher.data.samplers import LabeledSampler, UnlabeledSampler, is_portrait
from denseteacher.errors import InputError
from denseteacher.structures import METHOD_NUMBERS, ImageBatch, Provenance, SemiBatch, Targets

Boxes = npt.NDArray[np.float32]
_NO_BOXES: Boxes = np.zeros((0, 4), dtype=np.float32)


class UnlabeledViews(NamedTuple):
    """The weak views of a step's unlabeled images, and what is known of them (see ``Provenance``)."""

    weak: ImageBatch
    positions: Tensor
    to_weak: Tensor
    hidden: Targets | None
    slots: list[int]
    """Positions of the images in the global batch: part of the key of their random draws."""


class LoadedStep(NamedTuple):
    """The weak views of one step and one process, on the CPU."""

    step: int
    labeled: ImageBatch
    targets: Targets
    labeled_slots: list[int]
    """As ``UnlabeledViews.slots``."""
    unlabeled: UnlabeledViews | None
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

    def __init__(
        self,
        labeled: LabeledImages,
        unlabeled: Sequence[ImageRecord],
        settings: StreamSettings,
        *,
        hidden: LabeledImages | None = None,
    ) -> None:
        """Takes the images, and for analyses the hidden labels of the unlabeled ones, in the same order."""
        self.labeled = labeled
        self.unlabeled = unlabeled
        self.hidden = hidden
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
        chosen = self.labeled_sampler.batch(step)
        slots = _share(self.settings.labeled_batch, self.settings)
        positions = [int(chosen[slot]) for slot in slots]
        records = [self.labeled.images[position] for position in positions]
        views = [
            self._weak_view(record, self.labeled.boxes[position], Draw.LABELED_WEAK, step, slot)
            for record, position, slot in zip(records, positions, slots, strict=True)
        ]
        first = self.labeled.images[chosen[0]]
        others = self._unlabeled(step, portrait=first.height > first.width)

        # one canvas for all, so that the student sees every view in one pass
        padded = pad_batch([view.pixels for view in (*views, *others.views)])
        count = len(views)
        return LoadedStep(
            step,
            ImageBatch(padded.pixels[:count], padded.sizes[:count]),
            pad_targets([view.boxes for view in views], [self.labeled.labels[position] for position in positions]),
            slots,
            self._unlabeled_views(others, ImageBatch(padded.pixels[count:], padded.sizes[count:])),
            [record.name for record in (*records, *others.records)],
        )

    def _unlabeled(self, step: int, *, portrait: bool) -> "_Unlabeled":
        """The step's unlabeled images; none where it needs none."""
        if not self.settings.needs_unlabeled(step):
            return _Unlabeled([], [], [], [])
        drawn = self.unlabeled_sampler.batch(step, portrait=portrait)
        slots = _share(self.settings.unlabeled_batch, self.settings)
        positions = [int(drawn[slot]) for slot in slots]
        records = [self.unlabeled[position] for position in positions]
        views = [
            self._weak_view(
                record,
                _NO_BOXES if self.hidden is None else self.hidden.boxes[position],
                Draw.UNLABELED_WEAK,
                step,
                slot,
            )
            for record, position, slot in zip(records, positions, slots, strict=True)
        ]
        return _Unlabeled(positions, records, views, slots)

    def _unlabeled_views(self, others: "_Unlabeled", weak: ImageBatch) -> UnlabeledViews | None:
        if not others.views:
            return None
        hidden = None
        if self.hidden is not None:
            labels = [self.hidden.labels[position] for position in others.positions]
            hidden = pad_targets([view.boxes for view in others.views], labels)
        to_weak = torch.stack([view.matrix for view in others.views])
        return UnlabeledViews(weak, torch.tensor(others.positions), to_weak, hidden, others.slots)

    def _weak_view(self, record: ImageRecord, boxes: Boxes, draw: Draw, step: int, slot: int) -> "_WeakView":
        rng = keyed_generator(self.settings.seed, draw, step, slot)
        image = load_image(record)
        geometry = self.settings.weak.draw(image.shape[1], image.shape[2], rng)
        return _WeakView(*transform(image, boxes, geometry), geometry.matrix(image.shape[1], image.shape[2]))


class _WeakView(NamedTuple):
    pixels: Tensor
    boxes: Boxes
    matrix: Tensor


class _Unlabeled(NamedTuple):
    """Unlabeled images of a step, before they share a canvas."""

    positions: list[int]
    records: list[ImageRecord]
    views: list[_WeakView]
    slots: list[int]


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


def with_strong_views(
    loaded: LoadedStep, strong: StrongView, affine: AffineView | None, *, seed: int, device: torch.device
) -> SemiBatch:
    """Moves a step to its device and makes the strong views there.

    Args:
        loaded: The weak views.
        strong: What happens to their pixels.
        affine: Where the unlabeled ones move before that; None leaves them in place.
        seed: The run's.
        device: Where the step is computed.
    """
    step = loaded.step
    labeled, targets = _images_to(loaded.labeled, device), _targets_to(loaded.targets, device)
    labeled_strong = strong(labeled, seed=seed, step=step, samples=loaded.labeled_slots, draw=Draw.LABELED_STRONG)
    if loaded.unlabeled is None:
        return SemiBatch(labeled, labeled_strong, targets, None, None)
    views = loaded.unlabeled
    weak = _images_to(views.weak, device)
    moved, to_strong = (weak, None) if affine is None else affine(weak, seed=seed, step=step, samples=views.slots)
    unlabeled_strong = strong(moved, seed=seed, step=step, samples=views.slots, draw=Draw.UNLABELED_STRONG)
    provenance = Provenance(
        positions=views.positions.to(device, non_blocking=True),
        to_weak=views.to_weak.to(device, non_blocking=True),
        to_strong=to_strong,
        numbers=keyed_uniforms(seed, Draw.METHOD, step, views.slots, METHOD_NUMBERS),
        hidden=None if views.hidden is None else _targets_to(views.hidden, device),
    )
    return SemiBatch(labeled, labeled_strong, targets, weak, unlabeled_strong, provenance)


def _images_to(images: ImageBatch, device: torch.device) -> ImageBatch:
    return ImageBatch(images.pixels.to(device, non_blocking=True), images.sizes.to(device, non_blocking=True))


def _targets_to(targets: Targets, device: torch.device) -> Targets:
    return Targets(*(field.to(device, non_blocking=True) for field in targets))
