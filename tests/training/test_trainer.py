"""The loop: resume, burn-in, skipped steps, accumulation, signals."""

import json
import signal

import pytest
import torch
from torch.utils._pytree import tree_flatten

import denseteacher
from denseteacher.errors import InputError, RunError
from denseteacher.training.metrics_log import read_metrics
from support import TIMING, assert_same, last_state, stop_after, trained_below
from support.closeness import assert_close_to_scale

DENSE = ["method.burn_in=3", "method.ramp=2", "method.ratio=0.1"]


@pytest.fixture
def run(coco, unlabeled, tiny, tmp_path):
    """Trains into a folder below ``tmp_path``."""
    return trained_below(tmp_path, [*tiny, *DENSE], labeled=coco, unlabeled=unlabeled)


# before the teacher starts, at the burn-in's end, within the ramp, at a checkpoint
@pytest.mark.parametrize("step", [1, 3, 4, 5])
@pytest.mark.parametrize("workers", [0, 2])
def test_resume_is_bitwise_equal(run, monkeypatch, step, workers):
    whole = run("whole")
    with monkeypatch.context() as patch:
        stop_after(patch, step)
        part = run("part")
    assert part.stopped_by == "SIGTERM"
    assert part.step == step
    resumed = run("part", f"runtime.workers={workers}", resume=True)
    assert resumed.step == whole.step == 8
    assert_same(last_state(whole.folder), last_state(resumed.folder))
    rows = [
        [
            {key: value for key, value in row.items() if key not in TIMING}
            for row in read_metrics(one.folder / "metrics.jsonl")
        ]
        for one in (whole, resumed)
    ]
    assert rows[0] == rows[1]
    assert [row["step"] for row in rows[0]] == list(range(1, 9))


@pytest.mark.parametrize(
    "options",
    [
        ["optim.name=adamw", "optim.lr=0.001", "optim.schedule=cosine", "schedule.accumulate=2"],
        ["detector.name=retinanet"],
        ["detector.name=retinanet", "method.name=unbiased_teacher", "method.threshold=0.01", "method.box=true"],
    ],
    ids=["adamw_accumulation", "retinanet", "retinanet_unbiased_teacher"],
)
def test_other_settings_resume_bitwise_too(run, monkeypatch, options):
    whole = run("whole", *options)
    with monkeypatch.context() as patch:
        stop_after(patch, 5, signal.SIGINT)
        assert run("part", *options).stopped_by == "SIGINT"
    assert_same(last_state(whole.folder), last_state(run("part", *options, resume=True).folder))


def test_a_damaged_checkpoint_falls_back_and_ends_the_same(run, monkeypatch):
    whole = run("whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 6)
        part = run("part")
    newest = part.folder / "checkpoints" / "step_00000006.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert_same(last_state(whole.folder), last_state(run("part", resume=True).folder))


def test_burn_in_equals_supervised_bit_for_bit(run):
    dense = run("dense", "method.burn_in=7", "ema.start=1")
    supervised = run("supervised", "method.name=supervised")
    rows = [read_metrics(one.folder / "metrics.jsonl") for one in (dense, supervised)]
    for first, second in zip(*(one[:7] for one in rows), strict=True):
        assert first["loss"] == second["loss"]
        assert first["gradient_norm"] == second["gradient_norm"]


def test_a_run_can_start_from_anothers_burn_in(run):
    dense = run("dense")
    whole = run("whole", "method.name=supervised")
    shared = run("shared", "method.name=supervised", burn_in_from=dense.folder)
    assert_same(last_state(whole.folder), last_state(shared.folder))
    steps = [row["step"] for row in read_metrics(shared.folder / "metrics.jsonl")]
    assert steps == list(range(1, 9))


def test_a_run_from_a_burn_in_has_the_best_detector_that_it_would_have_without(run, coco):
    options = ["schedule.evaluate_every=1"]
    dense = run("dense", *options, val=coco)
    assert dense.best["step"] == 1  # nothing is found so early, and the burn-in's evaluation is not surpassed
    supervised = [*options, "method.name=supervised"]
    whole = run("whole", *supervised, val=coco)
    shared = run("shared", *supervised, val=coco, burn_in_from=dense.folder)
    assert shared.best == whole.best
    files = [(one.folder / "detector.safetensors").read_bytes() for one in (shared, whole)]
    assert files[0] == files[1]

    # as where another version did the burn-in
    (dense.folder / "burn_in_detector.safetensors").unlink()
    alone = run("alone", *supervised, val=coco, burn_in_from=dense.folder)
    assert alone.best["step"] > 3
    assert denseteacher.load(alone.folder).class_names == ["red", "green", "blue"]


def test_another_recipes_burn_in_is_refused(run):
    dense = run("dense")
    with pytest.raises(InputError, match=r"optim\.lr"):
        run("other", "method.name=supervised", "optim.lr=0.5", burn_in_from=dense.folder)


def test_resume_with_another_recipe_names_the_key(run, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        run("part")
    with pytest.raises(InputError, match=r"seed=1, not 5"):
        run("part", "seed=5", resume=True)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("step", [0, 5])
def test_a_nonfinite_loss_leaves_the_student_as_it_was(run, monkeypatch, optimizer, step):
    from denseteacher.training.student_teacher import StudentTeacher

    original, seen = StudentTeacher.train_step, {}

    def floats(module):
        return {name: value.clone() for name, value in module.state_dict().items() if value.is_floating_point()}

    def poisoned(student_teacher, loaded):
        if student_teacher.step != step:
            return original(student_teacher, loaded)
        seen["before"], seen["teacher"] = floats(student_teacher.student_module), floats(student_teacher.ema.module)
        method, student_teacher.method = student_teacher.method, Broken(student_teacher.method)
        original(student_teacher, loaded)
        student_teacher.method = method
        seen["after"], seen["averaged"] = floats(student_teacher.student_module), floats(student_teacher.ema.module)
        assert int(student_teacher.nonfinite) == 1

    monkeypatch.setattr(StudentTeacher, "train_step", poisoned)
    result = run("run", f"optim.name={optimizer}")
    assert result.step == 8
    assert_same(seen["before"], seen["after"])
    for name, value in seen["averaged"].items():  # the teacher goes on towards the student as it is
        decay = 0.0 if step == 0 else 0.9
        expected = decay * seen["teacher"][name] + (1 - decay) * seen["before"][name]
        assert_close_to_scale(value, expected)
    final = last_state(result.folder)
    for part in ("student", "teacher"):
        assert all(value.isfinite().all() for value in final[part].values() if value.is_floating_point())
    assert final["nonfinite"] == 0


class Broken:
    """A method whose loss is NaN and reaches every parameter."""

    static_teacher = False

    def __init__(self, method):
        self.needs_unlabeled = method.needs_unlabeled

    def losses(self, student, teacher, batch, step, state=None):
        from denseteacher.methods import Supervised

        output = Supervised().losses(student, teacher, batch, step)
        return output._replace(losses={name: value * float("nan") for name, value in output.losses.items()})


def test_ten_nonfinite_steps_end_the_run_with_a_dump(run, monkeypatch, tmp_path):
    from denseteacher.methods import DenseTeacher

    monkeypatch.setattr(DenseTeacher, "losses", Broken.losses)
    with pytest.raises(RunError, match="not finite in 4 steps in a row"):
        run("run", "schedule.max_nonfinite=4")
    dump = json.loads((tmp_path / "run" / "nonfinite.json").read_text())
    assert dump["step"] == 3
    assert dump["losses"]["loss"] == "nan"
    assert all(name.endswith((".png", ".jpg")) for name in dump["files"])


def test_an_unreadable_image_saves_the_run_and_names_the_file(run, monkeypatch, unlabeled, tmp_path):
    import denseteacher.data.loading.steps as loaders

    original, calls = loaders.load_image, []

    def failing(record):
        calls.append(record)
        if len(calls) == 15:
            raise InputError(f"{record.name} is damaged and can't be decoded (test)")
        return original(record)

    monkeypatch.setattr(loaders, "load_image", failing)
    with pytest.raises(InputError, match="is damaged"):
        run("run")
    assert last_state(tmp_path / "run")["step"] >= 3


@pytest.mark.parametrize("workers", [2, 4])
def test_loader_processes_do_not_change_the_bytes(coco, unlabeled, tiny, workers):
    from denseteacher.data.loading.steps import step_loader
    from denseteacher.data.open import open_data
    from denseteacher.recipes.schema import load_recipe
    from denseteacher.runs.build import build_steps

    recipe = load_recipe("custom", [*tiny, *DENSE, f"data.labeled={coco}", f"data.unlabeled={unlabeled}"])
    data = open_data(recipe.data)
    dataset = build_steps(recipe, data)
    streams = [list(step_loader(dataset, range(12), workers=count, pin_memory=False)) for count in (0, workers)]
    for alone, together in zip(*streams, strict=True):
        assert alone.files == together.files
        assert torch.equal(alone.labeled.pixels, together.labeled.pixels)
        assert torch.equal(alone.targets.boxes, together.targets.boxes)
        assert (alone.unlabeled is None) == (together.unlabeled is None) == (alone.step <= 3)
        if alone.unlabeled is not None:
            assert torch.equal(alone.unlabeled.weak.pixels, together.unlabeled.weak.pixels)
            assert torch.equal(alone.unlabeled.positions, together.unlabeled.positions)
            assert torch.equal(alone.unlabeled.to_weak, together.unlabeled.to_weak)


@pytest.mark.parametrize("method", [DENSE, ["method.name=unbiased_teacher", "method.burn_in=3", "augment.affine={}"]])
def test_loader_processes_make_the_same_strong_views_as_the_step(coco, unlabeled, tiny, method):
    from denseteacher.data.loading.steps import step_loader
    from denseteacher.data.loading.strong_views import StepsWithStrongViews, with_strong_views
    from denseteacher.data.open import open_data
    from denseteacher.recipes.schema import load_recipe
    from denseteacher.runs.build import build_steps

    keys = [*tiny, *method, f"data.labeled={coco}", f"data.unlabeled={unlabeled}"]
    recipe = load_recipe("custom", keys)
    data, device = open_data(recipe.data), torch.device("cpu")
    steps = build_steps(recipe, data)
    made = StepsWithStrongViews(steps)
    for step, loaded in zip(range(2, 6), step_loader(made, range(2, 6), workers=1, pin_memory=False), strict=True):
        wanted = with_strong_views(steps.load(step), recipe.augment, seed=recipe.seed, device=device)
        found, wanted = tree_flatten(loaded.batch), tree_flatten(wanted)
        assert found[1] == wanted[1]
        for one, other in zip(found[0], wanted[0], strict=True):
            assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_two_processes_share_the_batch_of_one(coco, unlabeled, tiny):
    from denseteacher.data.open import open_data
    from denseteacher.recipes.schema import load_recipe
    from denseteacher.runs.build import build_steps

    recipe = load_recipe("custom", [*tiny, *DENSE, f"data.labeled={coco}", f"data.unlabeled={unlabeled}"])
    data = open_data(recipe.data)
    whole = build_steps(recipe, data)[6]
    halves = [build_steps(recipe, data, rank, 2)[6] for rank in (0, 1)]
    for images in (lambda step: step.labeled, lambda step: step.unlabeled.weak):
        for slot, half in enumerate(halves):
            height, width = images(half).sizes[0].tolist()
            own = images(half).pixels[0, :, :height, :width]
            assert torch.equal(own, images(whole).pixels[slot, :, :height, :width])
