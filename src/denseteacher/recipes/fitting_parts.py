"""Whether the parts of a recipe fit each other."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from denseteacher.recipes.schema import Recipe


def check_parts(recipe: "Recipe") -> None:
    """Checks what no part of a recipe can see alone.

    Args:
        recipe: A recipe whose parts are valid.

    Raises:
        ValueError: If the parts don't fit.
    """
    _check_batches(recipe)
    _check_labels_can_follow(recipe)
    _check_half_views(recipe)
    _check_distributions(recipe)
    _check_teacher_is_ready(recipe)
    _check_burn_in_ends(recipe)


def _check_batches(recipe: "Recipe") -> None:
    parts = recipe.runtime.devices * recipe.runtime.nodes * recipe.schedule.accumulate
    for key in ("labeled_batch", "unlabeled_batch"):
        if getattr(recipe.data, key) % parts:
            raise ValueError(
                f"data.{key} is {getattr(recipe.data, key)}, not a multiple of the {parts} parts that devices, "
                "nodes and accumulation cut it into"
            )
    processes = recipe.runtime.devices * recipe.runtime.nodes
    for key, group, kind in (
        ("method.group_size", recipe.method.images_a_selection, "unlabeled"),
        ("data.orientation_group", recipe.data.orientation_group, "labeled"),
    ):
        images = getattr(recipe.data, f"{kind}_batch") // processes
        if group is not None and images % group:
            raise ValueError(
                f"{key} is {group}, but each process has {images} {kind} images a step: it must divide them"
            )


def _check_labels_can_follow(recipe: "Recipe") -> None:
    if recipe.augment.affine is not None and not recipe.method.moves_labels:
        raise ValueError(
            f"augment.affine moves the strong views, but method {recipe.method.name!r} compares teacher and "
            "student location by location: leave it out (null)"
        )
    if recipe.method.needs_hidden_labels and not recipe.data.hidden_labels:
        raise ValueError(
            "method.region 'suppress' and 'ignore' are analyses that look at the labels of the unlabeled "
            "images: say so with data.hidden_labels=true, on data that a split cuts"
        )


def _check_half_views(recipe: "Recipe") -> None:
    if recipe.method.needs_finer_level and not recipe.detector.finer_level:
        raise ValueError(
            "method.half_view needs a pyramid level that the detector does not have: add it with "
            "detector.finer_level=true"
        )


def _check_distributions(recipe: "Recipe") -> None:
    coding = recipe.detector.coding
    if recipe.method.needs_distributions and not coding.has_distributions:
        raise ValueError(
            f"method.distribution_weight is for boxes that are distributions, and those of coding {coding.name!r} are "
            "none: set detector.name to gfl or detector.coding.name to distribution, or leave the weight at 0"
        )


def _check_teacher_is_ready(recipe: "Recipe") -> None:
    burn_in, start = recipe.method.burn_in_steps, recipe.ema.start
    if isinstance(burn_in, int) and not isinstance(start, str) and start > burn_in:
        raise ValueError(f"ema.start is {start}, after the burn-in of {burn_in} steps that needs the teacher")


def _check_burn_in_ends(recipe: "Recipe") -> None:
    burn_in, steps = recipe.method.burn_in_steps, recipe.schedule.max_steps
    if isinstance(burn_in, int) and not isinstance(steps, str) and burn_in >= steps:
        raise ValueError(
            f"method.burn_in is {burn_in}, but the run has {steps} steps, so unlabeled images would never be "
            "used: shorten it, or take method.name=supervised"
        )
