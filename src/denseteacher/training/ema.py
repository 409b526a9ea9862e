"""The mean teacher: an exponential moving average of the student."""

import copy
from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor, nn
from torch.autograd.profiler import record_function

from denseteacher.config import Config


class EMAConfig(Config):
    """How the teacher follows the student."""

    decay: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = 0.9996
    """Share of itself the teacher keeps a step. It must fit the schedule: 0.9996 remembers about 2,500
    steps, far too many for a run of 2,000."""
    start: NonNegativeInt | Literal["auto"] = 3000
    """Step at which averaging begins; up to it the teacher is a copy of the student."""


def ema_decay(step: int, config: EMAConfig) -> float:
    """The decay after optimizer step ``step`` (0-based): 0, a copy, up to and including step ``start``.

    Args:
        step: Optimizer steps done before this one.
        config: Nothing in it is ``auto``.
    """
    return float(config.decay) if step > int(config.start) else 0.0


class Teacher:
    """Keeps a copy of a student, in eval mode and without gradients, and moves it after each step.

    Floating buffers (batch-norm statistics) are averaged like parameters, all others copied: averaging
    parameters alone leaves a teacher with the statistics of an untrained network.

    Source: docs/sources.md, Batches and randomness.
    """

    def __init__(self, student: nn.Module) -> None:
        """Starts as a copy of the student."""
        self.module = copy.deepcopy(student).eval().requires_grad_(False)
        self._student_floats, self._student_others = _tensors(student)
        self._floats, self._others = _tensors(self.module)

    def copy(self) -> None:
        """Teacher = student."""
        self.update(0.0)

    def undo_counts(self) -> None:
        """Student's whole-number buffers = teacher's: as they were before a step that came to no end."""
        for own, other in zip(self._others, self._student_others, strict=True):
            other.copy_(own)

    @torch.no_grad()
    @record_function("EMA")
    def update(self, decay: float) -> None:
        """Teacher = decay * teacher + (1 - decay) * student."""
        torch._foreach_lerp_(self._floats, self._student_floats, 1.0 - decay)
        for own, other in zip(self._others, self._student_others, strict=True):
            own.copy_(other)


def _tensors(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """All parameters and buffers of a module: the floating ones, the others."""
    everything = [*module.parameters(), *module.buffers()]
    return (
        [tensor.data for tensor in everything if tensor.is_floating_point()],
        [tensor.data for tensor in everything if not tensor.is_floating_point()],
    )
