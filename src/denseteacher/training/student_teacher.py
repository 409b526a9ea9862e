"""One training step: what it changes in student and teacher, without waiting for the device."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from timm.layers.drop import DropPath
from torch import Tensor, nn

from denseteacher.data.augment.config import AugmentConfig
from denseteacher.data.config import DataConfig
from denseteacher.data.loading.steps import LoadedStep
from denseteacher.data.loading.strong_views import with_strong_views
from denseteacher.data.randomness import Draw, keyed_generator
from denseteacher.detectors import load_weights
from denseteacher.methods import Method
from denseteacher.structures import MethodState, SemiBatch
from denseteacher.training.ema import EMAConfig, Teacher, ema_decay
from denseteacher.training.optim import (
    OptimConfig,
    begin_momentum,
    build_optimizer,
    clip_gradients,
    learning_rate,
    set_rate,
)
from denseteacher.training.runtime import Runtime
from denseteacher.training.schedule import ScheduleConfig

_REMEMBERED = 50
"""Steps over which the share of skipped ones is averaged."""


class StepRecipe(Protocol):
    """What a step needs of a recipe, which lies above (``recipes.schema.Recipe``); nothing in it is ``auto``."""

    @property
    def method(self) -> Method:
        """What the losses are."""

    @property
    def augment(self) -> AugmentConfig:
        """The views."""

    @property
    def data(self) -> DataConfig:
        """Sizes of the batches."""

    @property
    def optim(self) -> OptimConfig:
        """Optimizer and learning rate."""

    @property
    def ema(self) -> EMAConfig:
        """How the teacher follows the student."""

    @property
    def schedule(self) -> ScheduleConfig:
        """Length of the run, and micro-batches a step."""

    @property
    def seed(self) -> int:
        """Seed of all that is decided by chance."""


class StudentTeacher:
    """A student, its teacher and its optimizer. All that they decide by chance is a function of seed and step.

    Nothing here reads a number back from the device: ``values`` and ``nonfinite`` stay there until somebody does.
    """

    def __init__(self, student: nn.Module, recipe: StepRecipe, runtime: Runtime, *, unlabeled: int) -> None:
        """Sets up step 0.

        Args:
            student: The detector to train.
            recipe: What is done with it.
            runtime: Devices and precision.
            unlabeled: Number of unlabeled images.
        """
        self.runtime, self.method, self.augment, self.data = runtime, recipe.method, recipe.augment, recipe.data
        self.optim, self.ema_config, self.seed = recipe.optim, recipe.ema, recipe.seed
        self.max_steps, parts = int(recipe.schedule.max_steps), recipe.schedule.accumulate
        self.student_module = student.train()
        self.optimizer = build_optimizer(student, self.optim)
        self.student, self._stepper = runtime.setup(student, self.optimizer, parts)
        begin_momentum(self.optimizer)
        self.local_student = runtime.local(student)
        """The student as it is evaluated: not synchronized."""
        self.ema = Teacher(student)
        self.teacher = runtime.local(self.ema.module, parts)
        # as the teacher is at the end of the burn-in
        self.burned_in = Teacher(self.ema.module) if self.method.static_teacher else None
        self.pseudo_labeler = self.teacher if self.burned_in is None else runtime.local(self.burned_in.module, parts)
        """What labels unlabeled images."""
        self.parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self._leaves_out = any(isinstance(module, DropPath) and module.drop_prob for module in student.modules())
        self._buffers = [buffer for buffer in student.buffers() if buffer.is_floating_point()]
        fresh = self.method.initial_state(classes=self.student.num_classes, unlabeled=unlabeled)
        self.method_state = {name: value.to(runtime.device) for name, value in fresh.items()}
        self.step = 0
        """Optimizer steps done."""
        self.nonfinite = torch.zeros((), dtype=torch.int64, device=runtime.device)
        """Steps in a row, up to the last one, whose gradients were not finite."""
        self.nonfinite_steps = torch.zeros_like(self.nonfinite)
        """All steps whose gradients were not finite."""
        self.nonfinite_share = torch.zeros((), device=runtime.device)
        """Share of the last steps that were skipped, a mean that forgets over ``_REMEMBERED`` of them."""
        self.is_whole = True
        """False while student, teacher and optimizer are not all at the same step."""
        self.values: dict[str, Tensor] = {}
        """Losses and watched numbers of the last step."""

    def train_step(self, loaded: LoadedStep) -> None:
        """One optimizer step and one EMA update.

        Where the gradients are not finite the step is skipped: the student stays as it was, and the method remembers
        nothing. The teacher moves towards the student as in any step. Where losses can't be computed at all, as for
        lack of memory, everything is as it was before.
        """
        rate = learning_rate(self.optim, self.step, max_steps=self.max_steps, labeled_batch=self.data.labeled_batch)
        set_rate(self.optimizer, rate)
        batch = self._with_strong_views(loaded) if loaded.batch is None else loaded.batch
        before = [buffer.clone() for buffer in self._buffers]
        if self._leaves_out:
            # torch's own generator decides; seeded by the step, a resumed run needs no state of it
            key = keyed_generator(self.seed, Draw.NETWORK, self.step, self.runtime.rank)
            torch.manual_seed(int(key.integers(2**63)))
        try:
            values, state = self._backward(batch)
            norm = clip_gradients(self.parameters, self.optim)
        except BaseException:
            self._undo(before)
            raise
        self.is_whole = False
        finite = torch.isfinite(norm)  # the same in all processes, whose gradients are
        # what a gradient scaler uses to skip a step: fused optimizers look at it on the device
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self._stepper.step()
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, old in zip(self._buffers, before, strict=True):
            torch.where(finite, buffer, old, out=buffer)
        self.method_state = {name: torch.where(finite, state[name], old) for name, old in self.method_state.items()}
        self.nonfinite = torch.where(finite, 0, self.nonfinite + 1)
        self.nonfinite_steps = self.nonfinite_steps + ~finite
        self.nonfinite_share = torch.lerp(self.nonfinite_share, (~finite).float(), 1 / _REMEMBERED)
        self.ema.update(ema_decay(self.step, self.ema_config))
        if self.burned_in is not None and not self.method.needs_unlabeled(self.step):
            self.burned_in.copy()
        self.step += 1
        self.is_whole = True
        self.values = values | {"gradient_norm": norm, "lr": torch.tensor(rate)}

    def _backward(self, batch: SemiBatch) -> tuple[dict[str, Tensor], MethodState]:
        """Adds the gradients of a step; gives its numbers, and what the method remembers after it."""
        losses, metrics, remembered = self.method.losses(
            self.student, self.pseudo_labeler, batch, self.step, self.method_state
        )
        total = torch.stack(list(losses.values())).sum()
        self.runtime.backward(total)
        values = {name: value.detach() for name, value in (losses | metrics | {"loss": total}).items()}
        return values, self.method_state if remembered is None else remembered

    def _undo(self, buffers: list[Tensor]) -> None:
        """Takes back what a step without an end has left in the student.

        Args:
            buffers: Floating ones as they were before.
        """
        for buffer, old in zip(self._buffers, buffers, strict=True):
            buffer.copy_(old)
        self.ema.undo_counts()
        self.optimizer.zero_grad(set_to_none=True)

    def _with_strong_views(self, loaded: LoadedStep) -> SemiBatch:
        return with_strong_views(loaded, self.augment, seed=self.seed, device=self.runtime.device)

    def state(self) -> dict[str, Any]:
        """All that a bitwise continuation needs."""
        return {
            "step": self.step,
            "student": self.student_module.state_dict(),
            "teacher": self.ema.module.state_dict(),
            "labeler": None if self.burned_in is None else self.burned_in.module.state_dict(),
            "method": self.method_state,
            "optimizer": self.optimizer.state_dict(),
            "nonfinite": int(self.nonfinite),
            "nonfinite_steps": int(self.nonfinite_steps),
            "nonfinite_share": float(self.nonfinite_share),
        }

    def nonfinite_part(self) -> str | None:
        """What of the state holds NaN or infinity: ``student``, ``teacher``, ...; None where nothing does.

        Waits for the device.
        """
        parts = {
            "student": self.student_module.state_dict().values(),
            "teacher": self.ema.module.state_dict().values(),
            "pseudo-labeler": () if self.burned_in is None else self.burned_in.module.state_dict().values(),
            "method's memory": self.method_state.values(),
            "optimizer": [value for own in self.optimizer.state.values() for value in own.values()],
        }
        return next((name for name, values in parts.items() if not _all_finite(values)), None)

    def restore(self, state: dict[str, Any], *, source: str, same_method: bool = True) -> None:
        """Continues from what ``state`` gave.

        Args:
            state: What it gave, for this method or another one.
            source: Where it is from, for messages.
            same_method: False where another method wrote it, whose memory says nothing here.

        Raises:
            InputError: If it holds another architecture.
        """
        load_weights(self.student_module, state["student"], source=source)
        load_weights(self.ema.module, state["teacher"], source=source)
        if self.burned_in is not None:
            self.burned_in.copy()
            if same_method:
                load_weights(self.burned_in.module, state["labeler"], source=source)
        if same_method:
            self.method_state = {name: value.to(self.runtime.device) for name, value in state["method"].items()}
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]
        self.nonfinite.fill_(state["nonfinite"])
        self.nonfinite_steps.fill_(state.get("nonfinite_steps", 0))  # versions before did not count them
        self.nonfinite_share.fill_(state.get("nonfinite_share", 0.0))


def _all_finite(values: Iterable[object]) -> bool:
    floats = [value for value in values if isinstance(value, Tensor) and value.is_floating_point()]
    return not floats or bool(torch.stack([value.isfinite().all().to(floats[0].device) for value in floats]).all())
