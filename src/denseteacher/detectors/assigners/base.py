"""What an assigner is: a validated value with one function over padded targets of a whole batch."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor

from denseteacher.config import Config
from denseteacher.ops.assignment import BACKGROUND, Assignment
from denseteacher.structures import Targets


class Locations(NamedTuple):
    """The N places of a detector that can be trained on a box."""

    anchors: Tensor
    """(N, 4) xyxy: those of ``DenseOutput``; their centers are the locations."""
    priors: Tensor
    """(N, 4) xyxy boxes that stand for a prediction before there is one: the anchors of an anchor-based detector,
    squares of side 8 strides on one whose anchors are locations."""
    strides: Tensor
    """(N,) px of the level of each."""
    levels: Tensor
    """(N,) int64 the pyramid level of each, 0 the finest."""


class Predictions(NamedTuple):
    """What a detector says at the locations of B images, detached."""

    logits: Tensor
    """(B, N, K) class logits."""
    boxes: Tensor
    """(B, N, 4) decoded boxes, xyxy pixels."""


class Misses(NamedTuple):
    """What it means that a detector is hardly or never trained on an object."""

    kind: str
    """What such an object is called."""
    meaning: str
    """What becomes of it."""
    ordinary: float
    """Share of the objects that are so in ordinary data: tiny or thin ones."""


class Assigner(Config, ABC):
    """Says which location is trained on which box; its options are its fields."""

    looks: ClassVar[bool] = False
    """Whether it looks at predictions."""
    soft_labels: ClassVar[bool] = False
    """Whether the weights of its assignment are the target of the class, in place of 1, too."""
    misses: ClassVar[Misses] = Misses(
        "object outside of all levels",
        "no location is trained on them at the size of the training views",
        0.02,
    )

    name: str
    """Which assigner it is."""

    @abstractmethod
    def assign(self, targets: Targets, locations: Locations, predictions: Predictions | None) -> Assignment:
        """What each location is trained on; for the whole batch at once, without waiting for the device.

        Args:
            targets: Ground truth of B images, padded.
            locations: The N locations.
            predictions: On the same B images. Without them an assigner that looks at predictions takes the priors for
                the boxes and leaves the classes out of its decision.
        """

    def fitting(self, targets: Targets, locations: Locations) -> Tensor:
        """(B, N) bool, which locations fit a box by themselves: without those that are trained lest it have none."""
        return self.assign(targets, locations, None).labels > BACKGROUND
