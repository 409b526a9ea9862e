"""A run that trains says how healthy it is, and looking at it changes nothing."""

import json
import re

import pytest

from denseteacher.runs import build
from support.finished_runs import SHORT


def sets(overrides):
    return [part for override in overrides for part in ("--set", override)]


def losses(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key.startswith(("sup", "unsup", "loss"))} for row in rows]


def test_a_run_says_its_health_and_is_not_changed_by_it(call, coco, unlabeled, tiny, tmp_path, monkeypatch):
    def train(name):
        code, _, err = call(
            "train", "custom", "--labeled", coco, "--unlabeled", unlabeled, "--val", coco, "--output", tmp_path / name,
            *sets([*tiny, *SHORT, "schedule.log_every=1"]),
        )  # fmt: skip
        assert code == 0, err
        return err

    err = train("watched")
    lines = [line for line in err.splitlines() if line.startswith("health: ")]
    assert any(re.search(r"\d+% of the unlabeled images", line) for line in lines)
    rows = [json.loads(line) for line in (tmp_path / "watched" / "metrics.jsonl").read_text().splitlines()]
    evaluations = [row for row in rows if "teacher/AP" in row]
    assert [row["step"] for row in evaluations] == [4, 8]
    assert all(0 <= row["health/images_without"] <= 1 and 0 <= row["health/score"] <= 1 for row in evaluations)
    page = (tmp_path / "watched" / "report.html").read_text()
    assert "Health at its last evaluation" in page
    assert "Unlabeled images without a pseudo-label" in page
    monkeypatch.setattr(build, "_watch", lambda *_: None)
    assert "health: " not in train("alone")
    assert [one for one in losses(tmp_path / "watched") if one] == [one for one in losses(tmp_path / "alone") if one]


@pytest.mark.parametrize("method", ["supervised"])
def test_a_run_without_pseudo_labels_says_nothing(call, coco, unlabeled, tiny, tmp_path, method):
    code, _, err = call(
        "train", "custom", "--labeled", coco, "--unlabeled", unlabeled, "--val", coco, "--output", tmp_path / "run",
        *sets([*tiny, f"method.name={method}", "schedule.max_steps=2"]),
    )  # fmt: skip
    assert code == 0, err
    assert "health: " not in err
    assert "health/" not in (tmp_path / "run" / "metrics.jsonl").read_text()
