"""Two endless streams, labeled and unlabeled, as one loader of whole steps."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from denseteacher.data.augment.config import AugmentConfig
from denseteacher.data.augment.weak import Boxes, Geometry, fill_canvas, move_boxes, pad_targets, resize_and_flip
from denseteacher.data.config import DataConfig
from denseteacher.data.images import load_image
from denseteacher.data.loading.samplers import LabeledSampler, LookingSampler, is_portrait, unlabeled_sampler
from denseteacher.data.loading.workers import begin_worker
from denseteacher.data.open import TrainingData
from denseteacher.data.randomness import Draw
from denseteacher.data.records import ImageRecord, LabeledImages, UnopenedImages
from denseteacher.errors import InputError
from denseteacher.structures import Canvases, ImageBatch, SemiBatch, Targets, chunk


class UnlabeledViews(NamedTuple):
    """The weak views of a step's unlabeled images, and what is known of them (see ``UnlabeledBatch``)."""

    weak: ImageBatch
    positions: Tensor
    to_weak: Tensor
    hidden_targets: Targets | None


class LoadedStep(NamedTuple):
    """The weak views of one step and one process, on the CPU."""

    step: int
    labeled: ImageBatch
    targets: Targets
    unlabeled: UnlabeledViews | None
    labeled_samples: list[int]
    """Positions of the images in the global batch: part of the key of their random draws."""
    unlabeled_samples: list[int]
    files: list[str]
    """Image files of the step, for messages."""
    passed_over: tuple[str, ...] = ()
    """What is wrong with images that others stand in for; see ``DataConfig.bad_images``."""
    sure_score: Tensor | None = None
    """Score above which the teacher is sure of an object, one a labeled image; see ``LabeledBatch``."""
    batch: SemiBatch | None = None
    """The step with its strong views, where the loader makes them (``StepsWithStrongViews``)."""


class PlannedView(NamedTuple):
    """A weak view whose image is not read yet."""

    position: int
    """Position of the image in its list."""
    sample: int
    """Position of the image in the global batch."""
    record: ImageRecord
    geometry: Geometry


class StepPlan(NamedTuple):
    """The weak views of one step and one process."""

    labeled: list[PlannedView]
    unlabeled: list[PlannedView]
    """Empty where the step needs none."""
    canvas: tuple[int, int]
    """Height and width; one for all, so that every view is in one tensor."""
    canvases: Canvases | None
    """What is computed of it for each of the labeled and then the unlabeled views; see ``ImageBatch``."""


class _BadImage(InputError):
    """An image of a step that can't be read."""

    def __init__(self, error: InputError, *, labeled: bool, position: int) -> None:
        super().__init__(str(error))
        self.place = labeled, position


class StepDataset(Dataset[LoadedStep | InputError]):
    """Item ``step`` is that step's batch, a pure function of the step: the same in any worker, on any run."""

    def __init__(
        self,
        data: TrainingData,
        config: DataConfig,
        augment: AugmentConfig,
        *,
        seed: int,
        needs_unlabeled: Callable[[int], bool],
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """Puts steps together.

        Args:
            data: The images, and for analyses the hidden labels of the unlabeled ones.
            config: How many of them a step takes.
            augment: The views.
            seed: The run's.
            needs_unlabeled: Which steps hold unlabeled images; a step without them is not slowed down by them.
            rank: The process, which makes its own part of every step.
            world_size: Processes.
        """
        # not the whole of ``data``: loader processes need no validation images
        self.labeled, self.unlabeled, self.hidden = data.labeled, data.unlabeled, data.hidden
        self.config, self.augment, self.seed, self.needs_unlabeled = config, augment, seed, needs_unlabeled
        self.rank, self.world_size = rank, world_size
        shapes = is_portrait(data.labeled.images)
        self.labeled_sampler = LabeledSampler(shapes, config.labeled_batch, seed, config.orientation_group)
        self.unlabeled_sampler = unlabeled_sampler(data.unlabeled, config.unlabeled_batch, seed)
        self._skips = config.bad_images == "skip"
        if isinstance(self.unlabeled_sampler, LookingSampler):
            self.unlabeled_sampler.passes_over_bad_images = self._skips
        self._bad: dict[tuple[bool, int], str] = {}  # what is wrong with images, by whether labeled and position

    def with_unlabeled(self) -> Self:
        """The same steps, all with unlabeled images wherever there are any."""
        steps = copy(self)
        if self.unlabeled:
            steps.needs_unlabeled = _every_step
        return steps

    def __getitem__(self, step: int) -> LoadedStep | InputError:
        """The batch, or the error that its files raise (an exception would lose its type in a worker)."""
        try:
            return self.load(step)
        except InputError as error:
            return error

    def plan(self, step: int) -> StepPlan:
        """The views of a step before any image is read.

        Raises:
            InputError: If one of its images can't be opened.
        """
        chosen = self.labeled_sampler.batch(step)
        samples = self._share(self.config.labeled_batch)
        places = [int(chosen[sample]) for sample in samples]
        labeled = self._views(self.labeled.images, places, samples, Draw.LABELED_WEAK, step)
        unlabeled: list[PlannedView] = []
        if self.needs_unlabeled(step):
            first = self.labeled.images[chosen[0]]
            portrait = None if self.config.orientation_group else first.height > first.width
            samples = self._share(self.config.unlabeled_batch)
            places = self.unlabeled_sampler.positions(step, samples, portrait=portrait)
            unlabeled = self._views(self.unlabeled, places, samples, Draw.UNLABELED_WEAK, step)
        weak, sizes = self.augment.weak, [view.geometry[:2] for view in (*labeled, *unlabeled)]
        short = weak.step_side(self.seed, step)
        return StepPlan(labeled, unlabeled, weak.canvas_for(sizes, short), weak.canvases_for(sizes, short))

    def load(self, step: int) -> LoadedStep:
        """The batch of a step.

        Where ``DataConfig.bad_images`` says so, the next sound image of its orientation stands in for one that can't
        be read. Which one it is depends on the files alone, so a step is the same in any worker and after a resume.

        Raises:
            InputError: If one of its images can't be read, and no other may stand in for it.
        """
        passed_over: list[str] = []
        while True:
            try:
                return self._load(step)._replace(passed_over=tuple(passed_over))
            except _BadImage as error:
                if not self._skips:
                    raise InputError(f"{error}; leave such images out with --set data.bad_images=skip") from error
                self._bad[error.place] = str(error)
                passed_over.append(str(error))

    def _load(self, step: int) -> LoadedStep:
        plan = self.plan(step)
        views = [*plan.labeled, *plan.unlabeled]
        images = (
            resize_and_flip(_pixels(view, labeled=number < len(plan.labeled)), view.geometry)
            for number, view in enumerate(views)
        )
        pixels = fill_canvas(images, len(views), plan.canvas)
        sizes = torch.tensor([view.geometry[:2] for view in views])
        labeled, unlabeled = chunk(ImageBatch(pixels, sizes, plan.canvases), [len(plan.labeled), len(plan.unlabeled)])
        return LoadedStep(
            step,
            labeled,
            _targets(self.labeled, plan.labeled),
            self._unlabeled_views(plan.unlabeled, unlabeled),
            [view.sample for view in plan.labeled],
            [view.sample for view in plan.unlabeled],
            [view.record.name for view in views],
            sure_score=None
            if self.config.labels_complete
            else torch.full((len(plan.labeled),), self.config.sure_score),
        )

    def _views(
        self, images: Sequence[ImageRecord], positions: list[int], samples: list[int], draw: Draw, step: int
    ) -> list[PlannedView]:
        views = []
        for wanted, sample in zip(positions, samples, strict=True):
            position = self._standing_in(images, wanted) if self._bad else wanted
            record = self._record(images, position)
            geometry = self.augment.weak.draw(
                record.height, record.width, seed=self.seed, draw=draw, step=step, sample=sample
            )
            views.append(PlannedView(position, sample, record, geometry))
        return views

    def _share(self, batch: int) -> list[int]:
        """The samples of the global batch that belong to this process."""
        size = batch // self.world_size
        return list(range(self.rank * size, (self.rank + 1) * size))

    def _record(self, images: Sequence[ImageRecord], position: int) -> ImageRecord:
        try:
            return images[position]
        except InputError as error:  # of images that are opened when they are drawn
            raise _BadImage(error, labeled=images is self.labeled.images, position=position) from error

    def _standing_in(self, images: Sequence[ImageRecord], wanted: int) -> int:
        """The position of an image, or of the next one that is not known to be bad; of its orientation if there is one.

        Raises:
            InputError: If all are bad.
        """
        labeled = images is self.labeled.images
        if (labeled, wanted) not in self._bad:
            return wanted
        others = ((wanted + ahead) % len(images) for ahead in range(1, len(images)))
        sound = (position for position in others if (labeled, position) not in self._bad)
        if isinstance(images, UnopenedImages):
            found = next(sound, None)
        else:
            candidates = list(sound)
            shape = is_portrait([images[wanted]])[0]
            alike = (position for position in candidates if is_portrait([images[position]])[0] == shape)
            found = next(alike, next(iter(candidates), None))
        if found is None:
            raise InputError(f"none of the {len(images):,} images can be read; the last: {self._bad[labeled, wanted]}")
        return found

    def _unlabeled_views(self, views: list[PlannedView], weak: ImageBatch) -> UnlabeledViews | None:
        if not views:
            return None
        return UnlabeledViews(
            weak,
            torch.tensor([view.position for view in views]),
            torch.stack([view.geometry.matrix(view.record.height, view.record.width) for view in views]),
            None if self.hidden is None else _targets(self.hidden, views),
        )


def _pixels(view: PlannedView, *, labeled: bool) -> Tensor:
    try:
        return load_image(view.record)
    except InputError as error:
        raise _BadImage(error, labeled=labeled, position=view.position) from error


def _targets(images: LabeledImages, views: list[PlannedView]) -> Targets:
    boxes, regions = _moved(images.boxes, views), images.regions
    labels = [images.labels[view.position] for view in views]
    return pad_targets(boxes, labels, None if regions is None else _moved(regions, views))


def _moved(boxes: Sequence[Boxes], views: list[PlannedView]) -> list[Boxes]:
    """The boxes of the views' images on the views."""
    return [move_boxes(boxes[view.position], view.record.height, view.record.width, view.geometry) for view in views]


def _every_step(_: int) -> bool:
    return True


def step_loader(
    dataset: Dataset[LoadedStep | InputError], steps: range, *, workers: int, pin_memory: bool
) -> DataLoader[LoadedStep | InputError]:
    """The dataset's steps in order, made ahead by loader processes."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=2 if workers else None,
        worker_init_fn=begin_worker,
    )
