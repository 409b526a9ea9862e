"""The page on adding a detector does what it says, and nothing else in the package has to know of it.

Its files and their lines are put into a copy of the package, where ``own_detector.py`` and the contracts of all methods
are run with it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import denseteacher

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "add-a-detector.md"


def with_the_pages_detector(folder):
    """A copy of the package with the page's file and its line."""
    package = folder / "denseteacher"
    shutil.copytree(Path(denseteacher.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    page = PAGE.read_text()
    modules = re.findall(r"```python\n(.*?)```", page, re.S)
    places = re.findall(r"^`(\w+\.py)`, in `src/denseteacher/([\w/]+)/`:$", page, re.M)
    assert len(modules) == len(places) == 2
    for (file, place), module in zip(places, modules, strict=True):
        (package / place / file).write_text(module)
    registries = re.findall(r"^In `src/denseteacher/([\w/]+\.py)`", page, re.M)
    changes = re.findall(r"```diff\n (.*?)\n\+(.*?)\n```", page)
    assert (len(registries), len(changes)) == (2, 4)
    for number, (before, added) in enumerate(changes):
        registry = package / registries[number // 2]
        content = registry.read_text()
        assert content.count(f"{before}\n") == 1
        registry.write_text(content.replace(f"{before}\n", f"{before}\n{added}\n"))


def test_a_detector_of_ones_own_is_known_everywhere(tmp_path):
    with_the_pages_detector(tmp_path)
    files = [str(TESTS / "contracts" / name) for name in ("own_detector.py", "test_methods.py")]
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-k", "binned", *files]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    result = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) > 100
