"""How long a run on a CPU will take, from the time of its first steps."""

from datetime import timedelta

from denseteacher.data.loading.steps import LoadedStep
from denseteacher.methods import Method
from denseteacher.training.throughput import PassFlops, Throughput, step_flops

SMALL_RECIPE = "custom_small"
"""The recipe for machines without a GPU."""
_LEAST_STEPS, _MOST_STEPS, _ENOUGH_SECONDS = 2, 20, 5.0
_WORTH_SAYING = 600.0  # seconds
_LARGE_PASS = 5e10  # operations on one image, forward and backward; custom_small takes about a tenth of it
_USUAL = PassFlops(1.0, 3.0)  # where operations can't be counted


class Forecast:
    """Measures the steps of a run after its first one until they tell how long it takes. Nothing depends on it."""

    def __init__(self, method: Method, *, max_steps: int, labeled: int, unlabeled: int) -> None:
        """Has seen nothing yet.

        Args:
            method: Says which steps hold unlabeled images.
            max_steps: Length of the run.
            labeled: Labeled images of a step.
            unlabeled: Unlabeled ones, where there are any.
        """
        self._method, self._max_steps, self._batch = method, max_steps, (labeled, unlabeled)
        self._started = self._done = False
        self._kind, self._steps, self._seconds = False, 0, 0.0

    def after_step(self, loaded: LoadedStep, throughput: Throughput) -> str | None:
        """What there is to say after a step: one sentence on a run of more than ten minutes, once."""
        if self._done:
            return None
        if not self._started:  # waits for the loader's start, and for memory
            self._started = True
            return None
        kind = loaded.unlabeled is not None
        if kind != self._kind:
            self._kind, self._steps, self._seconds = kind, 0, 0.0
        self._steps += 1
        self._seconds += throughput.last_seconds
        if self._steps < _LEAST_STEPS or (self._steps < _MOST_STEPS and self._seconds < _ENOUGH_SECONDS):
            return None
        self._done = True
        return self._sentence(loaded, throughput)

    def _sentence(self, loaded: LoadedStep, throughput: Throughput) -> str | None:
        first = loaded.step + 1
        full = sum(self._method.needs_unlabeled(step) for step in range(first, self._max_steps))
        supervised = self._max_steps - first - full
        measured = self._seconds / self._steps
        counted = step_flops(throughput.flops or _USUAL, *self._batch)
        ratio = counted.full / counted.supervised
        seconds = measured * (supervised + full * ratio)
        if self._kind:
            seconds = measured * (supervised / ratio + full)
        if seconds < _WORTH_SAYING:
            return None
        others = f"; a step with unlabeled images counts as {ratio:.2g} of them" if full and not self._kind else ""
        said = (
            f"the {self._max_steps - first:,} steps to go will take about {duration(seconds)} on this CPU, evaluations "
            f"not counted ({measured:.2g} s a step, measured on {self._steps}{others})"
        )
        height, width = loaded.labeled.pixels.shape[-2:]
        if throughput.flops is None or throughput.flops.training * height * width < _LARGE_PASS:
            return said
        return f"{said}; the recipe {SMALL_RECIPE} is made for CPUs: denseteacher train {SMALL_RECIPE} ..."


def duration(seconds: float) -> str:
    """A length of time as one reads it: ``40 min``, ``3.5 h``, ``4.2 days``."""
    hours = timedelta(seconds=seconds) / timedelta(hours=1)
    if hours < 1:
        return f"{max(1, round(60 * hours))} min"
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
