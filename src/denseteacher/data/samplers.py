"""Which images a step sees: endless orders that are pure functions of (seed, step)."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from denseteacher.data.randomness import Draw, keyed_generator
from denseteacher.data.records import ImageRecord

Positions = npt.NDArray[np.int64]


def is_portrait(images: Sequence[ImageRecord]) -> npt.NDArray[np.bool_]:
    """(n,) True where an image is taller than wide."""
    return np.fromiter((image.height > image.width for image in images), dtype=np.bool_, count=len(images))


class LabeledSampler:
    """Epochs of the labeled images, each image once an epoch, in batches of one orientation.

    One orientation to a batch keeps padding small (1.35 instead of 1.85 padded pixels a real one on COCO;
    performance_and_reliability.md, section 1.3). What does not fill a batch of its orientation goes into mixed
    batches at random places of the epoch; the last of these is filled up with other images of the epoch.
    """

    def __init__(self, portrait: npt.NDArray[np.bool_], batch_size: int, seed: int) -> None:
        """Plans for images with these orientations (``is_portrait``)."""
        self.portrait = portrait
        self.batch_size = batch_size
        self.seed = seed
        groups = [int(portrait.sum()), int((~portrait).sum())]
        full = sum(size // batch_size for size in groups)
        rest = sum(size % batch_size for size in groups)
        self.batches_per_epoch = full + -(-rest // batch_size)
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
        size = self.batch_size
        full = [group[: len(group) // size * size].reshape(-1, size) for group in grouped]
        rest = np.concatenate([group[len(group) // size * size :] for group in grouped])
        missing = -len(rest) % size
        mixed = np.concatenate([rest, np.resize(order, missing)]).reshape(-1, size)
        batches = np.concatenate([*full, mixed])
        return batches[rng.permutation(len(batches))]

    def __getstate__(self) -> dict[str, object]:
        """A cache can't travel to a worker process."""
        return {key: value for key, value in self.__dict__.items() if key != "_epoch"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._epoch = lru_cache(maxsize=2)(self._plan_epoch)


class UnlabeledSampler:
    """Uniform draws with replacement, as published, from the images of a wanted orientation."""

    def __init__(self, portrait: npt.NDArray[np.bool_], batch_size: int, seed: int) -> None:
        """Draws among images with these orientations (``is_portrait``)."""
        self.pools = {value: np.flatnonzero(portrait == value) for value in (True, False)}
        self.everything = np.arange(len(portrait))
        self.batch_size = batch_size
        self.seed = seed

    def batch(self, step: int, portrait: bool) -> Positions:
        """(batch_size,) positions; of any orientation where there is none of the wanted one."""
        pool = self.pools[portrait] if len(self.pools[portrait]) else self.everything
        rng = keyed_generator(self.seed, Draw.SAMPLE, step)
        return pool[rng.integers(len(pool), size=self.batch_size)]
