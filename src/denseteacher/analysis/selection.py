"""The learning region held against the ground truth: what it takes in, and what it leaves out."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from denseteacher.analysis.outputs import DetectorOutputs, OutputBatch, known_locations, share
from denseteacher.errors import InputError
from denseteacher.methods import DenseTeacher
from denseteacher.ops.assignment import BACKGROUND, Assignment
from denseteacher.pseudo_labels.dense import DensePseudoLabels
from denseteacher.runs.folder import RunFolder
from denseteacher.structures import Targets


class Selection(NamedTuple):
    """A batch's learning region, and what the ground truth says: (B, N) bool each, known locations alone.

    Locations that the assigner trains neither way are neither foreground nor background.
    """

    labels: DensePseudoLabels
    truth: Assignment
    known: Tensor
    foreground: Tensor
    background: Tensor
    selected: Tensor


class RegionCounts(NamedTuple):
    """Sums over images."""

    selected: int = 0
    true: int = 0
    right: int = 0
    """True locations whose highest score is that of their class."""
    hard: int = 0
    foreground: int = 0
    objects: int = 0
    missed: int = 0
    """Objects of whose locations none is selected."""
    without_location: int = 0
    """Missed objects to which the assigner gives no location."""

    @property
    def shares(self) -> dict[str, float | None]:
        """What a reader asks for."""
        return {
            "true_positives": share(self.true, self.selected),
            "right_class": share(self.right, self.true),
            "hard_negatives": share(self.hard, self.selected),
            "foreground_selected": share(self.true, self.foreground),
            "missed_objects": share(self.missed, self.objects),
            "objects_without_location": share(self.without_location, self.objects),
        }


def learning_rule(detector: Path, ratio: float | None) -> DenseTeacher:
    """How the learning region is selected: as the detector's run did, over whole batches, or by a ratio.

    Args:
        detector: Run folder, or a file in it.
        ratio: Share of the locations; that of the run if not given.

    Raises:
        InputError: If it is not given and there is no run of Dense Teacher.
    """
    if ratio is not None:
        if not 0 < ratio <= 1:
            raise InputError(f"--ratio is a share of the locations, above 0 and at most 1, not {ratio}")
        return DenseTeacher(ratio=ratio)
    run = RunFolder.of(detector)
    recipe = run.recipe() if run.exists else None
    if recipe is None or not isinstance(recipe.method, DenseTeacher):
        raise InputError(f"{detector} is of no run of dense_teacher: say which share is selected, as --ratio 0.01")
    return recipe.method.model_copy(update={"region": "top", "group_size": None, "group_canvas": False})


def select_region(outputs: DetectorOutputs, batch: OutputBatch, rule: DenseTeacher) -> Selection:
    """The learning region of a batch."""
    labels = rule.pseudo_labels(outputs.detector, batch.output)
    truth = outputs.assign(batch, batch.objects)
    known = known_locations(batch, truth)
    foreground, background = (truth.labels >= 0) & known, (truth.labels == BACKGROUND) & known
    return Selection(labels, truth, known, foreground, background, labels.selected & known)


def count_region(outputs: DetectorOutputs, rule: DenseTeacher) -> RegionCounts:
    """The sums over all images."""
    total = torch.zeros(len(RegionCounts._fields), dtype=torch.int64)
    for batch in outputs:
        found = select_region(outputs, batch, rule)
        true, hard = found.selected & found.foreground, found.selected & found.background
        right = true & (batch.output.logits.argmax(-1) == found.truth.labels)
        mask = batch.objects.mask
        missed = mask & ~_has_location(true, found.truth, batch.objects)
        without = mask & ~_has_location(found.foreground, found.truth, batch.objects)
        parts = (found.selected, true, right, hard, found.foreground, mask, missed, without)
        total += torch.stack([part.sum() for part in parts]).cpu()
    return RegionCounts(*total.tolist())


def _has_location(which: Tensor, truth: Assignment, objects: Targets) -> Tensor:
    """(B, G) bool, the objects to which at least one of some foreground locations (B, N) belongs."""
    found = torch.zeros(objects.mask.shape, device=which.device)
    return found.scatter_add(1, truth.matched, which.float()) > 0
