"""Which images a step sees: endless orders that are pure functions of (seed, step)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from denseteacher.data.formats.litdata import StreamedImages
from denseteacher.data.randomness import Draw, keyed_generator
from denseteacher.data.records import ImageRecord, UnopenedImages
from denseteacher.errors import InputError

Positions = npt.NDArray[np.int64]


def is_portrait(images: Sequence[ImageRecord]) -> npt.NDArray[np.bool_]:
    """(n,) True where an image is taller than wide."""
    return np.fromiter((image.height > image.width for image in images), dtype=np.bool_, count=len(images))


class LabeledSampler:
    """Epochs of the labeled images, each image once an epoch, in groups of one orientation.

    One orientation to a batch keeps padding small (1.35 instead of 1.85 padded pixels a real one on COCO;
    docs/sources.md, Batches and randomness). What does not fill a group of its orientation goes into mixed
    groups at random places of the epoch; the last of these is filled up with other images of the epoch, and
    the last batch with other groups.
    """

    def __init__(self, portrait: npt.NDArray[np.bool_], batch_size: int, seed: int, group: int | None = None) -> None:
        """Plans for images with these orientations (``is_portrait``).

        Args:
            portrait: (n,) True where an image is taller than wide.
            batch_size: Images a step.
            seed: Random seed of the run.
            group: Images of a batch that have one orientation, a divisor of ``batch_size``; all if not given.
        """
        self.portrait = portrait
        self.batch_size = batch_size
        self.group = size = group or batch_size
        self.seed = seed
        kinds = [int(portrait.sum()), int((~portrait).sum())]
        groups = sum(images // size for images in kinds) + -(-sum(images % size for images in kinds) // size)
        self.batches_per_epoch = -(-groups * size // batch_size)
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)

    def batch(self, step: int) -> Positions:
        """(batch_size,) positions of the step's images."""
        epoch, index = divmod(step, self.batches_per_epoch)
        positions: Positions = self._epoch(epoch)[index]
        return positions

    def _plan_epoch(self, epoch: int) -> Positions:
        """(batches, batch_size) positions."""
        rng = keyed_generator(self.seed, Draw.ORDER, epoch)
        order = rng.permutation(len(self.portrait))
        grouped = [order[self.portrait[order]], order[~self.portrait[order]]]
        size = self.group
        full = [group[: len(group) // size * size].reshape(-1, size) for group in grouped]
        rest = np.concatenate([group[len(group) // size * size :] for group in grouped])
        missing = -len(rest) % size
        mixed = np.concatenate([rest, np.resize(order, missing)]).reshape(-1, size)
        groups = np.concatenate([*full, mixed])
        groups = groups[rng.permutation(len(groups))]
        return np.resize(groups, (self.batches_per_epoch, self.batch_size))  # from its beginning where it is too short

    def __getstate__(self) -> dict[str, object]:
        """A cache can't travel to a worker process."""
        return {key: value for key, value in self.__dict__.items() if key != "_epoch"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)


class UnlabeledSampler(Protocol):
    """Which unlabeled images a step sees."""

    def positions(self, step: int, samples: Sequence[int], *, portrait: bool | None) -> list[int]:
        """Positions of the images at some samples of the global batch.

        Args:
            step: Of the run.
            samples: Places in the global batch.
            portrait: Whether all are taller than wide, as far as there are such; None takes any.

        Raises:
            InputError: If an image can't be opened that had to be looked at.
        """


class UniformSampler:
    """Uniform draws with replacement, as published, from the images of a wanted orientation."""

    def __init__(self, portrait: npt.NDArray[np.bool_], batch_size: int, seed: int) -> None:
        """Draws among images with these orientations (``is_portrait``)."""
        self.pools = {value: np.flatnonzero(portrait == value) for value in (True, False)}
        self.everything = np.arange(len(portrait))
        self.batch_size = batch_size
        self.seed = seed

    def positions(self, step: int, samples: Sequence[int], *, portrait: bool | None) -> list[int]:
        """See ``UnlabeledSampler``; of any orientation where there is no image of the wanted one."""
        pool = self.everything if portrait is None else self.pools[portrait]
        pool = pool if len(pool) else self.everything
        rng = keyed_generator(self.seed, Draw.SAMPLE, step)
        drawn = pool[rng.integers(len(pool), size=self.batch_size)]
        return [int(drawn[sample]) for sample in samples]


class LookingSampler:
    """Uniform draws with replacement from images whose orientations nobody knows before they are opened.

    For each sample candidates are opened until one has the wanted orientation; after ``LOOKS`` it is the first one. On
    COCO, a quarter of which is portrait, that is 1.3 images a sample of a landscape batch, 4 of a portrait one.
    """

    LOOKS = 16
    passes_over_bad_images = False
    """Whether an image that can't be opened is looked past; else the draw has its error."""

    def __init__(self, images: UnopenedImages, batch_size: int, seed: int) -> None:
        """Draws among these images."""
        self.images = images
        self.batch_size = batch_size
        self.seed = seed

    def positions(self, step: int, samples: Sequence[int], *, portrait: bool | None) -> list[int]:
        """See ``UnlabeledSampler``."""
        candidates = self.candidates(step)
        return [self._fitting(candidates[sample].tolist(), portrait=portrait) for sample in samples]

    def candidates(self, step: int) -> Positions:
        """(batch_size, LOOKS) positions to look at, in this order."""
        rng = keyed_generator(self.seed, Draw.SAMPLE, step)
        return rng.integers(len(self.images), size=(self.batch_size, self.LOOKS))

    def _fitting(self, candidates: list[int], *, portrait: bool | None) -> int:
        for position in candidates:
            try:
                image = self.images[position]
            except InputError:
                if not self.passes_over_bad_images:
                    raise
                continue
            if portrait in (None, image.height > image.width):
                return position
        return candidates[0]


class WindowSampler(LookingSampler):
    """Epochs of images that lie in chunks, so that a few chunks at a time are enough.

    An epoch takes the chunks in a random order, ``WINDOW`` of them at a time, and shuffles the images of these. An
    image that lies the wrong way for its batch is replaced by another one of its window, drawn at random.
    """

    WINDOW = 16

    def __init__(self, images: StreamedImages, batch_size: int, seed: int) -> None:
        """Goes through these images."""
        super().__init__(images, batch_size, seed)
        self._stream = images
        self._sizes, self._begins = images.chunk_sizes, np.cumsum(images.chunk_sizes) - images.chunk_sizes
        self._windows = -(-len(self._sizes) // self.WINDOW)
        self._reached = (-1, -1)

    def positions(self, step: int, samples: Sequence[int], *, portrait: bool | None) -> list[int]:
        """See ``UnlabeledSampler``. The next window is downloaded while this one is in use."""
        epoch, index, _ = self._place(step * self.batch_size)
        if (epoch, index) != self._reached:
            self._reached = (epoch, index)
            following = divmod(epoch * self._windows + index + 1, self._windows)
            self._stream.fetch_ahead([*self._chunks(epoch, index), *self._chunks(*following)])
        return super().positions(step, samples, portrait=portrait)

    def candidates(self, step: int) -> Positions:
        """See ``LookingSampler``."""
        rng = keyed_generator(self.seed, Draw.SAMPLE, step)
        others = rng.random((self.batch_size, self.LOOKS - 1))
        window = lru_cache(self._window)
        candidates = np.empty((self.batch_size, self.LOOKS), np.int64)
        for sample in range(self.batch_size):
            epoch, index, behind = self._place(step * self.batch_size + sample)
            images = window(epoch, index)
            candidates[sample, 0] = images[-behind]
            candidates[sample, 1:] = images[(others[sample] * len(images)).astype(np.int64)]
        return candidates

    def _place(self, number: int) -> tuple[int, int, int]:
        """Epoch and window of the run's image of this number, and how far before the window's end it stands."""
        epoch, within = divmod(number, len(self.images))
        ends = self._window_ends(epoch)
        index = int(np.searchsorted(ends, within, side="right"))
        return epoch, index, int(ends[index]) - within

    def _order(self, epoch: int) -> Positions:
        """The chunks of an epoch."""
        return _chunk_order(self.seed, epoch, len(self._sizes))

    def _window_ends(self, epoch: int) -> Positions:
        """Images of the epoch up to the end of each window."""
        sizes = self._sizes[self._order(epoch)]
        return np.cumsum(np.add.reduceat(sizes, np.arange(0, len(sizes), self.WINDOW)))

    def _chunks(self, epoch: int, index: int) -> list[int]:
        """The chunks of a window."""
        return [int(chunk) for chunk in self._order(epoch)[index * self.WINDOW : (index + 1) * self.WINDOW]]

    def _window(self, epoch: int, index: int) -> Positions:
        """Positions of the images of a window, in their order."""
        chunks = self._chunks(epoch, index)
        images = np.concatenate([np.arange(self._sizes[chunk]) + self._begins[chunk] for chunk in chunks])
        return keyed_generator(self.seed, Draw.CHUNKS, epoch, index + 1).permutation(images)


@lru_cache(maxsize=2)  # asked for again for every image of a step
def _chunk_order(seed: int, epoch: int, chunks: int) -> Positions:
    return keyed_generator(seed, Draw.CHUNKS, epoch).permutation(chunks)


def unlabeled_sampler(images: Sequence[ImageRecord], batch_size: int, seed: int) -> UnlabeledSampler:
    """The draws that fit how much is known of the images, and where they lie."""
    if isinstance(images, StreamedImages):
        return WindowSampler(images, batch_size, seed)
    if isinstance(images, UnopenedImages):
        return LookingSampler(images, batch_size, seed)
    return UniformSampler(is_portrait(images), batch_size, seed)
