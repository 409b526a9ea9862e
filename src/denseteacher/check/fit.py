"""Whether levels, sizes, ratio and batches of a recipe fit the data, and values that fit better."""

import math
from typing import NamedTuple

import numpy as np

from denseteacher.check.data import CheckedData
from denseteacher.check.findings import Finding, Severity, finding
from denseteacher.data.augment.weak import WeakView
from denseteacher.data.objects import objects_of
from denseteacher.data.records import LabeledImages
from denseteacher.detectors import shape_detector
from denseteacher.errors import InputError
from denseteacher.pseudo_labels.foreground import Foreground
from denseteacher.recipes.object_scales import Scales, measure_scales
from denseteacher.recipes.schema import Recipe
from denseteacher.recipes.view_sizes import ENLARGED, resolve_sizes

_TOLERANCE = 3.0  # times larger or smaller; within, a ratio does about as well (paper, Table 7a)
_LARGE = 0.05  # share of objects that a coarser level would take
_FINEST, _COARSEST = 2, 7  # levels that are suggested at most


def scale_findings(labeled: LabeledImages, scales: Scales) -> list[Finding]:
    """Objects that the detector is hardly or never trained on."""
    owner, extents = objects_of(labeled).owner, scales.extents
    names = [labeled.images[image].name for image in owner[scales.looked_at[scales.missed]]]
    examples = [
        f"{name}: {width:.1f} x {height:.1f} px in the view"
        for name, (width, height) in zip(names, extents[scales.missed], strict=True)
    ]
    severity: Severity = "warning" if scales.misses_many else "info"
    kind, meaning, _ = scales.misses
    if len(scales.level) < len(owner):
        meaning += f"; {len(scales.level):,} of {len(owner):,} objects were looked at, evenly spread"
    return finding(severity, kind, "labeled", examples, meaning)


def fits(ratio: float, foreground: Foreground) -> bool:
    """Whether a share is about what the foreground calls for; without any nothing can be said."""
    return not foreground.share or 1 / _TOLERANCE < ratio / foreground.ratio < _TOLERANCE


def ratio_findings(ratio: float | None, foreground: Foreground) -> list[Finding]:
    """A ``ratio`` far from what the labeled images call for; None where none was asked for."""
    if ratio is None or fits(ratio, foreground):
        return []
    example = (
        f"method.ratio is {ratio:g}, and {foreground.multiple:g} times the share of foreground is {foreground.ratio:g}"
    )
    return finding("warning", "ratio that does not fit the objects", "labeled", [example], "method.ratio=auto measures")


class Suggestion(NamedTuple):
    """One value."""

    key: str
    value: str
    """Value as ``--set`` takes it."""
    reason: str


def suggest_values(
    recipe: Recipe, checked: CheckedData, scales: Scales, foreground: Foreground, ratio: float | None
) -> list[Suggestion]:
    """What to set, given what was measured under the recipe as it is, and the ``ratio`` that was asked for."""
    view, reason = _better_view(recipe, checked.labeled, scales)
    if reason:
        scales = measure_scales(objects_of(checked.labeled), view, shape_detector(recipe.detector, 1))
    views = [*_sizes(view, reason), *_levels(recipe, checked.labeled, view, scales)]
    return [*views, *_ratio(ratio, foreground, others=bool(views)), *_batches(recipe, checked)]


def _better_view(recipe: Recipe, labeled: LabeledImages, scales: Scales) -> tuple[WeakView, str]:
    """The recipe's view and no reason; or what ``auto`` sizes would be, where that is clearly better."""
    fitting = resolve_sizes(_with_auto_sizes(recipe), labeled).augment.weak
    factor = float(np.median(scales.scale))
    if factor > ENLARGED and not scales.misses_many:
        return fitting, f"images are enlarged {factor:.1f} times, which costs time and adds no detail"
    better = measure_scales(objects_of(labeled), fitting, shape_detector(recipe.detector, 1))
    if len(scales.missed) - len(better.missed) > scales.few:
        return fitting, f"images are shown at {factor:.2f} of their size, and small objects get lost"
    return recipe.augment.weak, ""


def _with_auto_sizes(recipe: Recipe) -> Recipe:
    auto = {"short_side": "auto", "max_side": "auto"}
    weak = recipe.augment.weak.model_copy(update=auto)
    return recipe.model_copy(update={"augment": recipe.augment.model_copy(update={"weak": weak})})


def _sizes(view: WeakView, reason: str) -> list[Suggestion]:
    """Another size of the views."""
    if not reason:
        return []
    low, high = view.sides
    return [
        Suggestion("augment.weak.short_side", f"[{low},{high}]", reason),
        Suggestion("augment.weak.sampling", "range", reason),
        Suggestion("augment.weak.max_side", str(view.bound), reason),
        Suggestion("evaluation.short_side", str(high), reason),
        Suggestion("evaluation.max_side", str(view.bound), reason),
    ]


def _levels(recipe: Recipe, labeled: LabeledImages, view: WeakView, scales: Scales) -> list[Suggestion]:
    """Finer or coarser levels, where the detector would train objects there: those it misses, or the largest."""
    finest, coarsest = recipe.detector.levels
    reasons = []
    if scales.misses_many and finest > _FINEST:
        finer = _with_levels(recipe, labeled, view, (finest - 1, coarsest))
        small = 0 if finer is None else int(((scales.level < 0) & (finer.level >= 0)).sum())
        if 2 * small > len(scales.missed):
            finest -= 1
            reasons.append(f"{small} objects are too small for the finest level")
    if coarsest < _COARSEST:
        coarser = _with_levels(recipe, labeled, view, (recipe.detector.levels[0], coarsest + 1))
        large = 0 if coarser is None else coarser.counts[-1]
        if large > _LARGE * max(len(scales.level), 1):
            coarsest += 1
            reasons.append(f"{large} objects are too large for the coarsest level")
    return [Suggestion("detector.levels", f"[{finest},{coarsest}]", "; ".join(reasons))] if reasons else []


def _with_levels(recipe: Recipe, labeled: LabeledImages, view: WeakView, levels: tuple[int, int]) -> Scales | None:
    """Where objects lie with other levels; None where the backbone does not have them."""
    try:
        detector = shape_detector(recipe.detector.model_copy(update={"levels": levels}), 1)
    except InputError:
        return None
    return measure_scales(objects_of(labeled), view, detector)


def _ratio(ratio: float | None, foreground: Foreground, *, others: bool) -> list[Suggestion]:
    """Suggests a measured ratio where it does not fit, or can't be known since other views or levels are suggested."""
    if ratio is None or (fits(ratio, foreground) and not others):
        return []
    measured = f"{foreground.multiple:g} times the foreground is {foreground.ratio:g} with the recipe as it is"
    reason = f"{ratio:g} is a guess; {measured}"
    return [Suggestion("method.ratio", "auto", reason)]


def _batches(recipe: Recipe, checked: CheckedData) -> list[Suggestion]:
    """A batch that is not most of an epoch."""
    images, batch = len(checked.labeled.images), recipe.data.labeled_batch
    if batch * 2 <= images or batch <= 2:
        return []
    smaller = max(2, 2 ** int(math.log2(max(images // 4, 1))))
    of = f"{images} labeled image{'' if images == 1 else 's'}"
    reason = f"steps of {batch} hardly leave a choice from {of}"
    found = [Suggestion("data.labeled_batch", str(smaller), reason)] if smaller < batch else []
    times, rest = divmod(recipe.data.unlabeled_batch, batch)
    if found and checked.unlabeled and times and not rest:
        said = "as many as labeled ones" if times == 1 else f"{times} times as many as labeled ones"
        found.append(Suggestion("data.unlabeled_batch", str(times * smaller), said))
    return found
