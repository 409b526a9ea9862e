"""How large images are shown where a recipe leaves it to the data: a function of its labels alone."""

import numpy as np

from denseteacher.data.augment.weak import AutoSizes, WeakView
from denseteacher.data.objects import image_sizes, objects_of
from denseteacher.data.records import LabeledImages
from denseteacher.detectors import shape_detector
from denseteacher.recipes.object_scales import Scales, measure_scales
from denseteacher.recipes.schema import Recipe

ENLARGED = 2.0
"""Times that images are enlarged at most; beyond, more pixels tell nothing new."""
_SHAPE = 5 / 3  # longest over shortest side of a view, as published: 1333 over 800
_GRID = 32  # pixels; a canvas grows in steps of it


def resolve_sizes(recipe: Recipe, labeled: LabeledImages) -> Recipe:
    """Fills in the sizes of views that a recipe leaves to the data.

    The weak view's become those of ``fitting_view``. Evaluation shows images as the largest weak view does, also where
    that is given by hand.

    Args:
        recipe: Possibly with sizes of ``auto``.
        labeled: The labeled images; none of them is opened.
    """
    weak, evaluation = recipe.augment.weak, recipe.evaluation
    if weak.short_side == "auto":
        weak = fitting_view(recipe, labeled)
    if weak.max_side == "auto":
        weak = weak.model_copy(update={"max_side": _longest(max(weak.sides), recipe.sizes)})
    if evaluation.max_side == "auto":
        given = evaluation.short_side
        longest = weak.bound if given == "auto" else _longest(given, recipe.sizes)
        evaluation = evaluation.model_copy(update={"max_side": longest})
    if evaluation.short_side == "auto":
        evaluation = evaluation.model_copy(update={"short_side": max(weak.sides)})
    augment = recipe.augment.model_copy(update={"weak": weak})
    return recipe.model_copy(update={"augment": augment, "evaluation": evaluation})


def fitting_view(recipe: Recipe, labeled: LabeledImages) -> WeakView:
    """The weak view with the short sides that fit the labeled images.

    The largest is ``sizes.usual``, or twice the images' median short side where that is less. Where it would lose more
    than a few objects (``Scales.few``) that a larger view keeps, it is the smallest that does not, in steps of 32
    pixels, up to twice the images' size and ``sizes.most``.

    Args:
        recipe: Bounds (``sizes``), detector, and what else is known of the weak view.
        labeled: The labeled images.
    """
    limits = recipe.sizes
    own = image_sizes(labeled.images).min(axis=1, initial=np.inf)
    limit = _on_grid(min(ENLARGED * float(np.median(own)), limits.most) if len(own) else limits.usual)
    usual = min(_on_grid(limits.usual), limit)
    objects, detector = objects_of(labeled), shape_detector(recipe.detector, 1)

    def view(side: int) -> WeakView:
        longest = _longest(side, limits) if recipe.augment.weak.max_side == "auto" else recipe.augment.weak.max_side
        sides = {"short_side": (max(1, round(limits.smallest * side)), side), "sampling": "range"}
        return recipe.augment.weak.model_copy(update=sides | {"max_side": longest})

    def scales(side: int) -> Scales:
        return measure_scales(objects, view(side), detector)

    best = scales(limit)
    candidates = range(usual, limit, _GRID)
    fitting = (side for side in candidates if len(scales(side).missed) - len(best.missed) <= best.few)
    return view(next(fitting, limit))


def _longest(short: int, limits: AutoSizes) -> int:
    """``max_side: auto``; a short side that is given by hand may lie above all bounds."""
    return max(short, min(int(_SHAPE * short), limits.most))


def _on_grid(side: float) -> int:
    """The side rounded down to whole steps of the canvas, where there is one."""
    return max(1, int(side) if side < _GRID else int(side) // _GRID * _GRID)
