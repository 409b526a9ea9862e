"""docs/fidelity.md says what the published recipes say, leaves nothing out, and names tests that exist."""

import re
from pathlib import Path

import pytest
import yaml

from denseteacher.recipes.differences import flat_recipe
from denseteacher.recipes.files import read_chain
from denseteacher.recipes.schema import load_recipe

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "fidelity.md").read_text()
RECIPES = ["coco_standard", "coco_full", "coco_full_lsj", "voc", "voc_coco20cls", "crowdhuman"]
COMPLETE = ("augment", "detector", "method", "ema", "optim")
"""Parts of a recipe of which the page has every key."""
PLACES = {"name", "description", "extends"} | {
    f"data.{key}" for key in ("labeled", "images", "unlabeled", "unlabeled_images", "val", "val_images")
}
"""Keys that say nothing of the run."""


def section(name):
    parts = re.split(r"^## ", PAGE, flags=re.M)
    (found,) = [part for part in parts if f"`{name}`" in part.partition("\n")[0]]
    return found


def stated(name):
    """What a recipe's section says that it has, by key."""
    rows = re.findall(r"^\| `([\w.]+)` \|[^|]*\| `([^|`]+)` \|", section(name), re.M)
    return {key: yaml.safe_load(value) for key, value in rows}


@pytest.mark.parametrize("name", RECIPES)
def test_the_page_says_what_the_recipes_say(name):
    values = flat_recipe(load_recipe(name).model_dump(mode="json"))
    found = stated(name)
    assert found == {key: values[key] for key in found}


@pytest.mark.parametrize("name", RECIPES)
def test_no_key_that_a_published_recipe_sets_is_left_out(name):
    own = {key for key in flat_recipe(read_chain(name)[-1]) if key not in PLACES}
    assert own - set(stated(name)) == set()


def test_no_key_of_the_published_run_is_left_out():
    keys = flat_recipe(load_recipe("coco_standard").model_dump(mode="json"))
    assert {key for key in keys if key.startswith(COMPLETE)} - set(stated("coco_standard")) == set()


def test_the_tests_that_the_page_names_are_there():
    named = re.findall(r"`(\w+/(?:\w+/)*test_\w+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) > 60
    missing = [
        (file, test)
        for file, test in named
        if not (TESTS / file).is_file() or (test and f"def {test}(" not in (TESTS / file).read_text())
    ]
    assert missing == []


def test_every_row_names_a_test():
    rows = [line.split("|") for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 6]
    held = [row[5].strip() for row in rows if row[5].strip() not in ("test", "---")]
    assert len(held) > 100
    assert [one for one in held if not re.fullmatch(r"`[\w/]+\.py(::\w+)?`|same", one)] == []
