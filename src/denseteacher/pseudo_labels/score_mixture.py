"""Thresholds of classes from their last scores: a mixture of two Gaussians a class, of good boxes and of others.

The scores are one tensor (K, R): a row a class, the newest first. A score of 0 is a free place, so none is a box's.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from denseteacher.ops.distributed import rows_of_all_processes

_FEWEST = 4  # scores of a class from which a mixture is fitted; with fewer the threshold is 0
_VARIANCE_FLOOR = 1e-6
_ITERATIONS = 50
TOLERANCE = 1e-3
"""Gain of the mean log-likelihood in an iteration below which a class has its mixture, as published."""


class ScoreMixture(NamedTuple):
    """Two Gaussians a class; the first one started at the lowest score, the second one at the highest."""

    weights: Tensor
    """(K, 2) fp64, summing to 1."""
    means: Tensor
    """(K, 2) fp64."""
    variances: Tensor
    """(K, 2) fp64."""

    def log_densities(self, values: Tensor) -> Tensor:
        """(K, 2, R) logarithms of the weighted densities of each Gaussian at values (K, R)."""
        weights, means, variances = (field[..., None] for field in self)
        exponent = (values[:, None] - means).square() / variances
        return weights.log() - (math.log(2 * math.pi) + variances.log() + exponent) / 2


@torch.no_grad()
def remember_scores(memory: Tensor, scores: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """The last scores of each class after those of a step: new ones come in front, the oldest fall out.

    Args:
        memory: (K, R), see the module; not changed.
        scores: (B, G) of the step's boxes, above 0; G is the same in all processes.
        labels: (B, G) int64 class indices.
        mask: (B, G) bool, False where a box doesn't count.

    Returns:
        (K, R), with the boxes of all processes and the same in all of them.
    """
    classes, room = memory.shape
    rows = rows_of_all_processes(torch.stack((scores.float(), torch.where(mask, labels, -1).float()), 1))
    values, owner = rows.transpose(0, 1).flatten(1).unbind()
    of_class = owner[:, None] == torch.arange(classes, device=owner.device)
    place = of_class.cumsum(0).gather(1, owner.long().clamp(min=0)[:, None])[:, 0] - 1
    # what doesn't fit goes to a column that is cut off
    target = owner.long().clamp(min=0) * (room + 1) + torch.where((owner >= 0) & (place < room), place, room)
    new = memory.new_zeros(classes * (room + 1)).scatter(0, target, values).view(classes, -1)[:, :room]
    shift = torch.arange(room, device=owner.device) - of_class.sum(0)[:, None]  # place of an old score
    return torch.where(shift < 0, new, memory.gather(1, shift.clamp(min=0)))


@torch.no_grad()
def fit_mixture(memory: Tensor, *, tolerance: float = TOLERANCE) -> ScoreMixture:
    """Fits two Gaussians to the scores of every class by expectation maximization, all classes at once.

    Start, floor of the variance and end of each class's fit are those of the published code, which uses
    scikit-learn: means at the lowest and the highest score, weights of 1/2, variances of 1 and a floor of 1e-6. There
    are at most 50 iterations, scikit-learn has 100; few fits need 30. The result means something for classes with at
    least two scores.

    From variances of 1 the first iterations gain little, so with the published ``tolerance`` a fit may end while both
    Gaussians lie nearly on each other. The threshold is then the lowest score above their common mean, which is the
    lower edge of the upper heap of scores and not its top.

    Args:
        memory: (K, R), see the module.
        tolerance: A class whose mean log-likelihood gains less in an iteration has its mixture; 0 fits on to the end.

    Returns:
        The mixtures; the device is not waited for.
    """
    values, filled = memory.double(), (memory > 0).double()
    count = filled.sum(-1).clamp(min=1)
    low, high = values.masked_fill(memory <= 0, math.inf).amin(-1), values.amax(-1)
    means = torch.stack((torch.where(low.isinf(), high, low), high), -1)
    mixture = ScoreMixture(torch.full_like(means, 0.5), means, torch.ones_like(means))
    likelihood, fitting = torch.full_like(count, -math.inf), torch.ones_like(count, dtype=torch.bool)
    for _ in range(_ITERATIONS):
        densities = mixture.log_densities(values)
        total = densities.logsumexp(1)
        updated = _maximize(values, (densities - total[:, None]).exp() * filled[:, None])
        mixture = ScoreMixture(
            *(torch.where(fitting[:, None], new, old) for new, old in zip(updated, mixture, strict=True))
        )
        before, likelihood = likelihood, (total * filled).sum(-1) / count
        fitting = fitting & ((likelihood - before).abs() >= tolerance)
        # the end of the fit changes nothing more; a GPU would be waited for to know of it
        if memory.device.type == "cpu" and not fitting.any():
            break
    return mixture


def _maximize(values: Tensor, shares: Tensor) -> ScoreMixture:
    """The mixture whose Gaussians own these shares (K, 2, R) of the values (K, R)."""
    mass = shares.sum(-1) + 10 * torch.finfo(shares.dtype).eps
    means = (shares * values[:, None]).sum(-1) / mass
    variances = (shares * (values[:, None] - means[..., None]).square()).sum(-1) / mass + _VARIANCE_FLOOR
    return ScoreMixture(mass / mass.sum(-1, keepdim=True), means, variances)


@torch.no_grad()
def mixture_thresholds(memory: Tensor, *, tolerance: float = TOLERANCE) -> Tensor:
    """(K,) fp32 the score of each class that is most likely under its mixture, of those that its upper Gaussian owns.

    It is 0 for classes with fewer than four scores, and where the upper Gaussian owns none.

    Args:
        memory: (K, R), see the module.
        tolerance: See ``fit_mixture``.
    """
    densities = fit_mixture(memory, tolerance=tolerance).log_densities(memory.double())
    lower, upper = densities.unbind(1)
    owned = (upper > lower) & (memory > 0)
    best = densities.logsumexp(1).masked_fill(~owned, -math.inf).argmax(-1)
    known = owned.any(-1) & ((memory > 0).sum(-1) >= _FEWEST)
    return torch.where(known, memory.gather(1, best[:, None])[:, 0], 0.0).float()
