"""STAC's stages in one run: the teacher of the burn-in's end labels to the end of the run."""

import pytest
import torch

from denseteacher.training.student_teacher import StudentTeacher
from support import assert_same, last_state, stop_after, trained_below

STAC = ["method.name=stac", "method.burn_in=3", "method.ramp=2", "method.threshold=0.01"]
BURN_IN = 3


@pytest.fixture
def run(coco, unlabeled, tiny, tmp_path):
    """Trains into a folder below ``tmp_path``."""
    return trained_below(tmp_path, [*tiny, *STAC], labeled=coco, unlabeled=unlabeled)


def same(first, second):
    """Whether two state dicts are equal bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture
def history(monkeypatch):
    """Teacher and labeler after each step of the runs that follow, and whether the step had unlabeled images."""
    seen = []
    original = StudentTeacher.train_step

    def step(student_teacher, loaded):
        original(student_teacher, loaded)
        copies = [
            {name: value.clone() for name, value in part.module.state_dict().items()}
            for part in (student_teacher.ema, student_teacher.burned_in or student_teacher.ema)
        ]
        seen.append((loaded.unlabeled is not None, *copies))

    monkeypatch.setattr(StudentTeacher, "train_step", step)
    return seen


@pytest.mark.parametrize(
    ("ramp", "options"),
    [(0, []), (2, []), (2, ["schedule.accumulate=2"]), (2, ["augment.affine={rotation: 10}"])],
    ids=["no_ramp", "ramp", "accumulation", "affine"],
)
def test_the_labeler_is_the_teacher_until_the_burn_in_ends_and_stays(run, history, ramp, options):
    run("run", f"method.ramp={ramp}", *options)
    needed = [unlabeled for unlabeled, *_ in history]
    first = needed.index(True)  # with a ramp, whose first weight is 0, a step later
    assert first == BURN_IN + (ramp > 0)
    assert all(needed[first:])
    for _, teacher, labeler in history[:first]:
        assert same(teacher, labeler)
    for (_, teacher, labeler), (_, before, _) in zip(history[first:], history[first - 1 :], strict=False):
        assert same(labeler, history[first - 1][2])
        assert not same(teacher, before)  # the average moves on
        assert not same(teacher, labeler)


def test_the_labeler_labels(run, monkeypatch):
    asked = []
    original = StudentTeacher.train_step

    def step(student_teacher, loaded):
        views = {"teacher": student_teacher.teacher, "labeler": student_teacher.pseudo_labeler}
        modules = {"teacher": student_teacher.ema.module, "labeler": student_teacher.burned_in.module}
        assert views["teacher"] is not views["labeler"]
        hooks = [
            module.register_forward_hook(lambda *_, name=name: asked.append((student_teacher.step, name)))
            for name, module in modules.items()
        ]
        original(student_teacher, loaded)
        for hook in hooks:
            hook.remove()

    monkeypatch.setattr(StudentTeacher, "train_step", step)
    run("run")
    assert asked == [(step, "labeler") for step in range(BURN_IN + 1, 8)]


# within the burn-in, at its end, after the labeler's last move (a step later with a ramp), when it rests
@pytest.mark.parametrize(("step", "ramp"), [(2, 2), (3, 2), (4, 2), (6, 2), (3, 0), (4, 0)])
def test_resume_is_bitwise_equal(run, monkeypatch, step, ramp):
    whole = run("whole", f"method.ramp={ramp}")
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        part = run("part", f"method.ramp={ramp}")
    assert part.step == step
    resumed = run("part", f"method.ramp={ramp}", resume=True)
    assert resumed.step == whole.step == 8
    assert_same(last_state(whole.folder), last_state(resumed.folder))


@pytest.mark.parametrize(
    ("ramp", "other"),
    [(0, ["unbiased_teacher"]), (2, ["unbiased_teacher"]), (2, ["dense_teacher", "method.ratio=0.1"])],
    ids=["no_ramp", "unbiased_teacher", "dense_teacher"],
)
def test_another_methods_burn_in_gives_the_same_run(run, ramp, other):
    name, *options = other
    first = run("first", f"method.name={name}", *options)
    whole = run("whole", f"method.ramp={ramp}")
    shared = run("shared", f"method.ramp={ramp}", burn_in_from=first.folder)
    assert_same(last_state(whole.folder), last_state(shared.folder))


def test_a_longer_burn_in_than_the_one_it_starts_from_moves_the_labeler_on(run, history):
    first = run("first", "method.name=unbiased_teacher")
    history.clear()
    run("run", "method.burn_in=5", "method.ramp=0", burn_in_from=first.folder)
    assert [unlabeled for unlabeled, *_ in history] == [False, False, True, True, True]
    assert same(history[1][1], history[1][2])
    assert not same(history[0][2], history[1][2])
    assert all(same(labeler, history[1][2]) for _, _, labeler in history[2:])
