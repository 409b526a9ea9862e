"""Names from files never command the terminal, and never become formulas or markup."""

import csv

import pytest
from rich.table import Table

from denseteacher.cli.printing import cell, console, remark, say
from denseteacher.errors import visible
from denseteacher.evaluation.summary import ClassScore, RunEvaluation
from denseteacher.runs.evaluate import write_evaluation
from denseteacher.runs.folder import RunFolder
from denseteacher.training.progress import ProgressDisplay

HOSTILE = {
    "ANSI color": "a\x1b[31mb",
    "OSC title": "a\x1b]0;owned\x07b",
    "OSC 8 link": "\x1b]8;;http://x\x1b\\b\x1b]8;;\x1b\\",
    "C1 sequence": "a\x9b31mb",
    "carriage return": "sound\rowned",
    "backspace": "ab\b\bcd",
    "lone surrogate": "a\udcffb",
    "writing direction": "a\u202egnp.exe",
    "closing markup": "[/red]",
    "markup": "[bold]x[/bold]",
    "link markup": "[link=http://x]y[/link]",
}


@pytest.mark.parametrize("show", ["say", "remark", "table", "progress"])
@pytest.mark.parametrize("case", HOSTILE)
def test_no_character_commands_a_terminal(case, show, capsys):
    name = HOSTILE[case]
    if show == "table":
        table = Table()
        table.add_column("class")
        table.add_row(cell(name))
        console().print(table)
    elif show == "progress":
        ProgressDisplay("x", 1, live=False).message(name)
    else:
        {"say": say, "remark": remark}[show](name)
    out, err = capsys.readouterr()
    assert not set(out + err) & set("\x1b\x07\x9b\r\b\u202e\udcff")
    assert visible(name) in out + err
    assert not case.endswith("markup") or name in out + err


@pytest.mark.parametrize("name", ["person", "Hündchen", "日本語", "a b", "👩\u200d🚒", "two\nlines"])
def test_names_of_any_language_are_shown_as_they_are(name):
    assert visible(name) == name


def test_an_error_is_shown_plainly(call, tmp_path):
    code, _, err = call("check", tmp_path / "a\x1b[31m.json")
    assert code == 2
    assert "\x1b" not in err
    assert r"a\x1b[31m.json" in err


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_class_is_a_formula_of_a_spreadsheet(name, tmp_path):
    names = list(RunEvaluation._fields)
    found = RunEvaluation(**dict.fromkeys(names, 0) | {"classes": [ClassScore(name, 1, {"AP": 1.0})]})
    write_evaluation(RunFolder(tmp_path), found, [])
    with (tmp_path / "per_class.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.reader(file))[1][0] == f"'{name}"
