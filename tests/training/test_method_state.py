"""Methods with memory: it survives a bitwise resume, a skipped step, and is the same in all processes.

In two processes the newer methods also learn the same as in one.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed

from denseteacher.methods import ACRST, ARSL, ISMT, ConsistentTeacher, DenseTeacherPlus, DynamicThreshold, MixPL
from denseteacher.training.checkpoint import CheckpointFolder
from support import assert_same, last_state, semi_batch, stop_after, student_and_teacher, tensors_of, trained_below
from support.closeness import assert_close_to_scale

METHODS = {
    "dynamic_threshold": ["method.threshold=0.02", "method.memory=0.9"],
    "ismt": ["method.threshold=0.02"],
    "acrst": ["method.threshold=0.02", "method.crop_side=16", "method.crop_threshold=0.02"],
    "dense_teacher_plus": ["method.ratio=0.1", "method.crop_side=16", "method.mix=mosaic"],
    "mixpl": ["method.threshold=0.02", "method.cache_side=48", "method.cache=4"],
    "consistent_teacher": ["method.threshold=0.005"],
}


@pytest.fixture
def run(coco, unlabeled, tiny, tmp_path):
    """Trains into a folder below ``tmp_path``."""
    train = trained_below(tmp_path, tiny, labeled=coco, unlabeled=unlabeled)

    def train_with(name, method, *overrides, **options):
        common = [f"method.name={method}", "method.burn_in=2", "method.ramp=1", *METHODS[method]]
        return train(name, *common, *overrides, **options)

    return train_with


def _used(method, state):
    """Whether the memory holds something."""
    if method == "dynamic_threshold":
        return len(set(state["mass"].tolist())) > 1
    names = {
        "ismt": "scores",
        "consistent_teacher": "scores",
        "acrst": "sides",
        "dense_teacher_plus": "sides",
        "mixpl": "mask",
    }
    return bool((state[names[method]] > 0).any())


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("dynamic_threshold", []),
        ("ismt", ["augment.affine={flip: 0.5}"]),
        ("acrst", ["augment.affine={flip: 0.5}", "schedule.accumulate=2"]),
        ("dense_teacher_plus", ["schedule.accumulate=2"]),
        ("mixpl", ["augment.affine={flip: 0.5}", "schedule.accumulate=2"]),
        ("consistent_teacher", ["augment.affine={flip: 0.5}"]),
    ],
    ids=METHODS,
)
def test_resume_is_bitwise_equal(run, monkeypatch, method, options):
    whole = run("whole", method, *options)
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        part = run("part", method, *options)
    assert part.step == 4
    resumed = run("part", method, *options, resume=True)
    states = [last_state(one.folder) for one in (whole, resumed)]
    assert states[0]["step"] == states[1]["step"] == 8
    assert _used(method, states[0]["method"])
    assert_same(*states)
    middle = CheckpointFolder(whole.folder / "checkpoints").load(whole.folder / "checkpoints" / "step_00000004.pt")
    assert any(not torch.equal(value, states[0]["method"][name]) for name, value in middle["method"].items())


@pytest.mark.parametrize("method", METHODS)
def test_a_step_that_is_skipped_is_not_remembered(run, monkeypatch, method):
    from denseteacher.training.student_teacher import StudentTeacher

    original, seen = StudentTeacher.train_step, {}

    def poisoned(student_teacher, loaded):
        before = {name: value.clone() for name, value in student_teacher.method_state.items()}
        losses = student_teacher.method.losses
        if student_teacher.step == 5:

            class Broken:
                static_teacher = False
                needs_unlabeled = student_teacher.method.needs_unlabeled

                def losses(self, *args):
                    output = losses(*args)
                    seen["offered"] = output.state
                    return output._replace(losses={name: value * torch.nan for name, value in output.losses.items()})

            student_teacher.method, kept = Broken(), student_teacher.method
            original(student_teacher, loaded)
            student_teacher.method = kept
            seen["before"], seen["after"] = before, student_teacher.method_state
        else:
            original(student_teacher, loaded)

    monkeypatch.setattr(StudentTeacher, "train_step", poisoned)
    assert run("run", method).step == 8
    assert_same(seen["before"], seen["after"])
    assert any(not torch.equal(value, seen["before"][name]) for name, value in seen["offered"].items())


def _pair():
    from denseteacher.detectors import FCOS

    student, teacher = student_and_teacher(FCOS)
    with torch.no_grad():
        teacher.head.cls.bias += 3
        teacher.head.cls.weight *= 20
    return student, teacher


def _methods():
    return [
        DynamicThreshold(burn_in=1, threshold=0.3, memory=0.5),
        ISMT(burn_in=1, threshold=0.3),
        ACRST(burn_in=1, threshold=0.3, crop_threshold=0.3, crop_side=16, crops=6),
        DenseTeacherPlus(burn_in=1, ratio=0.1, crop_side=16, crops=6),
        MixPL(burn_in=1, threshold=0.3, cache_side=48, cache=6),
        ConsistentTeacher(burn_in=1, threshold=0.3),
        ARSL(burn_in=1),
    ]


def _history(rank, world):
    """The state of each method after three steps with this process's share of the batch, and the last losses."""
    pair, histories = _pair(), []
    for method in _methods():
        state = method.initial_state(classes=3, unlabeled=20)
        for seed in range(3):
            batch = _share(semi_batch(seed, labeled=4, unlabeled=4), rank, world)
            output = method.losses(*pair, batch, 10, state)
            state = output.state or {}
        histories.append((state, {name: value.detach() for name, value in output.losses.items()}))
    return histories


def _share(value, rank, world):
    if isinstance(value, torch.Tensor):
        return value.chunk(world)[rank]
    if value is None:
        return None
    return type(value)(*(_share(field, rank, world) for field in value))


def test_what_chance_decides_depends_on_the_step_alone():
    first = _history(0, 1)
    torch.rand(1000)
    second = _history(0, 1)
    for (state, losses), (other_state, other_losses) in zip(first, second, strict=True):
        assert_same([state, losses], [other_state, other_losses])


def test_other_numbers_paste_other_objects():
    student, teacher = _pair()
    method, batch = _methods()[2], semi_batch(0, labeled=4, unlabeled=4)
    state = method.losses(student, teacher, batch, 10).state
    unlabeled = batch.unlabeled
    results = []
    for random in (unlabeled.random, unlabeled.random, unlabeled.random.flip(1)):
        changed = batch._replace(unlabeled=unlabeled._replace(random=random))
        results.append(method.losses(student, teacher, changed, 10, state))
    assert torch.equal(results[0].losses["unsup/cls"], results[1].losses["unsup/cls"])
    assert not torch.equal(results[0].losses["unsup/cls"], results[2].losses["unsup/cls"])
    assert results[0].metrics["pseudo/pasted"] > 0
    assert results[0].losses["unsup/box"] > 0  # that of pasted ground truth
    nothing = method.model_copy(update={"pastes": 0}).losses(student, teacher, batch, 10, state)
    assert nothing.losses["unsup/box"] == 0
    assert len(tensors_of(nothing.state)) == 5


def _one_of_two(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(_history(rank, 2), folder / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()


def test_all_processes_remember_the_same(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    processes = [
        subprocess.Popen([sys.executable, __file__, str(rank), str(tmp_path)], env=environment) for rank in range(2)
    ]
    assert [process.wait(timeout=240) for process in processes] == [0, 0]
    one = _history(0, 1)
    two = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for index, method in enumerate(_methods()):
        assert_same(two[0][index][0], two[1][index][0])
        if method.name != "acrst":  # each process chooses what it cuts out, so there the bank is another one
            for name, value in one[index][0].items():
                assert_close_to_scale(value, two[0][index][0][name])
        if method.name in ("consistent_teacher", "arsl"):  # whose normalizers are those of all images
            for name, value in one[index][1].items():
                assert_close_to_scale((two[0][index][1][name] + two[1][index][1][name]) / 2, value, what=name)
    mass = one[2][0]["mass"]
    assert_close_to_scale(mass, two[0][2][0]["mass"])
    assert (two[0][2][0]["sides"] > 0).any()


if __name__ == "__main__":
    _one_of_two(int(sys.argv[1]), Path(sys.argv[2]))
