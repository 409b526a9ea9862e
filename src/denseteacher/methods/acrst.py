"""ACRST (Zhang et al., "Adaptive Class-Rebalancing Self-Training", AAAI 2022) on one-stage detectors."""

from functools import partial
from typing import Literal, Self

import torch
from pydantic import Field, PositiveFloat, model_validator

from denseteacher.data.augment.copy_paste import (
    NUMBERS_PER_PASTE,
    Collage,
    PasteRule,
    cut_out,
    deposit,
    draw,
    empty_bank,
    paste,
)
from denseteacher.data.randomness import to_device
from denseteacher.detectors.base import DenseDetector
from denseteacher.methods.base import state_or_initial
from denseteacher.methods.mean_teacher import StudentTask
from denseteacher.methods.pseudo_box import PseudoBoxTeacher, to_strong_view
from denseteacher.pseudo_labels.boxes import PseudoBoxes
from denseteacher.pseudo_labels.class_statistics import accumulate_mass, even_mass, relative_mass
from denseteacher.structures import (
    METHOD_RANDOM,
    DenseOutput,
    LabeledBatch,
    LossDict,
    LossWeights,
    MethodState,
    Targets,
    UnlabeledBatch,
    cat,
)

_MOST_PASTES = (METHOD_RANDOM - 1) // NUMBERS_PER_PASTE


class ACRST(PseudoBoxTeacher):
    """Objects from a crop bank are pasted into the student's unlabeled images, those of rare classes more often.

    What is known of the paper: its abstracts, not its text (docs/sources.md, ACRST). From them: the bank
    of instance crops from ground truth and pseudo-labels, foreground against background balanced by pasting
    them, foreground classes balanced by drawing rare ones more often after the statistics of pseudo-labels, a
    filter of pseudo-labels in two stages, and selective supervision. Not found, so ours: every number, and

    - the bank: a ring of the latest crops of each class, cut from the weak views, all resized to one square;
    - the draw: first how many, then for each a class with odds ``r_c ** -balance``, ``r_c`` being its share of
      the boxes (ground truth and pseudo-boxes, a moving average) over that of the most frequent class;
    - the paste: a rectangle at about the object's own size, wholly inside the image, on the strong view, after
      its changes of color; boxes that one pasted object covers for the most part are dropped;
    - selective supervision: pasted ground truth teaches class, box and quality; pseudo-boxes, pasted or not,
      teach the class alone, since a score says nothing of a box's place.

    Not reproduced: the filter's second stage, a classifier of whole images, for which the detectors here have
    no branch. Only the score stage is left: ``threshold``, and ``crop_threshold`` for what enters the bank.
    Labeled images get no pasted objects, so that the supervised part is that of the other methods.
    """

    name: Literal["acrst"] = "acrst"
    box: bool = True
    crop_threshold: float = Field(0.7, ge=0, lt=1)
    """Pseudo-boxes must score above this to be cut out: an error in the bank is pasted again and again."""
    crops: int = Field(16, gt=0)
    """Crops kept of a class. With the default side 80 classes take 35 MB."""
    crop_side: int = Field(96, gt=0)
    """Crops are stored with this height and width in pixels; larger objects come back blurred."""
    crops_per_step: int = Field(32, gt=0)
    """Most crops that a process adds in a step."""
    pastes: int = Field(2, ge=0, le=_MOST_PASTES)
    """Most objects pasted into an image; every number up to this is as likely."""
    zoom: tuple[PositiveFloat, PositiveFloat] = (0.75, 1.33)
    """Smallest and largest factor of a pasted object's size."""
    largest_side: float = Field(0.5, gt=0, le=1)
    """Pasted objects have no side above this share of the image's."""
    most_covered: float = Field(0.7, ge=0, le=1)
    """A box of which a pasted object covers more than this share is no longer learned."""
    balance: float = Field(0.5, ge=0)
    """0 draws all classes alike, 1 by their inverse frequency."""
    least_share: float = Field(0.01, gt=0, le=1)
    """Classes rarer than this share of the most frequent one are treated as if they had it."""
    memory: float = Field(0.999, ge=0, lt=1)
    """Share of the class statistics that stays from step to step."""

    @model_validator(mode="after")
    def _check_zoom(self) -> Self:
        if not 0 < self.zoom[0] <= self.zoom[1]:
            raise ValueError("zoom must be two positive factors, the smaller one first")
        return self

    def initial_state(self, *, classes: int, unlabeled: int) -> MethodState:
        """``mass``: (K,) fp32, even; and an empty bank, see ``pseudo_labels.crops``."""
        return {"mass": even_mass(classes)} | empty_bank(classes, self.crops, self.crop_side)

    def student_task(
        self,
        detector: DenseDetector,
        teacher_output: DenseOutput,
        labeled: LabeledBatch,
        unlabeled: UnlabeledBatch,
        state: MethodState | None,
    ) -> StudentTask:
        """See ``MeanTeacher``; what is pasted is from the steps before."""
        state = state_or_initial(self, state, detector, unlabeled)
        found = self.pseudo_boxes(detector, teacher_output, unlabeled.weak, self.threshold)
        collage = self.paste(unlabeled, to_strong_view(found.targets, unlabeled), state)
        after = self.remember(labeled, unlabeled, found, state)
        task = self.box_task(detector, unlabeled, collage.targets, images=collage.images, state=after)
        pasted = collage.targets.mask[:, found.mask.shape[1] :].sum() / len(found.mask)
        losses = partial(self.selective_losses, detector, collage)
        return task._replace(loss=losses, metrics=task.metrics | {"pseudo/pasted": pasted})

    def paste(self, unlabeled: UnlabeledBatch, targets: Targets, state: MethodState) -> Collage:
        """The strong views with objects of the bank in them, and the boxes of both."""
        collage = Collage(unlabeled.strong, targets, torch.zeros_like(targets.mask))
        random = to_device(targets.mask.device, unlabeled.random)
        wanted = (random[:, 0] * (self.pastes + 1)).long()
        odds = relative_mass(state["mass"], least=self.least_share) ** -self.balance
        rule = PasteRule(self.zoom, self.largest_side, self.most_covered)
        own = torch.split(random[:, 1:], NUMBERS_PER_PASTE, dim=1)[: self.pastes]
        for number, share in enumerate(own):
            crops = draw(state, odds, share[:, :2])
            crops = crops._replace(mask=crops.mask & (wanted > number))
            collage = paste(collage, crops, share[:, 2:], rule)
        return collage

    def remember(
        self, labeled: LabeledBatch, unlabeled: UnlabeledBatch, found: PseudoBoxes, state: MethodState
    ) -> MethodState:
        """The state with this step's objects: ground truth of the labeled images, and confident pseudo-boxes."""
        sure = found.targets._replace(mask=found.mask & (found.scores > self.crop_threshold))
        objects = _together(labeled.targets, sure)
        true = torch.arange(len(objects.mask), device=objects.mask.device) < len(labeled.targets.mask)
        crops = cut_out(
            cat(labeled.weak, unlabeled.weak),
            objects,
            true[:, None].expand_as(objects.mask),
            classes=len(state["mass"]),
            count=self.crops_per_step,
            side=self.crop_side,
        )
        everything = _together(labeled.targets, found.targets)
        mass = accumulate_mass(state["mass"], everything.labels, everything.mask, memory=self.memory)
        return {"mass": mass} | deposit(state, crops)

    def selective_losses(self, detector: DenseDetector, collage: Collage, output: DenseOutput) -> LossDict:
        """``cls`` of all boxes, ``box`` and ``quality`` of those that are known to be right."""
        losses = self.box_losses(detector, collage.targets, None, output)
        if self.box:
            weights = LossWeights(boxes=collage.true.to(output.logits.dtype))
            losses = self.box_losses(detector, collage.targets, weights, output) | {"cls": losses["cls"]}
        return losses


def _together(first: Targets, second: Targets) -> Targets:
    """The objects of two batches of images as those of one, padded alike."""
    room = max(first.mask.shape[1], second.mask.shape[1])
    return cat(_padded(first, room), _padded(second, room))


def _padded(targets: Targets, room: int) -> Targets:
    """The objects with zeros up to ``room`` rows an image."""
    spare = room - targets.mask.shape[1]
    columns = (torch.cat((rows, rows.new_zeros(len(rows), spare, *rows.shape[2:])), dim=1) for rows in targets[:3])
    return Targets(*columns)
