"""An evaluation never costs a step: it comes after the save, fails in a sentence, and stops when it is asked to."""

import re
import signal

import pytest
import torch

import denseteacher
from conftest import TINY
from denseteacher.errors import InputError, RunError
from denseteacher.evaluation.evaluator import Evaluator
from denseteacher.training.metrics_log import read_metrics
from denseteacher.training.signals import Stopped, StopRequest
from support import assert_same, last_state, trained_below

OPTIONS = [*TINY, "method.name=supervised", "schedule.max_steps=4", "schedule.evaluate_every=2"]


@pytest.fixture
def run(coco, tmp_path):
    """Trains into a folder below ``tmp_path``."""
    return trained_below(tmp_path, OPTIONS, labeled=coco, val=coco)


@pytest.fixture(scope="module")
def whole(coco, tmp_path_factory):
    """A run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return denseteacher.train("custom", labeled=coco, val=coco, output=folder, overrides=OPTIONS)


def at_evaluation(monkeypatch, number, act):
    """Does something in the midst of the so-manieth evaluation of a detector, and of later ones."""
    original, seen = Evaluator.__call__, []

    def evaluate(evaluator, detector, device):
        seen.append(device)
        if len(seen) >= number:
            act()
        return original(evaluator, detector, device)

    monkeypatch.setattr(Evaluator, "__call__", evaluate)


def fail(error):
    def act():
        raise error

    return act


ERRORS = [
    (InputError("val/1.jpg is damaged and can't be decoded (truncated)"), r"\(val/1.jpg is damaged and can't be"),
    (KeyError("area"), r"\(KeyError: 'area'; see \S+failure.txt\)"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.27 GiB."), r"memory ran out \(Tried to allocate"),
    (OSError(24, "Too many open files"), "too many files are open"),
    (ValueError("one line\nmore"), "ValueError: one line; see"),
]


@pytest.mark.parametrize(("error", "says"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS])
def test_an_evaluation_that_fails_on_the_way_is_one_sentence(run, whole, monkeypatch, capsys, error, says):
    calls = []

    def once():
        calls.append(1)
        if len(calls) == 1:
            raise error

    at_evaluation(monkeypatch, 1, once)
    result = run("run")
    err = " ".join(capsys.readouterr().err.split())
    assert "step 2: the evaluation failed (" in err
    assert re.search(says, err)
    assert err.count("the evaluation failed") == 1
    assert result.stopped_by is None
    states = last_state(whole.folder), last_state(result.folder)
    for part in ("student", "teacher", "optimizer"):
        assert_same(states[0][part], states[1][part])
    steps = [row["step"] for row in read_metrics(result.folder / "metrics.jsonl") if "teacher/AP" in row]
    assert steps == [4]


@pytest.mark.parametrize(("error", "says"), ERRORS[:2], ids=["InputError", "KeyError"])
def test_an_evaluation_that_fails_at_the_end_leaves_detectors_and_is_done_by_a_resume(
    run, whole, monkeypatch, tmp_path, error, says
):
    with monkeypatch.context() as patch:
        at_evaluation(patch, 3, fail(error))
        with pytest.raises(
            RunError, match=f"the run is trained and its detectors are in .*the evaluation failed {says}"
        ):
            run("run")
    folder = tmp_path / "run"
    state = last_state(folder)
    assert state["pending"]
    assert state["step"] == 4
    for name in ("detector", "last_teacher", "last_student"):
        assert denseteacher.load(folder / f"{name}.safetensors").class_names == ["red", "green", "blue"]
    run("run", resume=True)
    assert_same(last_state(whole.folder), last_state(folder))
    assert (folder / "detector.safetensors").read_bytes() == (whole.folder / "detector.safetensors").read_bytes()


@pytest.mark.parametrize("what", ["evaluate_run", "report_run"])
def test_what_fails_after_the_last_step_is_one_sentence(run, monkeypatch, what):
    with monkeypatch.context() as patch:
        patch.setattr(f"denseteacher.runs.build.{what}", lambda *_, **__: {}["missing"])
        with pytest.raises(RunError, match=r"but its evaluation or report failed \(KeyError: 'missing'; see \S+\)"):
            run("run")
    assert run("run", resume=True).step == 4


def test_a_preview_that_fails_is_one_sentence(run, monkeypatch, capsys, unlabeled):
    def broken(*_, **__):
        raise ValueError("no such glyph\nand more")

    monkeypatch.setattr("denseteacher.report.previews.teacher_sheet", broken)
    options = ["method.name=dense_teacher", "method.burn_in=1", "method.ratio=0.1", "schedule.preview_every=2"]
    result = run("run", *options, unlabeled=unlabeled)
    assert result.step == 4
    assert "the preview of step 2 can't be made: no such glyph\n" in capsys.readouterr().err


# of the teacher, of the student, and at the last step
@pytest.mark.parametrize(
    ("number", "asked"), [(1, signal.SIGTERM), (2, signal.SIGINT), (3, signal.SIGTERM), (4, signal.SIGTERM)]
)
def test_a_signal_ends_an_evaluation_at_once_and_a_resume_does_it_again(run, whole, monkeypatch, number, asked):
    went_on = []

    def stop():
        signal.raise_signal(asked)
        went_on.append(number)

    with monkeypatch.context() as patch:
        at_evaluation(patch, number, stop)
        part = run("part")
    assert not went_on
    assert part.stopped_by == asked.name
    assert part.step == (2 if number < 3 else 4)
    state = last_state(part.folder)
    assert state["pending"]
    assert state["step"] == part.step
    resumed = run("part", resume=True)
    assert resumed.best == whole.best
    assert_same(last_state(whole.folder), last_state(part.folder))
    rows = [
        [(row["step"], row.get("teacher/AP"), row.get("loss")) for row in read_metrics(one.folder / "metrics.jsonl")]
        for one in (whole, resumed)
    ]
    assert rows[0] == rows[1]


def test_the_checkpoint_is_there_when_the_evaluation_begins(run, monkeypatch, tmp_path):
    seen = []

    def look():
        state = last_state(tmp_path / "run")
        seen.append((state["step"], state["pending"]))

    at_evaluation(monkeypatch, 1, look)
    run("run", "schedule.checkpoint_every=2", "schedule.max_steps=5")
    assert seen[:6] == [(2, True), (2, True), (4, True), (4, True), (5, True), (5, True)]


def test_a_burn_in_is_saved_first_and_by_a_resume_where_it_is_missing(run, monkeypatch, unlabeled, tmp_path):
    from denseteacher.training.checkpoint import CheckpointFolder

    options = ["method.name=dense_teacher", "method.burn_in=2", "method.ratio=0.1", "schedule.checkpoint_every=2"]
    original, names = CheckpointFolder.save, []

    def save(folder, step, state, *, name="step"):
        names.append((step, name))
        return original(folder, step, state, name=name)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFolder, "save", save)
        at_evaluation(patch, 1, lambda: signal.raise_signal(signal.SIGTERM))
        run("run", *options, unlabeled=unlabeled)
    assert names == [(2, "burn_in"), (2, "step")]
    (tmp_path / "run" / "checkpoints" / "burn_in_00000002.pt").unlink()  # as an older version left it
    run("run", *options, unlabeled=unlabeled, resume=True)
    assert (tmp_path / "run" / "checkpoints" / "burn_in_00000002.pt").is_file()


def test_a_request_interrupts_only_where_it_is_allowed_to():
    with StopRequest() as stop:
        with pytest.raises(Stopped), stop.interrupting():
            signal.raise_signal(signal.SIGTERM)
        assert stop.signal is signal.SIGTERM
        with pytest.raises(Stopped), stop.interrupting():
            raise AssertionError("it was asked before")
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.signal is signal.SIGTERM


def test_a_failure_of_another_kind_is_no_evaluation_that_went_well(run, monkeypatch, tmp_path):
    at_evaluation(monkeypatch, 1, fail(RuntimeError("of torch")))
    with pytest.raises(RunError, match="RuntimeError: of torch"):
        run("run")
    assert "of torch" in (tmp_path / "run" / "failure.txt").read_text()
    assert not [row for row in read_metrics(tmp_path / "run" / "metrics.jsonl") if "teacher/AP" in row]
