"""``denseteacher reproduce`` through its entry point, on two rows of seconds."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
import yaml

from denseteacher.experiments.reproduce import make_plan, reproduce
from denseteacher.experiments.schema import load_experiment
from denseteacher.training.metrics_log import read_metrics
from support import wait_for_rows


@pytest.fixture
def experiment(tiny, tmp_path):
    """Supervised and pseudo-boxes in 30 steps, 6 of them burn-in."""
    settings = dict(text.split("=", 1) for text in tiny)
    settings |= {
        "data.labeled": "annotations.json", "data.images": "images", "data.val": "annotations.json",
        "data.val_images": "images", "data.split": "seeded", "data.count": "6", "method.burn_in": "6",
        "method.ramp": "2", "schedule.max_steps": "30",
    }  # fmt: skip
    content = {
        "name": "mine",
        "title": "Mine",
        "metrics": ["AP", "AP50"],
        "profiles": {
            "paper": {"recipe": "custom", "overrides": {key: yaml.safe_load(value) for key, value in settings.items()}}
        },
        "rows": [
            {"label": "Supervised", "overrides": {"method.name": "supervised"}, "published": {"AP": [26.44, 0.11]}},
            {"label": "Pseudo-boxes", "overrides": {"method.name": "unbiased_teacher"}},
        ],
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def test_a_table_from_a_stopped_call_to_its_files(call, coco, experiment, tmp_path):
    output = tmp_path / "out"
    arguments = ["reproduce", experiment, "--data", coco.parent, "--folds", "1", "--output", output]
    supervised, boxes = make_plan(experiment, root=coco.parent, folds=[1]).runs
    log = output / "runs" / boxes.name / "metrics.jsonl"

    # the row with a burn-in runs first, though it stands second; the signal reaches the call alone
    process = subprocess.Popen(
        [sys.executable, "-m", "denseteacher.cli", *map(str, arguments)],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    wait_for_rows(process, log, 8, seconds=240)
    os.kill(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped by SIGTERM" in err
    assert "Traceback" not in err
    reached = max(row["step"] for row in read_metrics(log))
    assert 8 <= reached < 30
    assert not (output / "runs" / boxes.name / "report.html").exists()
    assert not (output / "runs" / supervised.name).exists()
    before = log.read_text().splitlines()[:8]

    code, out, err = call(*arguments)
    assert code == 0, err
    assert "Pseudo-boxes, fold 1: goes on" in err
    assert "Supervised, fold 1: begins" in err
    assert log.read_text().splitlines()[:8] == before
    assert "| Supervised |" in out
    rows = {row["label"]: row for row in json.loads((output / "mine-paper.json").read_text())["rows"]}
    assert rows["Pseudo-boxes"]["runs"] == [boxes.name]
    assert rows["Supervised"]["published"] == {"AP": [26.44, 0.11]}
    assert rows["Supervised"]["burn_in_from"] == [boxes.name]
    assert all(row["seeds"] == [1] and row["seconds"][0] > row["step_seconds"][0] > 0 for row in rows.values())
    # one burn-in, to the last digit, and it was not trained again
    of_boxes = [row for row in read_metrics(log) if row["step"] <= 6]
    of_supervised = read_metrics(output / "runs" / supervised.name / "metrics.jsonl")
    assert of_supervised[: len(of_boxes)] == of_boxes
    last = [row for row in of_supervised if "teacher/AP" in row][-1]
    assert rows["Supervised"]["values"]["AP"] == [last["teacher/AP"]]
    assert rows["Supervised"]["values"]["student AP"] == [last["student/AP"]]
    assert (output / "mine-paper.png").stat().st_size > 5000

    # all is done: every further call, of one row, of a shard or without the data, only writes the table
    for other in (arguments, [*arguments, "--shard", "2/2"], [*arguments, "--row", "pseudo", "--jobs", 2]):
        (output / "mine-paper.md").unlink()
        code, _, err = call(*other)
        assert (code, err) == (0, "")
        assert "| Pseudo-boxes |" in (output / "mine-paper.md").read_text()
    found = reproduce(experiment, folds=[1], output=output).table.cells
    assert [cell.folds for cell in found] == [[1], [1]]

    # a later call starts from the burn-in that is there
    code, _, err = call(*arguments, "--set", "method.threshold=0.3")
    assert code == 0, err
    assert "1 of them finished before" in err
    rows = {row["label"]: row for row in json.loads((output / "mine-paper.json").read_text())["rows"]}
    assert rows["Pseudo-boxes"]["burn_in_from"] == [boxes.name] != rows["Pseudo-boxes"]["runs"]

    # another version's default
    stored = output / "runs" / boxes.name / "recipe.yaml"
    stored.write_text(stored.read_text().replace("threshold: 0.5", "threshold: 0.4", 1))
    code, _, err = call(*arguments)
    assert code == 2
    assert "with method.threshold=0.4, not 0.5: move it away" in err


def test_a_run_that_fails_is_missing_and_the_others_go_on(call, coco, experiment, tmp_path):
    content = yaml.safe_load(experiment.read_text())
    content["rows"] = [
        {"label": "Too many", "overrides": {"data.count": 999}},
        {"label": "Supervised", "overrides": {"method.name": "supervised", "schedule.max_steps": 2}},
    ]
    experiment.write_text(yaml.safe_dump(content))
    code, out, err = call(
        "reproduce", experiment, "--data", coco.parent, "--folds", 2, "--output", tmp_path / "out", "--jobs", 2
    )
    assert code == 1
    assert "Too many, fold 2 failed: 999 labeled images were asked for, but there are 12 images" in err
    assert "1 run failed and can't be in the table" in err
    assert "Traceback" not in err
    assert "| Too many | - | - | - | - | 0 |" in out
    assert [cell["seeds"] for cell in json.loads((tmp_path / "out" / "mine-paper.json").read_text())["rows"]] == [
        [], [2],
    ]  # fmt: skip


def test_dry_run_prints_every_recipe_and_makes_nothing(call, experiment, tmp_path):
    code, out, _ = call("reproduce", experiment, "--folds", "1,3", "--dry-run", "--output", tmp_path / "out")
    assert code == 0
    recipes = list(yaml.safe_load_all(out))
    assert [(recipe["method"]["name"], recipe["seed"], recipe["data"]["fold"]) for recipe in recipes] == [
        ("supervised", 1, 1), ("unbiased_teacher", 1, 1), ("supervised", 3, 3), ("unbiased_teacher", 3, 3),
    ]  # fmt: skip
    assert "# Pseudo-boxes, fold 3: unbiased_teacher-" in out
    assert not (tmp_path / "out").exists()
    code, out, _ = call("reproduce", experiment, "--dry-run", "--row", "SUPER", "--set", "method.threshold=0.4")
    assert [recipe["method"] for recipe in yaml.safe_load_all(out)] == [{"name": "supervised", "burn_in": 6}] * 5


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("supervised", {"Supervised"}),  # a whole label is that row, though others contain it
        ("SUPERVISED (", {"Supervised (all labels)"}),
        ("unbiased", {"Unbiased Teacher (cls)", "Unbiased Teacher (cls+box)"}),
    ],
)
def test_a_row_is_chosen_by_its_label_or_a_part_of_several(tmp_path, text, labels):
    plan = make_plan("table1", root=tmp_path, profile="masks", folds=[1], rows=[text])
    assert {run.label for run in plan.runs} == {f"{label}, fold 1" for label in labels}


def test_list(call, experiment):
    code, out, _ = call("reproduce", "--list")
    assert code == 0
    for name in ("table1", "table7b", "fig2a", "methods"):
        assert f"\n{name}: " in f"\n{out}"
    assert "not a measurement" in out
    code, out, _ = call("reproduce", experiment, "--list")
    assert out.startswith("mine: Mine\n  paper   10 runs")
    assert "  - Pseudo-boxes" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tabel1"], r"no experiment 'tabel1' \(did you mean 'table1'\?\)"),
        ([], "reproduce needs one of beyond, fig2a, .*--list"),
        (["table1", "--profile", "coco"], "no profile 'coco': it runs with --profile paper, digits"),
        (["table1", "--shard", "3"], "--shard takes i/n"),
        (["table1", "--shard", "3/2"], "no shard 3/2"),
        (["table1", "--folds", "x"], "--folds takes numbers"),
        (["table1", "--folds", "3-1"], "--folds 3-1 names no fold"),
        (["table1", "--row", "nothing"], "no row with 'nothing'; its rows are Supervised, "),
        (["table1", "--set", "method.ratoi=1"], r"did you mean 'ratio'"),
        (["table1"], "there is no annotations/instances_train2017.json.*--data"),
    ],
)
def test_wrong_usage_is_one_sentence(call, tmp_path, arguments, message):
    code, _, err = call("reproduce", *arguments, "--output", tmp_path / "out")
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert re.search(message, err), err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_can_not_be_made_is_a_failure(call, experiment, coco, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = call("reproduce", experiment, "--data", coco.parent, "--output", tmp_path / "file" / "out")
    assert code == 1
    assert "can't be written: Not a directory" in err
    assert "Traceback" not in err


def test_the_default_folds(experiment):
    assert make_plan(experiment).folds == (1, 2, 3, 4, 5)
    assert make_plan("table1", profile="digits").folds == (1, 2, 3)
    assert make_plan("table4").folds == (1,)
    assert load_experiment("table4").profiles["paper"].folds == (1,)
