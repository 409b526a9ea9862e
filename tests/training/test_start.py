"""Runs that start from a detector, and what they need of it later; runs from before it could be said."""

import hashlib
import json
import shutil
import urllib.error
import urllib.request

import pytest
import torch
import yaml

import denseteacher
from denseteacher.errors import InputError
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.build import with_detector_of
from denseteacher.runs.folder import RunFolder
from denseteacher.training.checkpoint import CheckpointFolder
from support import assert_same, last_state, stop_after

DENSE = ["method.burn_in=3", "method.ramp=2", "method.ratio=0.1"]
ARCHITECTURE = ("detector.backbone", "detector.levels", "detector.channels", "detector.head_convs")


@pytest.fixture
def run(unlabeled, tiny, tmp_path):
    """Trains into a folder below ``tmp_path``."""

    def train(name, labeled, *overrides, without=(), **options):
        kept = [one for one in tiny if not one.startswith(without)]
        output = tmp_path / name
        keys = [*kept, *DENSE, *overrides]
        return denseteacher.train(labeled=labeled, unlabeled=unlabeled, output=output, overrides=keys, **options).folder

    return train


@pytest.fixture
def more(coco, tmp_path):
    """The same images, of whose classes one has another name and one is spelled otherwise."""
    content = json.loads(coco.read_text())
    for category, name in zip(content["categories"], ("Red", "violet", "blue"), strict=True):
        category["name"] = name
    file = tmp_path / "more.json"
    file.write_text(json.dumps(content))
    return {"labeled": file, "images": coco.parent / "images"}


def stored(folder):
    return yaml.safe_load((folder / "recipe.yaml").read_text())["detector"]


def test_a_run_goes_on_from_last_months_detector(run, coco, more, monkeypatch, capsys):
    first = run("first", coco, "detector.channels=24", "detector.quality=centerness")
    options = [f"detector.init={first}"]
    whole = run("whole", more["labeled"], *options, images=more["images"], without=ARCHITECTURE)
    said = capsys.readouterr().err
    assert "of the class branch 2 of 3 classes (Red, blue), not violet" in " ".join(said.split())
    written = json.loads((whole / "init.json").read_text())
    assert written["init"] == str(first)
    assert written["classes"] == {"Red": "red", "blue": "blue"}
    assert written["fresh"] == ["violet"]
    assert written["adopted"]["channels"] == 24
    assert len(written["sha256"]) == 64
    detector = stored(whole)
    assert (detector["init"], detector["channels"], detector["quality"]) == (str(first), 24, "centerness")
    assert (detector["backbone"], detector["levels"]) == ("test_byobnet", [3, 5])
    assert denseteacher.load(whole).class_names == ["Red", "violet", "blue"]

    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        run("part", more["labeled"], *options, images=more["images"], without=ARCHITECTURE)
    shutil.rmtree(first)
    part = run("part", more["labeled"], *options, images=more["images"], without=ARCHITECTURE, resume=True)
    assert_same(last_state(whole), last_state(part))
    shared = run("shared", more["labeled"], *options, images=more["images"], without=ARCHITECTURE, burn_in_from=whole)
    assert_same(last_state(whole), last_state(shared))
    with pytest.raises(InputError, match=r"begun with detector\.channels=24, not 16"):
        run(
            "part",
            more["labeled"],
            *options,
            "detector.channels=16",
            images=more["images"],
            without=ARCHITECTURE,
            resume=True,
        )
    with pytest.raises(InputError, match=r"begun with detector\.init="):
        run("part", more["labeled"], "detector.init=coco", images=more["images"], without=ARCHITECTURE, resume=True)


def test_the_command_line_says_what_contradicts_or_is_missing(run, coco, unlabeled, tiny, call, tmp_path):
    first = run("first", coco, "schedule.max_steps=4")
    base = ["train", "custom", "--labeled", coco, "--unlabeled", unlabeled, "--output", tmp_path / "new"]
    base += [part for option in [*tiny, *DENSE] for part in ("--set", option)]
    code, _, err = call(*base, "--set", f"detector.init={first}", "--set", "detector.channels=32")
    assert code == 2
    assert "detector.channels is set to 32, but" in " ".join(err.split())
    code, _, err = call(*base, "--set", "detector.init=last_month")
    assert code == 2
    assert "there is no file or run folder last_month" in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "new").exists()
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: custom\nname: mine\ndetector: {head_norm: none}\n")
    code, _, err = call(*base[:1], mine, *base[2:], "--set", f"detector.init={first}")
    assert code == 2
    assert "detector.head_norm is set to none" in " ".join(err.split())


def test_custom_says_what_it_did_instead_of_coco(run, coco, capsys, monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    folder = run("run", coco)
    assert "detector.init=auto: starts from random weights" in " ".join(capsys.readouterr().err.split())
    assert stored(folder)["init"] == "backbone"
    assert not (folder / "init.json").exists()
    run("run", coco, "schedule.log_every=2", resume=True)


def forget(folder, keys):
    """Makes a run one of a version that had no such keys of a detector."""
    content = yaml.safe_load((folder / "recipe.yaml").read_text())
    for key in keys:
        del content["detector"][key]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    checkpoints = CheckpointFolder(folder / "checkpoints")
    for path in checkpoints.files().values():
        state = checkpoints.load(path)
        recipe = json.loads(state["recipe"])
        for key in keys:
            del recipe["detector"][key]
        recipe["detector"] |= {key: one for key, one in recipe["detector"].pop("assigner").items() if key != "name"}
        torch.save(state | {"recipe": json.dumps(recipe)}, path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")


def test_a_run_from_before_keeps_imagenets_statistics(run, coco, monkeypatch):
    imagenet = ["detector.mean=[123.675,116.28,103.53]", "detector.std=[58.395,57.12,57.375]"]
    halves = ["detector.backbone=test_resnet"]  # whose own are 0.5 / 0.5
    whole = run("whole", coco, *halves, *imagenet)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        part = run("part", coco, *halves, *imagenet)
    forget(part, ("mean", "std", "init", "extra_from", "coding", "cls_loss", "location_offset", "scale_per_level"))
    assert run("part", coco, *halves, resume=True) == part
    before, after = last_state(whole), last_state(part)
    assert torch.equal(before["student"]["head.cls.weight"], after["student"]["head.cls.weight"])
    assert json.loads(after["recipe"])["detector"]["mean"] == [123.675, 116.28, 103.53]
    with pytest.raises(InputError, match=r"begun with detector\.mean="):
        run("part", coco, *halves, "detector.mean=[1,2,3]", resume=True)
    recipe = with_detector_of(load_recipe("custom", halves), RunFolder(part), set())
    assert recipe.detector.mean == (123.675, 116.28, 103.53)
