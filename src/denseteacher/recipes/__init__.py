"""What a run is told: the schema of recipes, their files, and what ``auto`` becomes."""

from denseteacher.recipes.resolve import resolve
from denseteacher.recipes.schema import Recipe, dump_recipe, load_recipe

__all__ = ["Recipe", "dump_recipe", "load_recipe", "resolve"]
