"""Experiments: a table or a sweep of the paper as rows of recipes, with the published numbers beside them."""

import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args

from pydantic import Field, ValidationError, model_validator

from denseteacher.config import Config
from denseteacher.data.safe_yaml import read_yaml
from denseteacher.errors import InputError
from denseteacher.recipes.files import suggest
from denseteacher.recipes.schema import Recipe, load_recipe

ProfileName = Literal["paper", "digits", "masks", "bccd"]
PROFILES: tuple[ProfileName, ...] = get_args(ProfileName)
DATA_OF: dict[ProfileName, str] = {"paper": "", "digits": "Digits", "masks": "masks", "bccd": "BCCD"}
"""The data that stand for the paper's; docs/results.md says what they are."""
FOLDS: dict[ProfileName, tuple[int, ...]] = {
    "paper": (1, 2, 3, 4, 5),
    "digits": (1, 2, 3),
    "masks": (1, 2, 3),
    "bccd": (1, 2, 3),
}
"""What is run where neither the experiment nor the user says otherwise."""

Changes = dict[str, Any]
"""Recipe keys with their values, as for ``--set``; ``recipe`` names the recipe that they change."""
Value = float | tuple[float, float]
"""A mean, or a mean and its standard deviation."""


class Profile(Config):
    """A scale at which an experiment can be run."""

    recipe: str
    overrides: Changes = Field({})
    folds: tuple[int, ...] | None = None
    """Folds to run, where ``FOLDS`` would be too many."""


class Variation(Config):
    """A row or a column, and what it changes."""

    label: str
    overrides: Changes = Field({})
    """Changes in all profiles."""
    paper: Changes | None = Field({})
    """Changes over ``overrides``, in this profile; null leaves the row or column out of it."""
    digits: Changes | None = Field({})
    masks: Changes | None = Field({})
    bccd: Changes | None = Field({})

    def changes(self, profile: ProfileName) -> Changes | None:
        """All of its changes in a profile; None where it doesn't exist."""
        own = getattr(self, profile)
        return None if own is None else _over(self.overrides, own)


class Row(Variation):
    """A row, with the numbers that it is compared with."""

    published: dict[str, Value] = Field({})
    """Numbers by metric; by column where there are columns, then of the first metric."""
    quoted: bool = False
    """Whether the row stands in the table with its published numbers alone: nothing is trained for it."""
    gain_over: str | None = None
    """Label of the row that its gain is over; the experiment's if not given."""
    published_baseline: float | None = None
    """Number that its published gain is over, where that is not the published one of the other row."""


class Experiment(Config):
    """A table: rows, each with a value a metric, or a value a column."""

    name: str
    title: str
    note: str = ""
    """What a reader of the table must know, in Markdown."""
    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = ("AP",)
    gain_over: str | None = None
    """Label of the row over which the table shows the others' gains, in the first metric; none are shown without it."""
    profiles: dict[ProfileName, Profile]
    columns: tuple[Variation, ...] = ()
    rows: Annotated[tuple[Row, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check_labels(self) -> "Experiment":
        for variations in (self.rows, self.columns):
            labels = [variation.label for variation in variations]
            twice = next((label for label in labels if labels.count(label) > 1), None)
            if twice is not None:
                raise ValueError(f"the label {twice!r} stands twice")
        valid = [column.label for column in self.columns] or self.metrics
        for row in self.rows:
            unknown = next((key for key in row.published if key not in valid), None)
            if unknown is not None:
                raise ValueError(f"row {row.label!r} has a published {unknown!r}, none of {', '.join(valid)}")
        labels = [row.label for row in self.rows if not row.quoted]
        named = [self.gain_over, *(row.gain_over for row in self.rows)]
        missing = next((label for label in named if label is not None and label not in labels), None)
        if missing is not None:
            raise ValueError(f"gain_over names {missing!r}, none of the rows {', '.join(labels)}")
        return self

    def profile(self, name: ProfileName) -> Profile:
        """A profile.

        Raises:
            InputError: If the experiment has none of this name.
        """
        if name not in self.profiles:
            raise InputError(f"{self.name} has no profile {name!r}: it runs with --profile {', '.join(self.profiles)}")
        return self.profiles[name]


class Cell(NamedTuple):
    """One row in one column: a recipe that is run once a fold."""

    row: Row
    column: Variation | None
    recipe: Recipe

    def recipe_of(self, fold: int) -> Recipe:
        """The recipe of one fold: its split, and its seed, which are then the same in every row."""
        data = self.recipe.data.model_copy(update={"fold": fold})
        return self.recipe.model_copy(update={"seed": fold, "data": data})


def experiment_names() -> list[str]:
    """The experiments that come with the package."""
    names = (file.name for file in _folder().iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def load_experiment(source: str | Path) -> Experiment:
    """Reads an experiment.

    Args:
        source: Name of a built-in experiment, or path of a YAML file.

    Raises:
        InputError: If there is no such experiment, or a key or value is wrong.
    """
    text = str(source)
    file = Path(text) if text.endswith((".yaml", ".yml")) else _folder() / f"{text}.yaml"
    if not os.path.isfile(file):  # noqa: PTH113 (Path.is_file raises for names of more than 255 bytes)
        names = experiment_names()
        raise InputError(
            f"there is no experiment {text!r}{suggest(text, names)}: give a YAML file or one of {', '.join(names)}"
        )
    try:
        return Experiment.model_validate(read_yaml(Path(file)))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"experiment {text!r}: {key}{': ' if key else ''}{message}") from error


def cells(experiment: Experiment, profile: ProfileName, overrides: Sequence[str] = ()) -> list[Cell]:
    """The recipes of an experiment, row by row, without the rows that are quoted.

    Args:
        experiment: With the rows.
        profile: One of its profiles.
        overrides: Recipe keys for all rows, ``KEY=VALUE``. A key of the method or the detector is left out in
            the rows whose own has no such option, as a burn-in in those of ``supervised``.

    Raises:
        InputError: If the experiment has no such profile, or a recipe is wrong.
    """
    base = experiment.profile(profile)
    found: list[Cell] = []
    unused = set(overrides)
    for row in experiment.rows:
        for column in experiment.columns or (None,):
            of_row, of_column = row.changes(profile), {} if column is None else column.changes(profile)
            if row.quoted or of_row is None or of_column is None:
                continue
            changes = _over({"recipe": base.recipe} | base.overrides, of_column, of_row)
            name = changes.pop("recipe")
            texts = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
            try:
                recipe = load_recipe(name, texts)
                fitting = [text for text in overrides if _fits(text, recipe)]
                if fitting:
                    recipe = load_recipe(name, [*texts, *fitting])
            except InputError as error:
                raise InputError(f"{experiment.name}, row {row.label!r}: {error}") from error
            unused.difference_update(fitting)
            found.append(Cell(row, column, recipe))
    for text in unused:
        load_recipe(base.recipe, [text])  # explains the key that no row has
    return found


def _over(*layers: Changes) -> Changes:
    """Later changes over earlier ones, in the order in which they are made: a method before its options."""
    merged: Changes = {}
    for layer in layers:
        for key, value in layer.items():
            merged.pop(key, None)
            merged[key] = value
    return merged


def _fits(override: str, recipe: Recipe) -> bool:
    section, _, option = override.partition("=")[0].strip().partition(".")
    if section not in ("method", "detector") or not option:
        return True
    return option in type(getattr(recipe, section)).model_fields


def _folder() -> Any:
    return resources.files("denseteacher") / "experiments"
