"""The reference of recipe keys, which the documentation's site makes from the schema, has all of them."""

import importlib.util
import re
from pathlib import Path

import pytest

from denseteacher.recipes.differences import flat_recipe
from denseteacher.recipes.files import builtin_names
from denseteacher.recipes.schema import load_recipe

HOOKS = Path(__file__).parents[2] / "docs" / "hooks.py"


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("site_hooks", HOOKS)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "overrides", [[], ["detector.name=retinanet"], ["detector.name=gfl"], ["method.name=acrst"], ["augment.affine={}"]]
)
def test_every_key_is_in_the_reference(hooks, overrides):
    found = set(re.findall(r"^\| `([\w.]+)` \|", hooks.key_reference(), re.M))
    if "augment.affine={}" in overrides:
        overrides = [*overrides, "method.name=unbiased_teacher"]
    keys = flat_recipe(load_recipe("custom", overrides).model_dump(mode="json"))
    assert set(keys) <= found


def test_a_key_has_its_values_default_and_meaning(hooks):
    reference = hooks.key_reference()
    assert "| `optim.clip_value` | number, `null`; > 0 | `null` | Each gradient element is cut to" in reference
    assert "| `data.bad_boxes` | `error`, `fix` | `error` | What to do with boxes" in reference
    assert "## `method`: `dense_teacher`" in reference
    assert re.search(r"\| `ema.decay` \| number, `auto` \| `0.9996` \| Share of itself", reference)


def test_no_key_goes_without_a_meaning(hooks):
    rows = re.findall(r"^\| `([\w.]+)` \|.*\| (.*) \|$", hooks.key_reference(), re.M)
    assert len(rows) > 100
    assert [key for key, meaning in rows if not meaning.strip()] == []


def test_every_built_in_recipe_is_described():
    table = (HOOKS.parent / "recipes.md").read_text()
    assert {name for name in builtin_names() if f"| `{name}` |" not in table} == set()


def test_links_out_of_the_docs_stay_in_the_site(hooks):
    text = "[a](../benchmarks/results/digits_main.json) [b](../README.md#try-it)"
    assert hooks.on_page_markdown(text) == "[a](benchmarks/results/digits_main.json) [b](index.md#try-it)"
