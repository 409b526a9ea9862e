"""Numbers that all processes of a run must share."""

import torch
from torch import Tensor
from torch import distributed as dist


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a detached scalar over all processes, so that a normalizer is that of the global batch.

    Gradients are averaged over processes too; with the mean normalizer two processes that share a batch
    give the gradient of one process that has it all.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    shared = value.detach().to(torch.float32).clone()
    dist.all_reduce(shared)
    return shared / dist.get_world_size()
