"""The page on adding a method does what it says: its code is run as a reader would."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml

import denseteacher
from denseteacher import api
from denseteacher.errors import InputError
from denseteacher.methods import UnbiasedTeacher
from denseteacher.training.metrics_log import read_metrics
from support.closeness import assert_close_to_scale

PAGE = Path(__file__).parents[2] / "docs" / "add-a-method.md"


@pytest.fixture
def folder(coco, unlabeled, tiny, tmp_path, monkeypatch):
    """A reader's folder: data, the page's module, and a recipe small enough for a test."""
    shutil.copy(coco, tmp_path / "labeled.json")
    shutil.copy(coco, tmp_path / "val.json")
    shutil.copytree(coco.parent / "images", tmp_path / "images")
    shutil.copytree(unlabeled, tmp_path / "more_images")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    original = api.train

    def small(*arguments, **named):
        return original(*arguments, **{"overrides": [*tiny, "schedule.evaluate_every=8"]} | named)

    monkeypatch.setattr(api, "train", small)
    yield tmp_path
    sys.modules.pop("confident_teacher", None)


def blocks():
    module, *rest = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    return module, "\n".join(rest)


def test_the_pages_code_runs(folder, tiny):
    module, script = blocks()
    (folder / "confident_teacher.py").write_text(module)
    scope = {}
    exec(script, scope)
    result, method = scope["result"], scope["ConfidentTeacher"]
    assert result.step == 8
    rows = read_metrics(folder / "run" / "metrics.jsonl")
    assert any("unsup/cls" in row for row in rows)
    recipe = yaml.safe_load((folder / "run" / "recipe.yaml").read_text())
    assert recipe["method"] == method(burn_in=4, ramp=2).model_dump(mode="json")
    assert denseteacher.load(folder / "run").class_names == ["red", "green", "blue"]
    # its run goes on like any other
    again = denseteacher.train(
        "custom",
        labeled="labeled.json",
        images="images",
        unlabeled="more_images",
        val="val.json",
        output="run",
        method=method(burn_in=4, ramp=2),
        resume=True,
    )
    assert again.step == 8


def test_the_pages_method_weights_boxes_by_score(folder):
    import torch

    from denseteacher.detectors import FCOS
    from support import semi_batch

    (folder / "confident_teacher.py").write_text(blocks()[0])
    from confident_teacher import ConfidentTeacher

    torch.manual_seed(0)
    options = {"num_classes": 3, "backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1}
    student, teacher = FCOS(**options).eval(), FCOS(**options).eval()
    with torch.no_grad():
        teacher.head.cls.bias += 3
    plain = UnbiasedTeacher(burn_in=1, threshold=0.2).losses(student, teacher, semi_batch(), 9).losses
    same = ConfidentTeacher(burn_in=1, threshold=0.2, power=0).losses(student, teacher, semi_batch(), 9).losses
    less = ConfidentTeacher(burn_in=1, threshold=0.2, power=1).losses(student, teacher, semi_batch(), 9).losses
    assert_close_to_scale(same["unsup/cls"], plain["unsup/cls"])
    assert less["unsup/cls"] < same["unsup/cls"]


def test_a_method_that_does_not_fit_the_recipe_is_refused_before_anything_is_written(folder):
    with pytest.raises(InputError, match="burn_in is 5000, but the run has 8 steps"):
        denseteacher.train("custom", labeled="labeled.json", output="run", method=UnbiasedTeacher())
    assert not (folder / "run").exists()
