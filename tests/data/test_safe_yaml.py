"""YAML from elsewhere: plain values within bounds, or one sentence; the same for data, recipes and experiments."""

import os
from itertools import pairwise

import pytest

from denseteacher.data.safe_yaml import parse_yaml, read_yaml
from denseteacher.errors import InputError
from denseteacher.experiments.schema import load_experiment
from denseteacher.recipes.schema import load_recipe


def bomb(start, line):
    names = "abcdefghij"
    lines = [f"{name}: &{name} {line.format(', '.join([f'*{before}'] * 9))}" for before, name in pairwise(names)]
    return "\n".join([f"a: &a {start}", *lines])


NO_YAML = {
    "lists of lists": (bomb("[x, x]", "[{}]"), "more than 100,000 values"),
    "merged mappings": (bomb("{x: 1}", "{{<<: [{}]}}"), "more than 100,000 values"),
    "an alias in itself": ("a: &a [*a]", "stands inside of what it names"),
    "a mapping in itself": ("a: &a {b: {c: *a}}", "stands inside of what it names"),
    "deep lists": ("a: " + "[" * 10_000, "nested more than 40 levels deep"),
    "deep mappings": ("{a: " * 10_000, "nested more than 40 levels deep"),
    "deep blocks": ("".join(f"{' ' * depth}a:\n" for depth in range(500)), "nested more than 40 levels deep"),
    "a tab": ("a:\n\tb: 1", "line 2 has a tab where YAML needs spaces"),
    "a tab after spaces": ("a:\n  b: 1\n  \tc: 2", "line 3 has a tab where YAML needs spaces"),
    "a key twice": ("a: 1\nb: 2\na: 3", "the key 'a' stands twice"),
    "a key of a list": ("? [a]\n: 1", "unhashable key"),
    "no end of a text": ("a: 'b", "line 1"),
    "two documents": ("a: 1\n---\nb: 2", "another document"),
    "Python": ("a: !!python/object/apply:os.system [true]", "could not determine a constructor"),
    "a type of one's own": ("a: !thing b", "could not determine a constructor"),
    "bytes of nought": ("a: \0", "can't be read as YAML"),
    "a megabyte": ("a: 1\n" + "#" * 1_000_001, "1,000,000"),
}
NO_VALUES = {
    "a date that is none": ("a: 2001-99-99", "a value that is none of its type"),
    "a truth that is none": ("a: !!bool perhaps", "a value that is none of its type"),
    "a number that is none": ("a: !!int x", "a value that is none of its type"),
    "digits without a number": ("a: 0b_", "a value that is none of its type"),
    "400 digits": (f"a: {'9' * 400}", "of 400 digits is larger than any"),
    "5,000 digits": (f"a: {'9' * 5000}", "4300 digits"),
}


@pytest.mark.parametrize("case", {**NO_YAML, **NO_VALUES})
def test_what_is_no_yaml_is_one_sentence_everywhere(tmp_path, case):
    text, says = {**NO_YAML, **NO_VALUES}[case]
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    for read in (read_yaml, load_recipe, load_experiment):
        with pytest.raises(InputError, match=says) as caught:
            read(file)
        assert "mine.yaml" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000
    if case in NO_VALUES:
        assert parse_yaml(text, "x", as_text=True) == {"a": text.removeprefix("a: ").rpartition(" ")[2]}
    else:
        with pytest.raises(InputError, match=says):
            read_yaml(file, as_text=True)


TEXTS = [
    "yes",
    "no",
    "on",
    "off",
    "true",
    "null",
    "~",
    "007",
    "0x1F",
    "1e3",
    "1_000",
    "1:30",
    "2001-01-01",
    ".nan",
    "=",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_stays_as_it_is_written(text):
    content = parse_yaml(f"'k': ['{text}']\n{text or 'x'}: {text}\nlast: {text}", "x", as_text=True)
    assert content == {"k": [text], text or "x": text, "last": text}


def test_values_and_aliases_are_those_of_yaml():
    assert parse_yaml("a: &a {b: 1, c: [yes, 2.5, null]}\nd: {<<: *a, c: x}\ne: *a", "x") == {
        "a": {"b": 1, "c": [True, 2.5, None]},
        "d": {"b": 1, "c": "x"},
        "e": {"b": 1, "c": [True, 2.5, None]},
    }


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gbk"])
def test_encodings(tmp_path, encoding):
    (tmp_path / "a.yaml").write_bytes("名: [行人]\r\n".encode(encoding))
    assert read_yaml(tmp_path / "a.yaml") == {"名": ["行人"]}


def test_pipes_and_folders(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    for name in ("pipe.yaml", "folder.yaml", "x" * 300 + ".yaml", "gone.yaml"):
        for read in (read_yaml, load_recipe, load_experiment):
            with pytest.raises(InputError):
                read(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["../../x", "/x", "a/b", "..", ".", ".x", "a\\b", "C:x", "a\nb", "a\0b", "x" * 101, "", "a*", "a[1]", "a?"]
)
def test_a_recipe_names_a_folder_below_runs(name):
    with pytest.raises(InputError, match=r"recipe 'custom': name: .*a run's name is that of a folder too"):
        load_recipe("custom", {"name": name})


@pytest.mark.parametrize("name", ["mine", "my run 2", "a.b-c_d", "行人", "x" * 100])
def test_plain_names_of_recipes(name):
    assert load_recipe("custom", {"name": name}).name == name


def test_a_long_chain_of_recipes(tmp_path):
    for number in range(2000):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    with pytest.raises(InputError, match="extends more than 20 others"):
        load_recipe(tmp_path / "0.yaml")
