"""Proposals of a one-stage detector: few of an image's locations, rich ones and others in equal number."""

import torch
from torch import Tensor

from denseteacher.data.randomness import to_device

_HASH = 2654435769  # 2**32 over the golden ratio: multiples of it, modulo 2**32, spread evenly (Knuth)


@torch.no_grad()
def balanced_proposals(richness: Tensor, valid: Tensor, *, ratio: float, draws: Tensor) -> Tensor:
    """Chooses the richest locations of each image, and as many of its others.

    Args:
        richness: (B, N) in [0, 1].
        valid: (B, N) bool, False in the padding, which is never chosen.
        ratio: Share of an image's valid locations to choose; at least one of either half is, if there is one.
        draws: (B,) uniform in [0, 1), on the host: one number an image decides which others are chosen, each as likely.

    Returns:
        (B, N) bool.
    """
    locations = richness.shape[1]
    most = min(locations, max(1, int(ratio * locations / 2)))
    share = (valid.sum(1, keepdim=True) * (ratio / 2)).long().clamp(min=1)
    rich = _highest(richness.masked_fill(~valid, -1.0), share, most)
    start = to_device(richness.device, (draws.double() * 2**32).long())
    order = (start[:, None] + torch.arange(locations, device=richness.device) * _HASH) % 2**32
    return rich | _highest(order.masked_fill(~valid | rich, -1), share, most)


def _highest(values: Tensor, count: Tensor, most: int) -> Tensor:
    """(B, N) bool, the (B, 1) count of highest values in a row, none below 0; at most ``most``."""
    best, index = values.topk(most, dim=1)
    kept = (torch.arange(most, device=values.device) < count) & (best >= 0)
    return torch.zeros_like(values, dtype=torch.bool).scatter_(1, index, kept)
