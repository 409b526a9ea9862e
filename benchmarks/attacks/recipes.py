"""Hostile recipes: each is read as one that is written and read again as the same, or refused by a sentence."""

import random
from pathlib import Path
from typing import Any

import yaml

from attacks.damage import NASTY, damage_file, damaged_bytes, damaged_text, damaged_value, nasty_value
from attacks.judge import FileAttack, command, require_sound, result
from attacks.kind import HELD, REFUSED, FailureError
from denseteacher.recipes.schema import builtin_recipes, dump_recipe, load_recipe


class Recipes(FileAttack):
    """Recipe files and ``--set`` values."""

    label = "recipes"
    share = 1.5

    def prepare(self, folder: Path) -> None:
        """Reads the built-in recipes."""
        self._sound = {name: dump_recipe(load_recipe(name)) for name in builtin_recipes()}
        content = yaml.safe_load(self._sound["custom"])
        self._keys = [f"{part}.{key}" for part, inner in content.items() if isinstance(inner, dict) for key in inner]

    def attack_files(self, rng: random.Random, folder: Path) -> str:
        """Damages a recipe, and reads it."""
        file = folder / "recipe.yaml"
        file.write_text(rng.choice(list(self._sound.values())))
        overrides: list[str] = []
        if rng.random() < 0.25:
            overrides = [f"{rng.choice(self._keys)}={_value(rng)}" for _ in range(rng.randint(1, 3))]
        else:
            _damage(file, rng)
        recipe = result(lambda: load_recipe(file, overrides))
        if recipe is not None:
            again = folder / "again.yaml"
            again.write_text(dump_recipe(recipe))
            if load_recipe(again) != recipe:
                raise FailureError("a recipe is another one when it is written and read again")
        if rng.random() < 0.2 and not any("\0" in one for one in overrides):
            chosen = [part for one in overrides for part in ("--set", one)]
            require_sound(command("recipes", "show", file, *chosen))
        return REFUSED if recipe is None else HELD


def _value(rng: random.Random) -> Any:
    return rng.choice(NASTY) if rng.random() < 0.5 else str(nasty_value(rng))


def _damage(file: Path, rng: random.Random) -> None:
    way = rng.random()
    if way < 0.4:
        text = yaml.dump(damaged_value(yaml.safe_load(file.read_text()), rng))
        file.write_text(text, encoding="utf-8", errors="replace")
    elif way < 0.7:
        file.write_bytes(damaged_text(file.read_text(), rng))
    elif way < 0.85:
        file.write_bytes(damaged_bytes(file.read_bytes(), rng))
    elif way < 0.95:
        damage_file(file, rng)
    else:
        file.write_text(bomb(rng))


def bomb(rng: random.Random) -> str:
    """YAML whose aliases grow without bound, that nests without end, or that extends itself."""
    width, levels = rng.randint(2, 20), rng.randint(5, 50)
    lists = [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]" for level in range(1, levels)]
    bombs = ("\n".join(["a0: &a0 [x]", *lists]), "[" * rng.randint(10, 10_000), "{a: " * rng.randint(10, 10_000))
    return rng.choice((*bombs, "extends: recipe.yaml", f"extends: {'x' * 300}", "extends: ../../x.yaml", "? ? ? a"))
