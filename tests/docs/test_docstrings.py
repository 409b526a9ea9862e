"""Docstrings are sentences or noun phrases: none begins in the middle of a thought."""

import ast
from pathlib import Path

import pytest

import denseteacher

SOURCES = Path(denseteacher.__file__).parent
PREPOSITIONS = {"Of", "For", "From", "In", "By", "At", "With", "Without", "On", "Over", "As", "After", "Before", "To"}
PREPOSITIONS |= {"Above", "Around", "Below", "Down", "Instead", "Into", "Under", "Up", "Within"}
NO_SUBJECT = {"Told", "Asked", "Given", "Counted", "Seen", "That", "Those", "Its", "Their", "Who", "None"}
FORBIDDEN = PREPOSITIONS | NO_SUBJECT | {"Neither", "Once"}
FILES = [file.relative_to(SOURCES).as_posix() for file in sorted(SOURCES.rglob("*.py"))]


def docstrings(tree):
    """Line and text of all docstrings of a module, its classes, functions, fields and constants."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        for before, one in zip([None, *node.body], node.body, strict=False):
            is_text = (
                isinstance(one, ast.Expr) and isinstance(one.value, ast.Constant) and isinstance(one.value.value, str)
            )
            if is_text and (before is None or isinstance(before, ast.Assign | ast.AnnAssign)):
                yield one.lineno, one.value.value


def first_word(text):
    """The first word of a docstring, without what marks it up."""
    return text.split()[0].strip(".,:;`")


@pytest.mark.parametrize("file", FILES)
def test_a_docstring_has_a_subject(file):
    found = [
        f"{file}:{line}: {text.splitlines()[0]}"
        for line, text in docstrings(ast.parse((SOURCES / file).read_text(encoding="utf-8")))
        if first_word(text) in FORBIDDEN
    ]
    assert found == []


def test_docstrings_of_every_kind_are_found():
    source = "\n".join(
        [
            '"""Of a."""', "B = 1", '"""For b."""', "class C:", '    """In c."""', "    d: int", '    """By d."""',
            "    def e(self):", '        """To e."""',
        ]
    )  # fmt: skip
    assert [first_word(text) for _, text in docstrings(ast.parse(source))] == ["Of", "For", "In", "By", "To"]
