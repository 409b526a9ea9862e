"""The record of a run's numbers, and what the terminal shows meanwhile."""

import csv
import errno
import io
import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from denseteacher.errors import InputError, RunError
from denseteacher.training.metrics_log import MetricsLog, read_metrics


def _log(folder: Path) -> MetricsLog:
    return MetricsLog(folder / "metrics.jsonl")


def _written(folder: Path, steps: range) -> MetricsLog:
    log = _log(folder)
    for step in steps:
        log.write(step, {"loss": step / 2})
    return log


def _steps(folder: Path) -> list[int]:
    return [row["step"] for row in read_metrics(folder / "metrics.jsonl")]


# --- results.csv -------------------------------------------------------------------------------------------


def _table(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_each_evaluation_is_a_row_of_the_table_once(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl", results=tmp_path / "results.csv")
    log.write(1, {"loss": 0.5})
    assert not (tmp_path / "results.csv").exists()
    log.write(2, {"loss": 0.25, "lr": 1.0})
    log.write(2, {"teacher/AP": 10.0, "student/AP": math.nan})
    log.write(4, {"teacher/AP": 12.5, "student/AP": 11.0, "health/score": 0.5})
    assert _table(tmp_path) == [
        {"step": "2", "teacher/AP": "10.0", "student/AP": "", "loss": "0.25", "lr": "1.0", "health/score": ""},
        {"step": "4", "teacher/AP": "12.5", "student/AP": "11.0", "loss": "0.25", "lr": "1.0", "health/score": "0.5"},
    ]
    resumed = MetricsLog(tmp_path / "metrics.jsonl", results=tmp_path / "results.csv")
    resumed.truncate(5, evaluated=False)  # step 4 is evaluated again
    assert [row["step"] for row in _table(tmp_path)] == ["2"]
    resumed.write(4, {"teacher/AP": 13.0})
    resumed.write(6, {"teacher/AP": 14.0})
    assert [(row["step"], row["teacher/AP"]) for row in _table(tmp_path)] == [
        ("2", "10.0"),
        ("4", "13.0"),
        ("6", "14.0"),
    ]
    resumed.truncate(0)
    assert _table(tmp_path) == []


# --- metrics.jsonl -----------------------------------------------------------------------------------------


def test_rows_come_back_as_written_and_at_once(tmp_path: Path) -> None:
    log = _log(tmp_path / "new" / "run")
    log.write(20, {"loss": 1.25, "unsup/cls": 1 / 3})
    path = tmp_path / "new" / "run" / "metrics.jsonl"
    assert path.read_text() == '{"step": 20, "loss": 1.25, "unsup/cls": 0.3333333333333333}\n'
    log.write(40, {"teacher/AP": 12.0})
    assert read_metrics(path) == [
        {"step": 20, "loss": 1.25, "unsup/cls": 1 / 3},
        {"step": 40, "teacher/AP": 12.0},
    ]


def test_values_that_are_not_finite_are_null_in_valid_json(tmp_path: Path) -> None:
    _log(tmp_path).write(1, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": None, "e": 0.0})

    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is not a JSON")

    row = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert row == {"step": 1, "a": None, "b": None, "c": None, "d": None, "e": 0.0}


def test_a_second_log_appends(tmp_path: Path) -> None:
    _written(tmp_path, range(3)).close()
    _written(tmp_path, range(3, 5))
    assert _steps(tmp_path) == [0, 1, 2, 3, 4]


def test_no_file_has_no_rows(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []
    _log(tmp_path).truncate(3)
    assert list(tmp_path.iterdir()) == []


def test_truncate_drops_this_step_and_later_ones_and_goes_on(tmp_path: Path) -> None:
    log = _written(tmp_path, range(10))
    log.write(4, {"teacher/AP": 1.0})
    log.truncate(5)
    assert _steps(tmp_path) == [0, 1, 2, 3, 4, 4]
    log.write(5, {"loss": 9.0})
    assert _steps(tmp_path) == [0, 1, 2, 3, 4, 4, 5]
    assert read_metrics(tmp_path / "metrics.jsonl")[-1] == {"step": 5, "loss": 9.0}


@pytest.mark.parametrize("resume", [True, False], ids=["truncate first", "write at once"])
def test_a_last_line_cut_anywhere_is_forgotten(tmp_path: Path, resume: bool) -> None:
    path = tmp_path / "metrics.jsonl"
    _written(tmp_path, range(3)).close()
    whole = path.read_bytes()
    last_line = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(last_line, len(whole)):
        path.write_bytes(whole[:cut])
        kept = [0, 1] if cut < len(whole) - 1 else [0, 1, 2]  # only the line's end is missing: it is whole
        assert _steps(tmp_path) == kept
        log = _log(tmp_path)
        if resume:
            log.truncate(100)
        log.write(7, {})
        log.close()
        assert _steps(tmp_path) == [*kept, 7]


@pytest.mark.parametrize("line", [b"", b"{", b"[1]", b'{"loss": 1.0}', b'{"step": "1"}', b"\0\0\0", b"\xff\xfe"])
def test_a_bad_line_within_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2"):
        read_metrics(path)


def test_a_failed_truncate_keeps_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = _written(tmp_path, range(5))

    def refuse(source: Any, target: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(RunError, match=r"metrics\.jsonl can't be written"):
        log.truncate(2)
    assert _steps(tmp_path) == [0, 1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize("room", [0, 7])
def test_a_full_disk_is_a_run_error_and_the_rows_before_stay(tmp_path: Path, room: int) -> None:
    log = _written(tmp_path, range(2))

    class FullDisk(io.FileIO):
        def write(self, data: Any) -> int:  # what write(2) does when the disk fills up: less than asked
            return super().write(bytes(data)[:room])

    log._file = FullDisk(tmp_path / "metrics.jsonl", "ab")
    with pytest.raises(RunError, match=r"metrics\.jsonl can't be written: No space left on device"):
        log.write(2, {"loss": 1.0})
    log.close()
    assert _steps(tmp_path) == [0, 1]


def test_a_folder_that_can_not_be_made_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="Not a directory"):
        _log(tmp_path / "file" / "run").write(1, {})


# --- TensorBoard -------------------------------------------------------------------------------------------


def test_tensorboard_gets_the_finite_values_and_forgets_what_was_truncated(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = MetricsLog(tmp_path / "metrics.jsonl", tensorboard=tmp_path / "tensorboard")
    for step in range(1, 6):
        first.write(step, {"loss": float(step), "AP": math.nan if step == 2 else 1.0})
    first.close()
    # event files are read in the order of their names, which are those of seconds; within one, a process counts its
    # files, and its tenth comes before its ninth
    time.sleep(1.1)
    resumed = MetricsLog(tmp_path / "metrics.jsonl", tensorboard=tmp_path / "tensorboard")
    resumed.truncate(4)
    resumed.write(4, {"loss": 40.0})
    events = EventAccumulator(str(tmp_path / "tensorboard"))  # without close: each row is on disk at once
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [
        (1, 1),
        (2, 2),
        (3, 3),
        (4, 40),
    ]
    assert [event.step for event in events.Scalars("AP")] == [1, 3]
    assert _steps(tmp_path) == [1, 2, 3, 4]
    resumed.close()


def test_without_tensorboard_the_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    log = MetricsLog(tmp_path / "metrics.jsonl", tensorboard=tmp_path / "tensorboard")
    log.write(1, {"loss": 1.0})
    assert _steps(tmp_path) == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_tensorboard_is_imported_by_the_first_row_only() -> None:
    code = "import sys, denseteacher.training.metrics_log; print('tensorboard' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- progress ----------------------------------------------------------------------------------------------
