"""The files of a run that a trainer reads and writes, by whatever names they have."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.training.checkpoint import CheckpointFolder
from denseteacher.training.metrics_log import MetricsLog

BURN_IN = "burn_in"
"""Name of the checkpoint that is written when the burn-in ends, and never removed."""


class TrainingFiles(NamedTuple):
    """What a trainer writes; in a run of several processes the main one alone."""

    checkpoints: CheckpointFolder
    log: MetricsLog
    detector: Path
    """File of the best teacher."""
    nonfinite: Path
    """File for the images and losses of a step at which the run gives up."""
    failure: Path
    """File for the traceback of an evaluation that failed."""


class BurnIn(NamedTuple):
    """The burn-in of another run, from which a run can start."""

    checkpoint: Path
    detector: Path | None
    """File of its best teacher; None where it was never evaluated."""
    rows: Sequence[Mapping[str, Any]]
    """What that run has logged, the burn-in and perhaps more."""
