"""A profile of training steps: what the processor and the device do, one after the other."""

from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from denseteacher.benchmark.scene import Size, made_up_step
from denseteacher.benchmark.step import as_loaded, make_learner
from denseteacher.benchmark.timing import wait
from denseteacher.files import refusal_explained
from denseteacher.recipe import Recipe
from denseteacher.training.runtime import Runtime

_STEPS = 2
_OPERATORS = 10


def trace_steps(recipe: Recipe, size: Size, *, classes: int, file: Path) -> dict[str, float]:
    """Writes a Chrome trace of two steps, in which strong views, passes, pseudo-labels and EMA have their names.

    Args:
        recipe: As for ``measure_step``.
        size: Of a step.
        classes: K.
        file: To write; one whose name ends in ``.gz`` is compressed.

    Returns:
        The ten operators that took most time themselves, in milliseconds a step: of the GPU where there is one.

    Raises:
        RunError: If the disk refuses.
    """
    runtime = Runtime(recipe.runtime)
    learner = make_learner(recipe, runtime, size, classes)
    loaded = as_loaded(made_up_step(size, classes), runtime.device)
    on_gpu = runtime.device.type == "cuda"
    for _ in range(_STEPS):  # what the first ones set up is no part of the others
        learner.train_step(loaded)
    wait(runtime.device)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_gpu
    with profile(activities=activities) as found:
        for _ in range(_STEPS):
            learner.train_step(loaded)
        wait(runtime.device)
    with refusal_explained(file):
        found.export_chrome_trace(str(file))
    microseconds = {
        event.key: event.self_device_time_total if on_gpu else event.self_cpu_time_total
        for event in found.key_averages()
        if not event.is_user_annotation
    }
    largest = sorted(microseconds, key=lambda name: microseconds[name], reverse=True)[:_OPERATORS]
    return {name: microseconds[name] / 1000 / _STEPS for name in largest}
