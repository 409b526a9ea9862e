"""What a box coding is: a validated value that says what a head's numbers mean, and how they are trained."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from denseteacher.config import Config


class Coding(Config, ABC):
    """Turns numbers into boxes; its options are its fields."""

    architecture: ClassVar[tuple[str, ...]] = ("name",)
    """Options that must be those of the weights."""
    scaled: ClassVar[bool] = False
    """Whether each level has a factor of its own for the numbers (FCOS)."""
    has_distributions: ClassVar[bool] = False
    """Whether the numbers are distributions, which have a ``divergence``."""

    name: str
    """Which coding it is."""

    @property
    def outputs(self) -> int:
        """D, numbers a box."""
        return 4

    @property
    def initial_bias(self) -> float:
        """What an untrained branch says everywhere."""
        return 0.0

    @property
    def compares_boxes(self) -> bool:
        """Whether ``loss`` looks at the GIoU."""
        return True

    def activate(self, deltas: Tensor) -> Tensor:
        """What becomes of the numbers of the last convolution, (..., D) fp32."""
        return deltas

    @abstractmethod
    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """(..., N, 4) xyxy pixels from (..., N, D) numbers and (N, 4) anchors; gradients flow through."""

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """Inverts ``decode``; gradients flow through.

        Raises:
            NotImplementedError: The coding has more than four numbers a box, and so no inverse.
        """
        raise NotImplementedError

    @abstractmethod
    def loss(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, giou: Tensor) -> Tensor:
        """The box loss of every location.

        Args:
            deltas: (B, N, D).
            anchors: (N, 4).
            boxes: (B, N, 4) the box that each location is trained on; meaningless where it is not.
            giou: (B, N) of the decoded boxes with them; meaningless if ``compares_boxes`` is false.

        Returns:
            (B, N) fp32, finite everywhere.
        """

    def uncertainty(self, deltas: Tensor) -> Tensor | None:
        """(B, N) in [0, 1] how unsure the numbers (B, N, D) are of their box; None where they can't say."""
        return None

    def divergence(self, deltas: Tensor, wanted: Tensor) -> Tensor | None:
        """(B, N) divergence of numbers (B, N, D) from wanted ones; None where they are not distributions."""
        return None
