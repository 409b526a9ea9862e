"""The messages that the troubleshooting page explains are those of the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
_LEAST = 20
"""Characters of its own that a text needs to count as a message."""


def quoted():
    """The lines of the page's ``text`` blocks."""
    found = re.findall(r"^```text\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    return [line for block in found for line in block.splitlines()]


@pytest.fixture(scope="module")
def messages():
    """Patterns of all formatted texts in the package: anything may stand where a value is put in."""
    patterns = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr | ast.Constant):
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                texts = [str(part.value) if isinstance(part, ast.Constant) else None for part in parts]
                if sum(len(text or "") for text in texts) >= _LEAST:
                    patterns.append("".join(".*" if text is None else re.escape(text) for text in texts))
    return patterns


@pytest.mark.parametrize("line", quoted())
def test_the_code_says_what_the_page_quotes(messages, line):
    # the recipe's name stands before what the schema found wrong
    inner = line.partition(": ")[2] if line.startswith("recipe ") else line
    assert any(re.fullmatch(pattern, inner) for pattern in messages), line
