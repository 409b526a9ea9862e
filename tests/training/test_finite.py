"""Nothing that is not finite is saved; skipped steps are counted, shown, and end a run when they are many."""

import json

import pytest
import torch

import denseteacher
from conftest import TINY
from denseteacher.errors import RunError
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.benchmark import Size, made_up_step, make_student_teacher
from denseteacher.training.metrics_log import read_metrics
from denseteacher.training.runtime import Runtime
from denseteacher.training.student_teacher import StudentTeacher
from support import assert_same, last_state, stop_after, trained_below

OPTIONS = [*TINY, "method.name=supervised"]
SIZE = Size(2, 2, 64, 96, 3)


@pytest.fixture
def run(coco, tmp_path):
    """Trains into a folder below ``tmp_path``."""
    return trained_below(tmp_path, OPTIONS, labeled=coco)


def after_step(monkeypatch, step, act):
    """Does something to student and teacher once so many steps are done."""
    original = StudentTeacher.train_step

    def train_step(student_teacher, loaded):
        original(student_teacher, loaded)
        if student_teacher.step == step:
            act(student_teacher)

    monkeypatch.setattr(StudentTeacher, "train_step", train_step)


def not_finite_at(monkeypatch, is_bad):
    """Makes the loss of some steps NaN."""
    from denseteacher.methods import Supervised

    original = Supervised.losses

    def losses(method, student, teacher, batch, step, state=None):
        output = original(method, student, teacher, batch, step, state)
        factor = float("nan") if is_bad(step) else 1.0
        return output._replace(losses={name: value * factor for name, value in output.losses.items()})

    monkeypatch.setattr(Supervised, "losses", losses)


def first_float(module):
    return next(value for value in module.state_dict().values() if value.is_floating_point())


PLACES = {
    "student": lambda one: first_float(one.student_module),
    "teacher": lambda one: first_float(one.ema.module),
    "optimizer": lambda one: next(iter(one.optimizer.state.values()))["momentum_buffer"],
    "method's memory": lambda one: one.method_state.setdefault("memory", torch.zeros(3)),
}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", PLACES)
def test_what_is_not_finite_is_found_wherever_it_is(place, value):
    recipe = load_recipe("custom", OPTIONS)
    one = make_student_teacher(recipe, Runtime(recipe.runtime), SIZE._replace(unlabeled=0), 4)
    one.train_step(made_up_step(SIZE._replace(unlabeled=0), 4))
    assert one.nonfinite_part() is None
    PLACES[place](one)[-1] = value
    assert one.nonfinite_part() == place


# at an evaluation, at a checkpoint, and at the end
@pytest.mark.parametrize("step", [6, 4, 8])
@pytest.mark.parametrize("place", ["student", "teacher"])
def test_nothing_that_is_not_finite_is_written_over_what_is_good(run, monkeypatch, coco, tmp_path, place, step):
    def spoil(one):
        PLACES[place](one)[0] = float("nan")

    after_step(monkeypatch, step, spoil)
    with pytest.raises(RunError, match=rf"the {place} holds NaN or infinity after step {step}, and is not saved"):
        run("run", "schedule.checkpoint_every=2", "schedule.evaluate_every=3", val=coco)
    state = last_state(tmp_path / "run")
    assert state["step"] == step - 2
    assert all(value.isfinite().all() for value in state[place].values() if value.is_floating_point())
    if step > 4:
        weights = denseteacher.load(tmp_path / "run").detector.state_dict().values()
        assert all(value.isfinite().all() for value in weights if value.is_floating_point())


def test_skipped_steps_are_counted_shown_and_resumed(run, monkeypatch, capsys):
    not_finite_at(monkeypatch, lambda step: step in (1, 4, 5))
    whole = run("whole")
    assert "3 of 8 steps were skipped, since their loss was not finite" in capsys.readouterr().err
    rows = read_metrics(whole.folder / "metrics.jsonl")
    assert [row.get("skipped_steps", 0) for row in rows] == [0, 1, 1, 1, 2, 3, 3, 3]
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        run("part")
    assert_same(last_state(whole.folder), last_state(run("part", resume=True).folder))


def test_a_run_most_of_whose_steps_are_skipped_ends(run, monkeypatch, tmp_path):
    not_finite_at(monkeypatch, lambda step: step % 10 != 0)
    options = ["schedule.max_steps=300", "schedule.log_every=10", "schedule.max_nonfinite=1000"]
    with pytest.raises(RunError, match=r"was not finite in \d+ of \d+ steps, most of the last ones: see \S+nonfinite"):
        run("run", *options, "detector.channels=8")
    assert json.loads((tmp_path / "run" / "nonfinite.json").read_text())["step"] < 60


def test_a_run_few_of_whose_steps_are_skipped_goes_on(run, monkeypatch):
    not_finite_at(monkeypatch, lambda step: step % 5 == 0)
    assert run("run", "schedule.max_steps=40", "schedule.log_every=10").step == 40
