"""Statistics by hand, and what the three files say."""

import json

import numpy as np
import pytest
from PIL import Image

from denseteacher.experiments.table import STUDENT, Gain, Table, TableCell, content, markdown, spread, write_table


def cell(row, folds, values, published=(), column=None):
    return TableCell(
        row, column, folds, values, dict(published), [f"run-{fold}" for fold in folds], [60.0] * len(folds),
        [0.1 * fold for fold in folds], [None] * len(folds),
    )  # fmt: skip


FULL = Table(
    "mine",
    "Mine",
    "What to know.",
    "paper",
    ("AP", "MR"),
    [
        cell("one", [1, 2, 4], {"AP": [40.0, 43.0, 40.0], STUDENT: [39.0, 41.0, 43.0]}, {"AP": (41.25, None)}),
        cell("two", [1], {"AP": [44.04], "MR": [None], STUDENT: [43.0]}, {"MR": (60.7, 0.12)}),
        cell("three", [], {"AP": [], STUDENT: []}),
    ],
)


def test_the_spread_is_the_samples():
    assert spread([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]) == (5.0, pytest.approx((32 / 7) ** 0.5))
    assert spread([40.0, None, 43.0]) == (41.5, pytest.approx(4.5**0.5))
    assert spread([3.0]) == (3.0, None)
    assert spread([None]) is None


def test_markdown():
    lines = markdown(FULL).splitlines()
    assert lines[0] == "# Mine"
    assert lines[2:7] == [
        "|  | AP | published | MR | published | student AP | s/step | runs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| one | 41.0 ± 1.7 | 41.25 | - | - | 41.0 ± 2.0 | 0.23 | 3 |",
        "| two | 44.0 | - | not measured | 60.70 ± 0.12 | 43.0 | 0.1 | 1 |",
        "| three | - | - | - | - | - | - | 0 |",
    ]
    assert lines[-1] == "What to know."


def test_a_metric_that_nobody_knows_is_left_out():
    head = markdown(FULL._replace(cells=[FULL.cells[0], FULL.cells[2]])).splitlines()[2]
    assert head == "|  | AP | published | student AP | s/step | runs |"


def test_columns():
    table = Table(
        "mine", "Mine", "", "digits", ("AP",),
        [
            cell("one", [1, 2], {"AP": [1.0, 3.0], STUDENT: [1.0, 1.0]}, {"AP": (11.24, 0.18)}, "1 %"),
            cell("one", [1], {"AP": [5.0], STUDENT: [4.0]}, {}, "2 %"),
            cell("two", [], {"AP": [], STUDENT: []}, {}, "2 %"),
        ],
        "Digits",
    )  # fmt: skip
    lines = markdown(table).splitlines()
    assert lines[0] == "# Mine; here on Digits"
    assert lines[2] == "|  | 1 % | published | 2 % | 1 %, student AP | 2 %, student AP | s/step | runs |"
    assert lines[4] == "| one | 2.0 ± 1.4 | 11.24 ± 0.18 | 5.0 | 1.0 ± 0.0 | 4.0 | 0.13 | 2, 1 |"
    assert lines[5] == "| two | - | - | - | - | - | - | 0 |"
    rows = content(table)["rows"]
    assert [row["label"] for row in rows] == ["one, 1 %", "one, 2 %", "two, 2 %"]
    assert (rows[0]["row"], rows[0]["column"]) == ("one", "1 %")


def test_gains_stand_beside_values():
    gain = Gain("base", [40.0, 43.0], [1.0, 2.0], 39.0)
    rows = [
        cell("base", [1, 2], {"AP": [40.0, 43.0], "MR": [1.0, 1.0], STUDENT: [39.0, 41.0]}, {"AP": (39.0, 0.1)}),
        cell("ours", [1, 2], {"AP": [41.0, 45.0], "MR": [2.0, 2.0], STUDENT: [39.0, 41.0]}, {"AP": (41.25, 0.2)}),
        cell("quoted", [], {}, {"AP": (38.5, None)}),
    ]
    rows = [rows[0], rows[1]._replace(gain=gain), rows[2]._replace(gain=Gain("base", [], [], 39.0))]
    lines = markdown(FULL._replace(cells=rows)).splitlines()
    assert lines[2] == "|  | AP | gain | published | gain | MR | student AP | s/step | runs |"
    assert lines[4].startswith("| base | 41.5 ± 2.1 | - | 39.00 ± 0.10 | - | 1.0 ± 0.0 |")
    assert lines[5].startswith("| ours | 43.0 ± 2.8 | +1.5 ± 0.7 | 41.25 ± 0.20 | +2.25 | 2.0 ± 0.0 |")
    assert lines[6] == "| quoted | - | - | 38.50 | -0.50 | - | - | - | 0 |"
    assert content(FULL._replace(cells=rows))["rows"][1]["gain"] == {
        "over": "base", "baselines": [40.0, 43.0], "values": [1.0, 2.0], "published_baseline": 39.0,
        "own_baseline": False,
    }  # fmt: skip


def test_values_are_from_baseline_to_result_where_published_baselines_differ():
    rows = [
        cell("base", [1], {"AP": [40.0], STUDENT: []}, {"AP": (41.22, None)}),
        cell("ours", [1], {"AP": [41.0], STUDENT: []}, {"AP": (43.9, None)})._replace(
            gain=Gain("base", [40.0], [1.0], 41.22)
        ),
        cell("theirs", [1], {"AP": [39.5], STUDENT: []}, {"AP": (38.82, None)})._replace(
            gain=Gain("base", [40.0], [-0.5], 40.2, own_baseline=True)
        ),
    ]
    lines = markdown(FULL._replace(cells=rows, metrics=("AP",))).splitlines()
    assert lines[4].startswith("| base | 40.0 | - | 41.22 | - |")
    assert lines[5].startswith("| ours | 40.0 → 41.0 | +1.0 | 41.22 → 43.90 | +2.68 |")
    assert lines[6].startswith("| theirs | 40.0 → 39.5 | -0.5 | 40.20 → 38.82 | -1.38 |")


def test_the_files(tmp_path):
    files = write_table(tmp_path / "new", FULL)
    assert [files[ending].name for ending in ("md", "json", "png")] == [
        f"mine-paper.{ending}" for ending in ("md", "json", "png")
    ]
    found = json.loads(files["json"].read_text())
    first = found["rows"][0]
    assert (first["label"], first["seeds"], first["values"]["AP"]) == ("one", [1, 2, 4], [40.0, 43.0, 40.0])
    assert first["summary"] == {"AP mean": 41.0, "AP std": 1.732, "student AP mean": 41.0, "student AP std": 2.0}
    assert first["published"] == {"AP": [41.25, None]}
    assert (first["seconds"], first["step_seconds"]) == ([60.0] * 3, [0.1, 0.2, 0.4])
    assert first["runs"] == ["run-1", "run-2", "run-4"]
    assert found["rows"][1]["summary"] == {"AP mean": 44.04, "student AP mean": 43.0}
    assert _has_color(files["png"], (0, 0x72, 0xB2))
    assert _has_color(files["png"], (0xD5, 0x5E, 0))  # published, in the paper's profile alone
    assert not _has_color(write_table(tmp_path, FULL._replace(profile="digits"))["png"], (0xD5, 0x5E, 0))


def test_a_table_of_nothing_is_written(tmp_path):
    files = write_table(tmp_path, FULL._replace(cells=[FULL.cells[2]]))
    assert "| three | - | - | - | 0 |" in files["md"].read_text()


def _has_color(path, color):
    pixels = np.asarray(Image.open(path).convert("RGB"))
    return bool((pixels == color).all(-1).any())
