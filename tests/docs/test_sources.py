"""Docstrings, scripts and pages name sources and files that a reader of the repository can open."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path.relative_to(ROOT)
    for folder in ("src", "benchmarks", "docs")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".yaml", ".md", ".sh")
)
SECTIONS = re.findall(r"^## (.+)$", (ROOT / "docs" / "sources.md").read_text(), re.M)


def test_every_section_that_is_named_is_there():
    named = [name for path in FILES for name in re.findall(r"docs/sources\.md, (.+)", (ROOT / path).read_text())]
    assert len(named) > 20
    assert not [name for name in named if not name.startswith(tuple(SECTIONS))]


@pytest.mark.parametrize(
    "word", ["ssod_systems", "performance_and_reliability", "landscape_2026", "design.md", "style.md"]
)
def test_nothing_refers_to_a_document_that_is_not_here(word):
    assert not [str(path) for path in FILES if word in (ROOT / path).read_text()]


@pytest.mark.parametrize("folder", ["tests", "benchmarks", "src"])
def test_files_that_are_named_are_there(folder):
    places = [*FILES, Path("README.md"), Path(".ci/run")]
    named = {
        name for path in places for name in re.findall(rf"\b{folder}/[\w/]+\.(?:py|sh)\b", (ROOT / path).read_text())
    }
    assert not {name for name in named if not (ROOT / name).is_file()}
