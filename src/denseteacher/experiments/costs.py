"""What there is to reproduce, and what it costs."""

from collections.abc import Iterable, Sequence

from denseteacher.experiments.plan import Run
from denseteacher.experiments.reproduce import Plan, make_plan
from denseteacher.experiments.schema import PROFILES, Experiment, ProfileName, experiment_names, load_experiment
from denseteacher.recipes.resolve import with_lengths
from denseteacher.recipes.schema import Recipe

_STEP_SECONDS: dict[ProfileName, float] = {"paper": 1.0, "digits": 0.12}
"""Seconds of a step whose number does not follow the data; that of ``paper`` is arithmetic, not a measurement."""


def describe_experiments(*experiments: str) -> str:
    """Experiments with their rows and costs, as text.

    Args:
        *experiments: Names or YAML files; all that come with the package if none is given.
    """
    sources = experiments or experiment_names()
    lines: list[str] = []
    all_runs: dict[ProfileName, dict[str, Run]] = {profile: {} for profile in PROFILES}
    for source in sources:
        loaded = load_experiment(source)
        lines.append(f"{loaded.name}: {loaded.title}")
        for profile in loaded.profiles:
            plan = make_plan(source, profile=profile)
            all_runs[profile] |= {run.name: run for run in plan.runs}
            lines.append(f"  {profile:7} {_cost(plan, profile)}")
        lines += [f"  - {label}" for label in _labels(loaded)]
        lines.append("")
    for name, runs in all_runs.items():
        if len(sources) > 1 and runs and name in _STEP_SECONDS:
            lines.append(f"all, {name}: {len(runs)} different runs; {_hours(runs.values(), name)}")
    lines.append(
        "Hours of paper are at 1 step/s, which is arithmetic and not a measurement; those of digits are of one CPU "
        f"thread at {_STEP_SECONDS['digits']} s a step, measured with FCOS."
    )
    return "\n".join(lines) + "\n"


def image_views(recipe: Recipe) -> int:
    """Images that the networks of a run with a set number of steps see in training, two views of each."""
    recipe = with_lengths(recipe, labeled=1, unlabeled=1)
    steps, burn_in = int(recipe.schedule.max_steps), int(recipe.method.burn_in_steps or 0)
    unlabeled = steps - burn_in if recipe.method.needs_unlabeled(steps - 1) else 0
    return 2 * (recipe.data.labeled_batch * steps + recipe.data.unlabeled_batch * unlabeled)


def _labels(experiment: Experiment) -> list[str]:
    """Rows, each with the profiles that it is not in."""
    labels = []
    for row in experiment.rows:
        missing = [profile for profile in experiment.profiles if row.changes(profile) is None]
        quoted = " (published numbers alone)" if row.quoted else ""
        labels.append(row.label + quoted + "".join(f" (not in {profile})" for profile in missing))
    return labels


def _cost(plan: Plan, profile: ProfileName) -> str:
    recipes = [run.recipe for run in plan.runs]
    about = f"{len(recipes)} runs (folds {', '.join(map(str, plan.folds))})"
    if profile not in _STEP_SECONDS or any(recipe.schedule.max_steps == "auto" for recipe in recipes):
        return f"{about}, as long as the data asks for"
    steps = _range([int(recipe.schedule.max_steps) for recipe in recipes], "{:,}")
    views = _range([image_views(recipe) / 1e6 for recipe in recipes], "{:.2f}")
    return f"{about} of {steps} steps and {views} million image views; {_hours(plan.runs, profile)}"


def _hours(runs: Iterable[Run], profile: ProfileName) -> str:
    """Hours of the runs, without what a shared burn-in saves."""
    steps = sum(int(run.recipe.schedule.max_steps) for run in runs)
    return f"{steps * _STEP_SECONDS[profile] / 3600:,.1f} h"


def _range(values: Sequence[float], form: str) -> str:
    lowest, highest = form.format(min(values)), form.format(max(values))
    return lowest if lowest == highest else f"{lowest} to {highest}"
