"""``train --log``: through a stand-in client everywhere, through the real ones offline where they are installed."""

import importlib
import json
import sqlite3
import sys
from pathlib import Path

import pytest

from denseteacher.training.trackers import trackers
from support import stop_after

CLIENTS = Path(__file__).parents[1] / "support" / "clients"
SHORT = ["method.burn_in=2", "method.ramp=1", "schedule.evaluate_every=4", "schedule.preview_every=4"]


@pytest.fixture
def train(call, coco, unlabeled, tiny, tmp_path):
    """Trains for eight steps into ``run``."""
    sets = [part for override in [*tiny, *SHORT] for part in ("--set", override)]

    def run(*more):
        data = ("--labeled", coco, "--unlabeled", unlabeled, "--val", coco)
        return call("train", "custom", *data, "--output", tmp_path / "run", *sets, *more)

    return run


def rows(tmp_path):
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def scalars(tmp_path):
    """Names of all scalars of metrics.jsonl that are numbers somewhere."""
    return {name for row in rows(tmp_path) for name, value in row.items() if value is not None and name != "step"}


def test_a_run_that_is_stopped_and_resumed_is_one_run_in_the_tracker(train, monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(CLIENTS)
    client = importlib.import_module("wandb")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        code, _, err = train("--log", "wandb")
    assert code == 1, err
    assert "wandb: " in err
    assert client.CALLS[-1] == ("finish", {"exit_code": 1})
    code, _, err = train("--resume", "--log", "wandb")
    assert code == 0, err
    assert len({call["id"] for name, call in client.CALLS if name == "init"}) == 1
    sent = [values for name, values in client.CALLS if name == "log"]
    kept = {(row["step"], name) for row in rows(tmp_path) for name, value in row.items() if value is not None}
    assert {(values["step"], name) for values in sent for name in values if name != "previews"} == kept
    losses = [values["step"] for values in sent if "loss" in values]
    assert losses == sorted(set(losses)) == [*range(1, 9)]
    assert sum("previews" in values for values in sent) == 2
    assert client.CALLS[-2][1]["files"] == ["report.html", "recipe.yaml"]
    assert client.CALLS[-1] == ("finish", {"exit_code": 0})
    sys.modules.pop("wandb")


def test_a_missing_client_is_said_before_anything_begins(train, monkeypatch, tmp_path):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    code, _, err = train("--log", "mlflow")
    assert code == 2
    assert 'pip install "dense-teacher[mlflow]"' in err
    assert not (tmp_path / "run").exists()


def test_an_unknown_tracker_is_refused(train):
    code, _, err = train("--log", "paper")
    assert code == 2
    assert "wandb" in err


def test_weights_and_biases_offline(train, monkeypatch, tmp_path):
    pytest.importorskip("wandb", reason='the extra "wandb" is not installed; the stand-in above covers our part')
    monkeypatch.setenv("WANDB_MODE", "offline")
    code, _, err = train("--log", "wandb")
    assert code == 0, err
    folder = tmp_path / "run" / "tracking" / "wandb"
    known_as = json.loads((tmp_path / "run" / "tracking" / "wandb.json").read_text())["id"]
    (offline,) = folder.glob(f"offline-run-*-{known_as}")
    content = (offline / f"run-{known_as}.wandb").read_bytes()
    assert all(name.encode() in content for name in scalars(tmp_path))
    assert len(list(offline.glob("files/media/images/previews_*.png"))) == 2
    assert b"report.html" in content
    assert b"recipe.yaml" in content
    assert "wandb sync" in err


def test_mlflow_in_the_run_folder(train, monkeypatch, tmp_path):
    pytest.importorskip("mlflow", reason='the extra "mlflow" is not installed; the stand-in above covers our part')
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        code, _, err = train("--log", "mlflow")
    assert code == 1, err
    code, _, err = train("--resume", "--log", "mlflow")
    assert code == 0, err
    folder = tmp_path / "run" / "tracking"
    with sqlite3.connect(folder / "mlflow.db") as store:
        assert store.execute("select status, name from runs").fetchall() == [("FINISHED", "run")]
        found = {(step, name): value for name, value, step in store.execute("select key, value, step from metrics")}
        count = store.execute("select count(*) from metrics").fetchone()[0]
        params = dict(store.execute("select key, value from params"))
    kept = {
        (row["step"], name): value
        for row in rows(tmp_path)
        for name, value in row.items()
        if value is not None and name != "step"
    }
    assert {key for key in kept if key not in found} == set()
    assert count == len(found)  # nothing is there twice
    # a resumed run takes other times a step than the rows before it that the tracker has already
    assert all(found[key] == value for key, value in kept.items() if key[1].startswith(("sup/", "unsup/", "teacher/")))
    assert params["runtime.log"] == "['mlflow']"
    artifacts = {path.name for path in (folder / "artifacts").rglob("*")}
    assert {"report.html", "recipe.yaml"} <= artifacts
    assert sum(name.startswith("previews") and name.endswith(".png") for name in artifacts) == 2
