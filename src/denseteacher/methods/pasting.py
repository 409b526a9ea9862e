"""What methods share that paste objects of a crop bank into the unlabeled images."""

from typing import Self

import torch
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor

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
from denseteacher.data.randomness import further_uniforms, to_device
from denseteacher.methods.mean_teacher import MeanTeacher
from denseteacher.pseudo_labels.class_statistics import accumulate_mass, even_mass, relative_mass
from denseteacher.structures import ImageBatch, MethodState, Targets, UnlabeledBatch

MOST_PASTES = 50
MOST_CROPS = 4096
"""Kept in all, whatever the number of classes: with the default side 113 MB."""


class PastingTeacher(MeanTeacher):
    """A mean teacher that keeps a bank of objects cut out of images, and pastes some of them into others.

    Its state is ``mass``, (K,) fp32, how often each class occurs, and the bank (see ``data.augment.copy_paste``).
    """

    crops: int = Field(16, gt=0)
    """Crops kept of a class; fewer where there are many classes, so that all have 4,096 at most. With the default
    side 80 classes take 35 MB."""
    crop_side: int = Field(96, gt=0)
    """Crops are stored with this height and width in pixels; larger objects come back blurred."""
    crops_per_step: int = Field(32, gt=0)
    """Most crops that a process adds in a step."""
    pastes: int = Field(2, ge=0, le=MOST_PASTES)
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
        """See ``Method``: all classes occur alike, and the bank is empty; nothing where nothing is pasted."""
        if self.pastes == 0:
            return {}
        room = max(1, min(self.crops, MOST_CROPS // classes))
        return {"mass": even_mass(classes)} | empty_bank(classes, room, self.crop_side)

    def paste(self, unlabeled: UnlabeledBatch, targets: Targets, state: MethodState) -> Collage:
        """The strong views with objects of the bank in them, and the boxes of both.

        Args:
            unlabeled: B images.
            targets: Boxes that lie on them.
            state: Of the steps before.
        """
        collage = Collage(unlabeled.strong, targets, torch.zeros_like(targets.mask))
        random = to_device(targets.mask.device, self._random(unlabeled.random))
        wanted = (random[:, 0] * (self.pastes + 1)).long()
        odds = relative_mass(state["mass"], least=self.least_share) ** -self.balance
        rule = PasteRule(self.zoom, self.largest_side, self.most_covered)
        own = torch.split(random[:, 1:], NUMBERS_PER_PASTE, dim=1)[: self.pastes]
        for number, share in enumerate(own):
            crops = draw(state, odds, share[:, :2])
            crops = crops._replace(mask=crops.mask & (wanted > number))
            collage = paste(collage, crops, share[:, 2:], rule)
        return collage

    def _random(self, given: Tensor) -> Tensor:
        """(B, n) uniform numbers in [0, 1) on the host: one, and those of each paste."""
        more = 1 + NUMBERS_PER_PASTE * self.pastes - given.shape[1]
        return given if more <= 0 else torch.cat((given, further_uniforms(given, more)), 1)

    def remember(
        self, images: ImageBatch, objects: Targets, true: Tensor, occurring: Targets, state: MethodState
    ) -> MethodState:
        """The state with a step's objects.

        Args:
            images: Images to cut out of.
            objects: Boxes that are cut out.
            true: (B, G) bool, whether a box is ground truth.
            occurring: Objects that are counted, of any images.
            state: Of the steps before.
        """
        crops = cut_out(
            images, objects, true, classes=len(state["mass"]), count=self.crops_per_step, side=self.crop_side
        )
        mass = accumulate_mass(state["mass"], occurring.labels, occurring.mask, memory=self.memory)
        return {"mass": mass} | deposit(state, crops)
