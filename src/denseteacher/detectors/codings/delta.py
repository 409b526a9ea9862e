"""Boxes as shifted and grown anchors (R-CNN, RetinaNet)."""

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from denseteacher.detectors.codings.base import Coding
from denseteacher.ops.boxes import decode_deltas, encode_deltas


class DeltaCoding(Coding):
    """Shift of the anchor's center, in its sides, and logarithm of its growth."""

    name: Literal["delta"] = "delta"
    box_loss: Literal["smooth_l1", "giou"] = "smooth_l1"
    """Loss on the coded deltas, or on the decoded boxes."""
    beta: float = Field(0.1, ge=0)
    """Where smooth L1 turns from square to linear; 0 is L1."""

    @property
    def compares_boxes(self) -> bool:
        """See ``Coding``."""
        return self.box_loss == "giou"

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """See ``Coding``."""
        return decode_deltas(deltas, anchors)

    def encode(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """See ``Coding``."""
        return encode_deltas(boxes, anchors)

    def loss(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, giou: Tensor) -> Tensor:
        """See ``Coding``."""
        if self.compares_boxes:
            return 1 - giou
        return F.smooth_l1_loss(deltas, encode_deltas(boxes, anchors), beta=self.beta, reduction="none").sum(-1)
