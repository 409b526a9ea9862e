"""Recipe values that fit the data better than those of the recipe, each with its reason."""

import math
from typing import NamedTuple

import numpy as np

from denseteacher.check.foreground import Foreground, fits, fixed_ratio
from denseteacher.check.parts import Parts, image_sizes
from denseteacher.check.scales import Scales
from denseteacher.detectors import FCOSConfig
from denseteacher.recipe import Recipe

_ENLARGED = 2.0  # times; beyond, more pixels tell nothing new
_LARGE = 0.05  # share of objects beyond the coarsest level's range


class Suggestion(NamedTuple):
    """One value."""

    key: str
    value: str
    """As ``--set`` takes it."""
    reason: str


def suggest_values(config: Recipe, parts: Parts, scales: Scales, foreground: Foreground) -> list[Suggestion]:
    """What to set, given what was measured under the recipe as it is."""
    views = _sizes(config, parts, scales) or _levels(config, scales)
    return [*views, *_ratio(config, foreground, others=bool(views)), *_batches(config, parts)]


def _sizes(config: Recipe, parts: Parts, scales: Scales) -> list[Suggestion]:
    """Another size of the views, where images are much enlarged, or reduced until objects get lost."""
    factor = float(np.median(scales.scale))
    if factor > _ENLARGED and not scales.misses_many:
        target, reason = 1.0, f"images are enlarged {factor:.1f} times, which costs time and adds no detail"
    elif factor < 1 and scales.misses_many:
        target, reason = (
            min(1.0, 2 * factor),
            f"images are reduced to {factor:.2f} of their size, and small objects get lost",
        )
    else:
        return []
    sizes = image_sizes(parts.labeled.images) * target
    short, long = int(np.median(sizes.min(axis=1))), int(np.ceil(np.percentile(sizes.max(axis=1), 95)))
    return [
        Suggestion("augment.weak.short_side", f"[{max(1, short * 3 // 4)},{short}]", reason),
        Suggestion("augment.weak.sampling", "range", reason),
        Suggestion("augment.weak.max_side", str(long), reason),
        Suggestion("evaluation.short_side", str(short), reason),
        Suggestion("evaluation.max_side", str(long), reason),
    ]


def _levels(config: Recipe, scales: Scales) -> list[Suggestion]:
    """Finer or coarser levels, where objects lie beyond the ranges."""
    finest, coarsest = config.detector.levels
    count = max(len(scales.level), 1)
    factor = config.detector.size_factor if isinstance(config.detector, FCOSConfig) else config.detector.anchor_scale
    reasons = []
    small = int((scales.longest[scales.missed] <= factor * 2**finest).sum())
    if scales.misses_many and 2 * small > len(scales.missed) and finest > 2:
        finest -= 1
        reasons.append(f"{small} objects are too small for the finest level")
    large = int((scales.longest > 2 * factor * 2**coarsest).sum())
    if large > _LARGE * count and coarsest < 7:
        coarsest += 1
        reasons.append(f"{large} objects are too large for the coarsest level")
    return [Suggestion("detector.levels", f"[{finest},{coarsest}]", "; ".join(reasons))] if reasons else []


def _ratio(config: Recipe, foreground: Foreground, *, others: bool) -> list[Suggestion]:
    """To measure the ratio, where it does not fit, or where nobody knows since other views or levels are suggested."""
    ratio = fixed_ratio(config.method)
    if ratio is None or (fits(ratio, foreground) and not others):
        return []
    reason = f"{ratio:g} is a guess; 2.5 times the foreground is {foreground.ratio:g} with the recipe as it is"
    return [Suggestion("method.ratio", "auto", reason)]


def _batches(config: Recipe, parts: Parts) -> list[Suggestion]:
    """A batch that is not most of an epoch."""
    images, batch = len(parts.labeled.images), config.data.labeled_batch
    if batch * 2 <= images or batch <= 2:
        return []
    smaller = max(2, 2 ** int(math.log2(max(images // 4, 1))))
    of = f"{images} labeled image{'' if images == 1 else 's'}"
    reason = f"steps of {batch} hardly leave a choice from {of}"
    found = [Suggestion("data.labeled_batch", str(smaller), reason)] if smaller < batch else []
    if found and parts.unlabeled and config.data.unlabeled_batch == batch:
        found.append(Suggestion("data.unlabeled_batch", str(smaller), "as many as labeled ones"))
    return found
