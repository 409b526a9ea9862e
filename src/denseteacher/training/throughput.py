"""How fast a run is, counted on the host alone: no device is waited for."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

import torch

from denseteacher.data.loaders import LoadedStep
from denseteacher.training.flops import PassFlops, pass_flops, peak_speed
from denseteacher.training.learner import Learner


class Throughput:
    """Time, images and operations of the steps since it was last read."""

    def __init__(self, learner: Learner) -> None:
        """Watches a learner's steps.

        Args:
            learner: Its views of student and labeler count the pixels that they are shown.
        """
        self._learner = learner
        self._views = (learner.student, learner.labeler_view)
        self._shape = (0, 0)
        self.last_seconds = 0.0
        """Of the last step, its wait for data included; on a GPU of what the host did."""
        self._clear()

    def _clear(self) -> None:
        self._steps = self._images = self._real = self._canvas = 0
        self._data_wait = self._seconds = 0.0
        self._pixels = Counter[bool]()

    @contextmanager
    def step(self, loaded: LoadedStep, data_wait: float) -> Iterator[None]:
        """Around one step.

        Args:
            loaded: What it is made of.
            data_wait: Seconds that were waited for it.
        """
        for view in self._views:
            view.pixels.clear()
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
            self._canvas += images.pixels.numel() // 3
        for view in self._views:
            self._pixels.update(view.pixels)

    def read(self) -> dict[str, float]:
        """Means over the steps since the last call; the last of them has waited for the device.

        Returns:
            ``data_wait`` and ``step_seconds`` (seconds a step), ``images_per_second`` (labeled and unlabeled ones of
            all processes), ``padded_share`` of their canvases, ``mfu`` (counted operations of the networks' passes
            over what the device could have done meanwhile) where they can be counted, and on a GPU ``peak_gib``, the
            memory that tensors took at most since the run began.
        """
        runtime, seconds = self._learner.runtime, self._seconds
        values = {
            "data_wait": self._data_wait / self._steps,
            "step_seconds": seconds / self._steps,
            "images_per_second": self._images * runtime.world_size / seconds,
            "padded_share": 1 - self._real / self._canvas,
        }
        if self.flops is not None:
            done = self.flops.training * self._pixels[True] + self.flops.forward * self._pixels[False]
            values["mfu"] = done / seconds / (1e12 * peak_speed(runtime.device, runtime.dtype)[0])
        if runtime.device.type == "cuda":
            values["peak_gib"] = torch.cuda.max_memory_allocated(runtime.device) / 2**30
        self._clear()
        return values

    @cached_property
    def flops(self) -> PassFlops | None:
        """Counted once, on the canvas of the first step that is read."""
        try:
            return pass_flops(self._learner.student_module, self._shape)
        except Exception:  # in how many ways a network of others may refuse tensors without storage, nobody knows
            return None
