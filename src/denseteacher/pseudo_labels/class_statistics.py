"""How much pseudo-labels there have been of each class, and what follows from it for rare and frequent ones."""

import torch
from torch import Tensor

from denseteacher.ops.distributed import sum_over_processes


def even_mass(classes: int) -> Tensor:
    """(K,) fp32 what is assumed before anything was seen: one box an image, of every class as often."""
    return torch.full((classes,), 1 / classes)


@torch.no_grad()
def accumulate_mass(mass: Tensor, labels: Tensor, amounts: Tensor, *, memory: float) -> Tensor:
    """A moving average over steps of each class's mass an image, over the images of all processes.

    Args:
        mass: (K,) so far; not changed.
        labels: (B, G) int64 class indices of the step's boxes.
        amounts: (B, G) what each box counts, such as its score; 0 in the padding.
        memory: Share of the old average that stays, in [0, 1].

    Returns:
        (K,) fp32, the same in all processes.
    """
    # a comparison and not a scatter: its sum has a fixed order on every device
    of_class = labels[..., None] == torch.arange(len(mass), device=mass.device)
    found = (of_class * amounts[..., None]).sum((0, 1))
    images = torch.full_like(found[:1], len(labels))
    total = sum_over_processes(torch.cat((found, images)))
    return memory * mass + (1 - memory) * total[:-1] / total[-1]


def relative_mass(mass: Tensor, *, least: float) -> Tensor:
    """(K,) in [least, 1]: each class's mass as a share of the largest; 1 is the most frequent class."""
    return (mass / mass.amax().clamp(min=torch.finfo(mass.dtype).tiny)).clamp(min=least)
