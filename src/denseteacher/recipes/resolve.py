"""What ``auto`` becomes: by the size of the data, by its objects, and by the processes that were started."""

from denseteacher.data.records import LabeledImages
from denseteacher.detectors import DenseDetector, starts_from_detector
from denseteacher.errors import InputError
from denseteacher.pseudo_labels.foreground import Foreground, measure_foreground
from denseteacher.recipes.schema import Recipe, with_part
from denseteacher.training.ema import EMAConfig
from denseteacher.training.launcher import find_launch

_LEAST_BURN_IN = 400
"""Steps before which a teacher that has just begun to learn teaches noise."""
_SHORTEST_BURN_IN = 500
"""Steps by which the classes that a trained detector does not know are learned, and the warm-up is over."""


def with_processes(recipe: Recipe) -> Recipe:
    """The recipe with the processes that torchrun or srun has started, where one of them has.

    Raises:
        InputError: If others were asked for, or the batches can't be cut into so many parts.
    """
    launch = find_launch()
    if launch is None:
        return recipe
    started = {"devices": launch.devices, "nodes": launch.nodes}
    for key in started.keys() & recipe.runtime.model_fields_set:
        asked = getattr(recipe.runtime, key)
        if asked != started[key]:
            raise InputError(
                f"runtime.{key} is {asked}, but {launch.by} started {launch.devices} processes on each of "
                f"{launch.nodes} nodes: leave it out, or let {launch.by} start as many"
            )
    return with_part(recipe, "runtime", recipe.runtime.model_copy(update=started))


def resolve_auto(recipe: Recipe, *, labeled: int, unlabeled: int) -> Recipe:
    """Fills in what a recipe leaves to the size of the data.

    The steps give 120 passes over the labeled images or two over the unlabeled ones, whichever is longer, within
    ``schedule.least_steps`` and ``schedule.most_steps``. The burn-in is a sixth of them, and 400 where that is less, as
    far as a third; a sixth of that where the run starts from a trained detector, but then 500 steps at least, as far as
    a sixth of the run allows. The teacher remembers a thirtieth of the run, as far as the paper's 2,500 steps, and
    starts half-way through the burn-in.

    Args:
        recipe: Possibly with ``auto`` values.
        labeled: Labeled images.
        unlabeled: Unlabeled images.
    """
    schedule, method, ema = recipe.schedule, recipe.method, recipe.ema
    steps = schedule.max_steps
    if isinstance(steps, str):
        passes = max(120 * labeled / recipe.data.labeled_batch, 2 * unlabeled / recipe.data.unlabeled_batch)
        steps = int(min(max(passes, schedule.least_steps), schedule.most_steps))
    burn_in = method.burn_in_steps
    if not isinstance(burn_in, int):  # that of Supervised says when its teacher starts
        burn_in = max(steps // 6, min(_LEAST_BURN_IN, steps // 3))
        if starts_from_detector(recipe.detector):
            burn_in = min(steps // 6, max(steps // 36, _SHORTEST_BURN_IN))
        method = method.with_burn_in(burn_in)
    decay = ema.decay
    if isinstance(decay, str):
        decay = 1 - 1 / min(max(steps / 30, 50), 2500)
    start = burn_in // 2 if isinstance(ema.start, str) else ema.start
    return recipe.model_copy(
        update={
            "schedule": schedule.model_copy(update={"max_steps": steps}),
            "method": method,
            "ema": EMAConfig(decay=decay, start=start),
        }
    )


def recipe_foreground(
    recipe: Recipe, detector: DenseDetector, labeled: LabeledImages, *, steps: int | None = None
) -> Foreground:
    """How much of the locations is foreground in the recipe's views and batches (``measure_foreground``).

    Args:
        recipe: Without ``auto`` sizes.
        detector: Whose assigner it is.
        labeled: The labeled images.
        steps: Batches; as many as a share needs if not given.
    """
    return measure_foreground(
        detector,
        labeled,
        weak=recipe.augment.weak,
        batch=recipe.data.labeled_batch,
        seed=recipe.seed,
        multiple=recipe.method.foreground_multiple,
        **({} if steps is None else {"steps": steps}),
    )


def with_ratio(recipe: Recipe, foreground: Foreground) -> Recipe:
    """The recipe with the measured share in place of ``ratio: auto``."""
    return recipe.model_copy(update={"method": recipe.method.with_ratio(foreground.ratio)})
