"""Trackers: what a run sends, through a stand-in of a client; and that none of them can fail a run."""

import importlib
import json
import sys
import threading
from pathlib import Path

import pytest
from PIL import Image

from denseteacher.errors import InputError
from denseteacher.training.metrics_log import MetricsLog, read_metrics
from denseteacher.training.trackers import Trackers, require_clients, trackers
from denseteacher.training.trackers.sender import Sender

CLIENTS = Path(__file__).parents[1] / "support" / "clients"


@pytest.fixture
def client(monkeypatch):
    """The stand-in in place of wandb, fresh."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "wandb"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(CLIENTS)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "/nowhere")
    client = importlib.import_module("wandb")
    yield client
    sys.modules.pop("wandb", None)


def log_of(folder, names=("wandb",)):
    tracked = Trackers(names, folder / "tracking", title="run-1", recipe={"optim": {"lr": 0.1}})
    return MetricsLog(folder / "metrics.jsonl", trackers=tracked)


def logged(client):
    return [values for name, values in client.CALLS if name == "log"]


def test_rows_pictures_and_files_arrive_in_order(client, tmp_path):
    log = log_of(tmp_path)
    place = log.begin()
    assert place[0].startswith("wandb: kept in")  # without a key nothing is asked for
    log.write(1, {"loss": 2.0, "unsup/cls": float("nan")})
    log.show(1, Image.new("RGB", (4, 2)))
    log.write(2, {"teacher/AP": 10.0})
    (tmp_path / "report.html").write_text("page")
    assert log.trackers.close("finished", [tmp_path / "report.html"]) == []
    names = [name for name, _ in client.CALLS]
    assert names == ["init", "define_metric", "log", "log", "log", "log_artifact", "finish"]
    init = client.CALLS[0][1]
    assert (init["mode"], init["name"], init["project"]) == ("offline", "run-1", "denseteacher")
    assert init["config"] == {"optim": {"lr": 0.1}}
    first, picture, last = logged(client)
    assert first == {"step": 1, "loss": 2.0}
    assert picture["previews"].size == (4, 2)
    assert last == {"step": 2, "teacher/AP": 10.0}
    assert client.CALLS[-2][1]["files"] == ["report.html"]
    assert client.CALLS[-1][1] == {"exit_code": 0}


@pytest.mark.parametrize(
    ("given", "mode"),
    [({"WANDB_API_KEY": "k"}, "online"), ({"WANDB_MODE": "disabled"}, "disabled"), ({}, "offline")],
)
def test_the_users_mode_holds_and_no_key_is_asked_for(client, monkeypatch, tmp_path, given, mode):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    log = log_of(tmp_path)
    log.begin()
    log.trackers.close("stopped", [])
    assert client.CALLS[0][1]["mode"] == mode


def test_a_server_of_netrc_is_known(client, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine api.tracker.example login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    log = log_of(tmp_path)
    assert log.begin() == ["wandb: https://tracker.example/run"]
    log.trackers.close("finished", [])


def test_a_resumed_run_goes_on_in_the_same_one_and_sends_nothing_twice(client, tmp_path):
    first = log_of(tmp_path)
    first.begin()
    for step in range(1, 6):
        first.write(step, {"loss": float(step)})
    first.trackers.close("failed", [])
    known_as = client.CALLS[0][1]["id"]
    client.CALLS.clear()

    resumed = log_of(tmp_path)
    resumed.truncate(4)
    resumed.begin()
    for step in (4, 5, 6):
        resumed.write(step, {"loss": float(step)})
    resumed.write(5, {"teacher/AP": 1.0})  # what was not there before is sent
    resumed.trackers.close("finished", [])
    assert client.CALLS[0][1]["id"] == known_as
    assert client.CALLS[0][1]["resume"] == "allow"
    assert logged(client) == [{"step": 6, "loss": 6.0}, {"step": 5, "teacher/AP": 1.0}]
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6, 5]


def test_a_tracker_that_joins_later_gets_all_rows(client, tmp_path):
    MetricsLog(tmp_path / "metrics.jsonl").write(1, {"loss": 1.0})
    MetricsLog(tmp_path / "metrics.jsonl").write(2, {"loss": 2.0})
    log = log_of(tmp_path)
    log.truncate(2)
    log.begin()
    log.write(2, {"loss": 2.5})
    log.trackers.close("finished", [])
    assert logged(client) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.5}]


def test_a_disk_that_is_full_is_told_once_and_counted(client, tmp_path):
    log = log_of(tmp_path)
    log.begin()
    client.FAIL.add("log")
    for step in range(1, 4):
        log.write(step, {"loss": 0.0})
    notes = log.trackers.close("finished", [])
    assert len(notes) == 2
    assert notes[0].startswith("wandb failed (OSError: [Errno 28] No space left on device)")
    assert notes[1].startswith("wandb: 3 of 3 rows and pictures may be missing there")
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3]


def test_a_tracker_that_can_not_be_opened_is_told(client, tmp_path):
    client.FAIL.add("init")
    log = log_of(tmp_path)
    assert "training goes on" in log.begin()[0]
    log.write(1, {"loss": 1.0})
    log.trackers.close("finished", [])
    assert not (tmp_path / "tracking" / "wandb.json").exists()


def test_a_tracker_that_hangs_is_not_waited_for():
    release = threading.Event()

    class Hanging:
        id, is_new, place = "a", True, "there"

        def write(self, step, values):
            release.wait(30)

    sender = Sender("slow", Hanging, patience=0.05)
    sender.wait_until_open()
    for step in range(3):
        sender.send(lambda tracker, step=step: tracker.write(step, {}))
    sender.close(lambda tracker: None)
    release.set()
    notes = sender.notes()
    assert notes[0] == "there"
    assert "has not answered" in notes[1]
    assert "rows and pictures may be missing" in notes[2]


def test_a_damaged_id_begins_a_new_run(client, tmp_path):
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "wandb.json").write_text("{")
    log = log_of(tmp_path)
    log.begin()
    log.trackers.close("finished", [])
    assert json.loads((tmp_path / "tracking" / "wandb.json").read_text())["id"] == client.CALLS[0][1]["id"]


@pytest.mark.parametrize("allowed", [True, False])
def test_mlflow_in_a_file_store(monkeypatch, tmp_path, allowed):
    """The client refuses stores of files unless it is told to take them; a run goes on either way."""
    pytest.importorskip("mlflow", minversion="3.7", reason='the extra "mlflow" is not installed')
    store = tmp_path / "store"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", str(allowed).lower())
    log = log_of(tmp_path, names=["mlflow"])
    (note,) = log.begin()
    log.write(1, {"loss": 2.0})
    log.show(1, Image.new("RGB", (4, 2)))
    log.write(2, {"teacher/AP": 10.0})
    (tmp_path / "report.html").write_text("page")
    notes = log.trackers.close("finished", [tmp_path / "report.html"])
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    if not allowed:
        assert "MLFLOW_ALLOW_FILE_STORE" in note
        assert "training goes on" in note
        return
    assert store.as_uri() in note
    assert notes == []
    (run,) = [path.parent for path in store.glob("*/*/meta.yaml") if "run_id" in path.read_text()]
    assert (run / "metrics" / "loss").read_text().split()[1:] == ["2.0", "1"]
    assert (run / "metrics" / "teacher" / "AP").read_text().split()[1:] == ["10.0", "2"]
    assert (run / "params" / "optim.lr").read_text() == "0.1"
    assert {"report.html"} < {path.name for path in (run / "artifacts").rglob("*")}


def test_a_missing_client_is_one_sentence(monkeypatch):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'runtime.log=mlflow .*pip install "dense-teacher\[mlflow\]"'):
        require_clients(["mlflow"])


def test_no_tracker_imports_no_client(tmp_path):
    log = log_of(tmp_path, names=())
    assert log.begin() == []
    log.write(1, {"loss": 1.0})
    assert log.trackers.close("finished", []) == []
    assert not (tmp_path / "tracking").exists()
