"""What ``auto`` becomes, all of it: by the data, the processes that were started, and the machine."""

from collections.abc import Callable

from denseteacher.data.records import LabeledImages
from denseteacher.detectors import DenseDetector, shape_detector, starts_from_detector
from denseteacher.errors import InputError
from denseteacher.hardware import Machine, chosen_precision
from denseteacher.pseudo_labels.foreground import Foreground, measure_foreground
from denseteacher.recipes.schema import Recipe, with_part
from denseteacher.recipes.view_sizes import resolve_sizes
from denseteacher.training.ema import EMAConfig
from denseteacher.training.launcher import Launch
from denseteacher.training.runtime import RuntimeConfig

_LEAST_BURN_IN = 400
"""Steps before which a teacher that has just begun to learn teaches noise."""
_SHORTEST_BURN_IN = 500
"""Steps by which the classes that a trained detector does not know are learned, and the warm-up is over."""


def resolve(
    recipe: Recipe,
    *,
    labeled: LabeledImages,
    unlabeled: int,
    foreground: Callable[[Recipe], Foreground] | None = None,
    launch: Launch | None = None,
    machine: Machine,
) -> Recipe:
    """The recipe in which nothing is ``auto`` any more.

    It is a function of what it is given, so that a run that goes on decides the same again.

    Args:
        recipe: Possibly with ``auto`` values. ``detector.init: auto`` becomes ``coco`` where torchvision has a COCO
            detector of the architecture; whether it can be had, which only a run needs to know, is for ``find_start``.
        labeled: The labeled images; none of them is opened.
        unlabeled: Number of unlabeled images.
        foreground: Measures how much of the locations is foreground, for ``method.ratio``, under the recipe that it
            is given; ``recipe_foreground`` if not given.
        launch: What started this process beside others, if anything did (``find_launch``).
        machine: Facts of the machine (``this_machine``).

    Raises:
        InputError: If other processes were asked for than were started, the batches can't be cut into so many parts,
            or the detector can't be built.
    """
    recipe = with_part(recipe, "runtime", resolve_runtime(recipe.runtime, launch=launch, machine=machine))
    recipe = with_lengths(recipe, labeled=len(labeled.images), unlabeled=unlabeled)
    recipe = resolve_sizes(recipe, labeled)
    shapes = shape_detector(recipe.detector, len(labeled.categories) or 1)
    if recipe.method.measures_ratio:
        measured = recipe_foreground(recipe, shapes, labeled) if foreground is None else foreground(recipe)
        recipe = recipe.model_copy(update={"method": recipe.method.with_ratio(measured.ratio)})
    detector = recipe.detector
    changes: dict[str, object] = {"mean": shapes.config.mean, "std": shapes.config.std}
    belongs = recipe.method.cls_loss
    if belongs is not None and "cls_loss" not in detector.model_fields_set and detector.quality != "none":
        changes["cls_loss"] = belongs
    if detector.init == "auto":
        changes["init"] = "coco" if starts_from_detector(detector) else "backbone"
    return recipe.model_copy(update={"detector": detector.model_copy(update=changes)})


def resolve_runtime(runtime: RuntimeConfig, *, launch: Launch | None, machine: Machine) -> RuntimeConfig:
    """What ``resolve`` makes of ``runtime``, for what computes without data.

    Args:
        runtime: Possibly with ``auto`` values.
        launch: As for ``resolve``.
        machine: As for ``resolve``.

    Raises:
        InputError: If other processes were asked for than were started.
    """
    device = machine.device if runtime.device == "auto" else runtime.device
    changes: dict[str, object] = {"device": device, "precision": chosen_precision(runtime.precision, device, machine)}
    if launch is not None:
        changes |= _started(runtime, launch)
    return runtime.model_copy(update=changes)


def _started(runtime: RuntimeConfig, launch: Launch) -> dict[str, int]:
    """The processes that torchrun or srun has started."""
    started = {"devices": launch.devices, "nodes": launch.nodes}
    for key in started.keys() & runtime.model_fields_set:
        asked = getattr(runtime, key)
        if asked != started[key]:
            raise InputError(
                f"runtime.{key} is {asked}, but {launch.by} started {launch.devices} processes on each of "
                f"{launch.nodes} nodes: leave it out, or let {launch.by} start as many"
            )
    return started


def with_lengths(recipe: Recipe, *, labeled: int, unlabeled: int) -> Recipe:
    """What ``resolve`` makes of steps, burn-in and EMA, which follow the size of the data alone.

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
