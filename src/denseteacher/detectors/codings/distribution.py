"""Boxes as distributions of the distances to their sides (Generalized Focal Loss, Li et al., NeurIPS 2020)."""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from denseteacher.detectors.codings.base import Coding
from denseteacher.ops.boxes import decode_ltrb, encode_ltrb
from denseteacher.ops.losses import distribution_focal_loss


class DistributionCoding(Coding):
    """A distribution over distances of 0, 1, 2, ... strides for each side; its mean is the distance."""

    architecture: ClassVar[tuple[str, ...]] = ("name", "bins")
    scaled: ClassVar[bool] = True
    has_distributions: ClassVar[bool] = True

    name: Literal["distribution"] = "distribution"
    bins: int = Field(17, gt=1, le=256)
    """Distances that each side has a probability of: 0 to 16 strides as published."""
    giou_weight: float = Field(2.0, ge=0)
    """Weight of the GIoU loss of the decoded boxes."""
    distribution_weight: float = Field(0.25, ge=0)
    """Weight of the distribution focal loss, a mean over the four sides."""

    @property
    def outputs(self) -> int:
        """See ``Coding``: the logits of four distributions."""
        return 4 * self.bins

    def decode(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """See ``Coding``."""
        chances = self._sides(deltas).softmax(-1)
        distances = (chances * torch.arange(self.bins, device=deltas.device, dtype=chances.dtype)).sum(-1)
        return decode_ltrb(distances, anchors)

    def loss(self, deltas: Tensor, anchors: Tensor, boxes: Tensor, giou: Tensor) -> Tensor:
        """See ``Coding``."""
        sharpness = distribution_focal_loss(self._sides(deltas), encode_ltrb(boxes, anchors)).mean(-1)
        return self.giou_weight * (1 - giou) + self.distribution_weight * sharpness

    def uncertainty(self, deltas: Tensor) -> Tensor:
        """See ``Coding``: the mean over the sides of the entropy, in that of a uniform distribution."""
        logs = self._sides(deltas).log_softmax(-1)
        entropy: Tensor = -(logs.exp() * logs).sum(-1).mean(-1)
        return (entropy / math.log(self.bins)).clamp(0, 1)

    def divergence(self, deltas: Tensor, wanted: Tensor) -> Tensor:
        """See ``Coding``: the Kullback-Leibler divergence from the wanted distributions, a mean over the sides."""
        logs, aim = self._sides(deltas).log_softmax(-1), self._sides(wanted).log_softmax(-1)
        divergence: Tensor = (aim.exp() * (aim - logs)).sum(-1).mean(-1)
        return divergence

    def _sides(self, deltas: Tensor) -> Tensor:
        """(..., 4, bins) logits."""
        return deltas.reshape(*deltas.shape[:-1], 4, self.bins)
