"""A run folder: every file of a run is known to it, and to nobody else."""

import inspect
from pathlib import Path

import pytest

import denseteacher
import denseteacher.recipes
from denseteacher.errors import InputError
from denseteacher.recipes.differences import BURN_IN_MAY_CHANGE, MAY_CHANGE, require_same_recipe
from denseteacher.runs.folder import RunFolder
from denseteacher.runs.folder_choice import choose_folder
from denseteacher.training.trainer import Trainer
from support.finished_runs import trained

SOURCES = Path(denseteacher.__file__).parent
NAMES = {path.name for path in vars(RunFolder(Path("run"))).values() if path != Path("run")}
SPELLED_ELSEWHERE = {
    "detector.safetensors": {Path("detectors/files.py")},  # who is given a folder in place of a detector's file
    "report.html": {Path("runs/demo.py")},  # of the demonstration, on two runs
    "tensorboard": {Path("check/machine.py")},  # the extra
    "previews": {Path("training/metrics_log.py"), Path("training/trackers/base.py")},  # what trackers call the pictures
}


def test_a_finished_run_leaves_what_the_folder_knows(coco, unlabeled, tmp_path):
    run = RunFolder(tmp_path / "run")
    assert run.is_free
    assert [run.exists, run.is_finished, run.has_checkpoint, run.has_burn_in] == [False] * 4
    assert trained(run.path, coco, unlabeled) == run.path
    assert run.exists
    assert run.is_finished
    assert run.has_checkpoint
    assert run.has_burn_in
    assert not run.is_free
    assert {path.name for path in run.path.iterdir()} <= NAMES | {"checkpoints"}
    assert run.rows()[-1]["step"] == 8
    assert run.recipe().model_dump(mode="json") == run.recipe_content()
    assert run.burn_in().checkpoint.name == "burn_in_00000002.pt"
    assert str(RunFolder.of(run.detector)) == str(RunFolder.of(run.path)) == str(run.path)
    assert choose_folder("any", run.path, resume=True).path == run.path
    with pytest.raises(InputError, match="is not empty"):
        choose_folder("any", run.path, resume=False)
    with pytest.raises(InputError, match="holds no burn-in checkpoint"):
        run.baseline.burn_in()


def test_nobody_else_spells_a_name():
    found = {
        (name, file.relative_to(SOURCES))
        for file in SOURCES.rglob("*.py")
        for name in NAMES | {"checkpoints"}
        if f'"{name}"' in file.read_text(encoding="utf-8") and "coco_weights" not in file.name
    }
    allowed = {(name, Path("runs/folder.py")) for name in NAMES | {"checkpoints"}}
    assert found - allowed == {(name, file) for name, files in SPELLED_ELSEWHERE.items() for file in files}


def test_what_may_differ_between_a_run_and_the_one_it_goes_on_from():
    recipe = denseteacher.recipes.load_recipe("digits", ["runtime.device=cpu"])

    def as_begun(*overrides):
        return denseteacher.recipes.load_recipe("digits", overrides).model_dump_json()

    require_same_recipe(recipe, as_begun("runtime.device=cuda", "schedule.log_every=7"), "run", MAY_CHANGE)
    with pytest.raises(InputError, match="the run in run was begun with seed=5, not 1"):
        require_same_recipe(recipe, as_begun("seed=5"), "run", MAY_CHANGE)
    other = as_begun("method.name=supervised")
    with pytest.raises(InputError, match=r"begun with method\."):
        require_same_recipe(recipe, other, "run", MAY_CHANGE)
    require_same_recipe(recipe, other, "run", BURN_IN_MAY_CHANGE)


def test_a_trainer_is_made_of_seven_things():
    assert len(inspect.signature(Trainer).parameters) <= 7
