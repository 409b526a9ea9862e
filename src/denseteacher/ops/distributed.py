"""Numbers that all processes of a run must share."""

import torch
from torch import Tensor
from torch import distributed as dist


def mean_over_processes(value: Tensor) -> Tensor:
    """The mean of a detached tensor over all processes, so that normalizers are those of the global batch.

    Gradients are averaged over processes too; with the mean normalizer two processes that share a batch
    give the gradient of one process that has it all.
    """
    count = processes()
    return value if count == 1 else sum_over_processes(value) / count


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a detached tensor over all processes, in fp32; the tensor itself where there is only one."""
    if processes() == 1:
        return value
    shared = value.detach().to(torch.float32).clone()
    dist.all_reduce(shared)
    return shared


def rows_of_all_processes(value: Tensor) -> Tensor:
    """The rows of all processes, one process after the other; the tensor itself where there is only one.

    Args:
        value: (n, ...) with the same shape in every process.
    """
    count = processes()
    if count == 1:
        return value
    own = value.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(count)]
    dist.all_gather(parts, own)
    return torch.cat(parts)


def processes() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
