"""Counter-based randomness: every draw is a pure function of what it is for.

A draw is keyed by (seed, step, sample, view). So a batch has the same bytes whatever the number of workers,
and a resumed run needs no generator state (docs/sources.md, Batches and randomness).
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor


class Draw(IntEnum):
    """What a draw is for; part of its key, so that no two purposes share numbers."""

    ORDER = 0
    SAMPLE = 1
    LABELED_WEAK = 2
    LABELED_STRONG = 3
    UNLABELED_WEAK = 4
    UNLABELED_STRONG = 5
    SPLIT = 6
    DIGITS = 7
    GEOMETRY = 8
    METHOD = 9
    SCALE = 10
    CHUNKS = 11
    NETWORK = 12


def keyed_generator(seed: int, *key: int) -> np.random.Generator:
    """A generator for one draw.

    Args:
        seed: The run's seed.
        *key: Non-negative integers that say what is drawn: a ``Draw``, then for example step and sample.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, *map(int, key)])))


def keyed_uniforms(seed: int, draw: Draw, step: int, samples: Sequence[int], count: int) -> Tensor:
    """(B, count) fp32 uniform numbers in [0, 1), one row a sample, each row from its own key.

    Args:
        seed: The run's seed.
        draw: What the numbers are for.
        step: The optimizer step.
        samples: Positions of the rows' images in the global batch, so that the numbers do not depend on how
            many processes share it.
        count: Numbers a sample.
    """
    rows = [keyed_generator(seed, draw, step, sample).random(count, dtype=np.float32) for sample in samples]
    return torch.from_numpy(np.stack(rows))


def further_uniforms(numbers: Tensor, count: int) -> Tensor:
    """(B, count) fp32 uniform numbers in [0, 1) for whoever needs more of them than it was given.

    Args:
        numbers: (B, n) fp32 uniform numbers in [0, 1) on the host; each row is the key of its new ones.
        count: Numbers a row.
    """
    keys = (numbers.double() * 2**24).long().tolist()
    return torch.from_numpy(np.stack([keyed_generator(*key).random(count, dtype=np.float32) for key in keys]))


def to_device(device: torch.device, values: Tensor) -> Tensor:
    """Moves host numbers; only from pinned memory does a GPU take them without being waited for."""
    return (values.pin_memory() if device.type == "cuda" else values).to(device, non_blocking=True)
