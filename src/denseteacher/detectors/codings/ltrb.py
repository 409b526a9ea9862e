"""Boxes as distances to their four sides (FCOS)."""

from typing import ClassVar, Literal

from pydantic import Field
from torch import Tensor

from denseteacher.detectors.codings.base import Coding
from denseteacher.ops.boxes import decode_ltrb, encode_ltrb


class LTRBCoding(Coding):
    """Distances from the location to the left, top, right and bottom side, in strides and rectified; GIoU loss."""

    scaled: ClassVar[bool] = True

    name: Literal["ltrb"] = "ltrb"
    initial_distance: float = Field(2.0, ge=0)
    """Distance to each side that an untrained box branch says, in strides. At 0, as published, half of the rectified
    distances begin without gradient."""

    @property
    def initial_bias(self) -> float:
        """See ``Coding``."""
        return self.initial_distance

    def activate(self, deltas: Tensor) -> Tensor:
        """See ``Coding``: distances are not negative."""
        return deltas.relu()

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """See ``Coding``."""
        return decode_ltrb(deltas, anchors)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """See ``Coding``: sides that don't lie around the location have a negative distance."""
        return encode_ltrb(boxes, anchors)

    def loss(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, giou: Tensor) -> Tensor:
        """See ``Coding``."""
        return 1 - giou
