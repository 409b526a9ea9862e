"""How long a run is, and what happens how often."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from denseteacher.config import Config


class ScheduleConfig(Config):
    """How long, and what happens how often."""

    max_steps: PositiveInt | Literal["auto"] = 180_000
    """Optimizer steps of the run; ``auto`` follows the size of the data (``recipes.resolve``)."""
    least_steps: int = Field(5_000, gt=0)
    """Fewest steps that ``max_steps: auto`` becomes."""
    most_steps: int = Field(90_000, gt=0)
    """Most steps that ``max_steps: auto`` becomes."""
    accumulate: int = Field(1, gt=0)
    """Parts that the networks compute a step's batch in, for a device that can't hold it whole. The step stays the same
    but for rounding; the student's forward is computed twice, but for the last part (``detectors.pieces``)."""
    evaluate_every: int = Field(2000, gt=0)
    """Steps between evaluations of teacher and student; the last step is evaluated in any case."""
    checkpoint_every: int = Field(2000, gt=0)
    """Steps between checkpoints, from which a stopped run goes on."""
    log_every: int = Field(20, gt=0)
    """Steps between rows of ``metrics.jsonl``; only these wait for the device."""
    preview_every: int = Field(1000, gt=0)
    """Steps between pictures of what the teacher says of a few unlabeled images."""
    keep_checkpoints: int = Field(2, gt=0)
    """Newest checkpoints that are kept."""
    max_nonfinite: int = Field(10, gt=0)
    """Steps in a row whose loss is not finite after which the run gives up, at the next logged one."""
    max_nonfinite_share: float = Field(0.5, gt=0, le=1)
    """Share of the last steps (a mean that forgets over 50 of them) whose loss may be not finite, above which the run
    gives up, at the next logged one; 1 never does."""

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.least_steps > self.most_steps:
            raise ValueError(f"least_steps is {self.least_steps}, above most_steps, which is {self.most_steps}")
        return self
