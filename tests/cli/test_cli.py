"""The command line through its entry point: a stranger's path, and what wrong input gets."""

import csv
import importlib.metadata
import json
import os
import re
import shlex
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from support import stop_after, wait_for_rows


def sets(overrides):
    return [part for override in overrides for part in ("--set", override)]


QUICK = ["method.burn_in=3", "method.ramp=2", "schedule.max_steps=20", "schedule.evaluate_every=10"]


def test_a_strangers_path(call, coco, unlabeled, tiny, tmp_path, monkeypatch):
    """split -> train 20 steps, stopped on the way -> resume -> evaluate -> predict."""
    code, out, _ = call("split", coco, "--output", tmp_path / "split", "--count", 6)
    assert code == 0
    suggested = re.search(r"To train: denseteacher (train custom .*) \(and", out).group(1)
    labeled, rest = (json.loads((tmp_path / "split" / f"{name}.json").read_text()) for name in ("labeled", "unlabeled"))
    assert len(labeled["images"]) == 6
    assert len(rest["images"]) == 6
    assert "annotations" not in rest

    train = [*shlex.split(suggested), "--val", coco, "--output", tmp_path / "run", *sets([*tiny, *QUICK])]
    with monkeypatch.context() as patch:
        stop_after(patch, 7)
        code, _, err = call(*train)
    assert code == 1
    assert "stopped by SIGTERM after step 7" in err
    assert "--resume" in err

    code, out, err = call(*train, "--resume")
    assert code == 0, err
    assert "teacher" in out
    run = tmp_path / "run"
    assert {"detector.safetensors", "report.html", "recipe.yaml", "metrics.jsonl"} <= {
        file.name for file in run.iterdir()
    }
    with (run / "results.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["10", "20"]
    split = json.loads((run / "split.json").read_text())
    assert len(split["labeled_ids"]) == 6
    assert len(split["digest"]) == 64
    report = (run / "report.html").read_text()
    assert "://" not in report.replace("http://www.w3.org", "")  # the name of SVG

    code, out, _ = call("evaluate", run, "--data", coco, "--json", tmp_path / "ap.json")
    assert code == 0
    assert "score floor 0.05" in out
    result = json.loads((tmp_path / "ap.json").read_text())
    assert set(result["per_class"]) == {"red", "green", "blue"}
    assert 0 <= result["metrics"]["AP"] <= 100

    code, out, _ = call(
        "predict", run, coco.parent / "images", unlabeled / "*.png", "--output", tmp_path / "found", "--score", "0.01"
    )
    assert code == 0
    infos = json.loads((tmp_path / "found" / "images.json").read_text())["images"]
    assert len(infos) == 12 + 6
    assert {tuple(sorted(one)) for one in json.loads((tmp_path / "found" / "predictions.json").read_text())} <= {
        ("bbox", "category_id", "image_id", "score")
    }
    assert len(list((tmp_path / "found" / "pictures").iterdir())) == 18


def test_training_twice_into_a_folder_changes_nothing(call, coco, unlabeled, tiny, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "precious.txt").write_text("mine")
    code, _, err = call(
        "train", "custom", "--labeled", coco, "--unlabeled", unlabeled, "--output", tmp_path / "run", *sets(tiny)
    )
    assert code == 2
    assert "is not empty" in err
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["precious.txt"]


def broken_coco(coco, folder, change):
    content = json.loads(coco.read_text())
    change(content)
    folder.mkdir(exist_ok=True)
    path = folder / "broken.json"
    path.write_text(json.dumps(content))
    return path


BROKEN_JSON = {
    "unknown category": (lambda c: c["annotations"][0].update(category_id=77), r"unknown category 77"),
    "box outside": (
        lambda c: c["annotations"][0].update(bbox=[500, 500, 10, 10]),
        r"annotation 1 .*data\.bad_boxes=fix",
    ),
    "box without area": (lambda c: c["annotations"][0].update(bbox=[5, 5, 0, 10]), r"has no area.*data\.bad_boxes=fix"),
    "leaves the folder": (
        lambda c: c["images"][0].update(file_name="../secret.png"),
        r"'\.\./secret\.png' leaves the image folder",
    ),
    "absolute file": (lambda c: c["images"][0].update(file_name="/etc/passwd"), "leaves the image folder"),
    "missing image": (lambda c: c["images"][4].update(file_name="gone.png"), r"the image file 'gone\.png' is not in"),
    "no categories": (lambda c: c.pop("categories"), "no list 'categories'"),
    "wrong size": (lambda c: c["images"][2].update(width=33, height=44), "annotation says 33 x 44"),
}


@pytest.mark.parametrize("fault", BROKEN_JSON)
def test_broken_annotations(call, coco, unlabeled, tiny, tmp_path, fault):
    change, message = BROKEN_JSON[fault]
    path = broken_coco(coco, tmp_path / "data", change)
    code, _, err = call(
        "train", "custom", "--labeled", path, "--images", coco.parent / "images", "--unlabeled", unlabeled,
        "--output", tmp_path / "run", *sets([*tiny, *QUICK]),
    )  # fmt: skip
    assert code == 2
    assert_one_sentence(err, message)


def assert_one_sentence(err, message):
    import re

    lines = [line for line in err.splitlines() if line.startswith("denseteacher: ")]
    assert len(lines) == 1, err
    assert re.search(message, lines[0]), lines[0]
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["train", "custom", "--labeled", "missing.json"], r"no annotation file .*missing\.json"),
        (["train", "custom"], "give --labeled PATH"),
        (["train", "nothing"], "no recipe 'nothing'"),
        (["train", "custom", "--set", "optim.rl=1"], r"'optim\.rl'"),
        (["train", "custom", "--set", "optim.lr=fast"], r"optim\.lr"),
        (["train", "custom", "--resume", "--output", "nowhere"], "no run to resume in nowhere"),
        (["evaluate", "missing.safetensors", "--data", "x.json"], r"no detector file missing\.safetensors"),
        (["predict", "missing.safetensors", "x.png", "--output", "out"], "no detector file"),
        (["split", "missing.json", "--output", "out", "--percent", "10"], "no annotation file"),
        (["split", "missing.json", "--output", "out"], "exactly one of --percent, --count and --ids"),
        (["recipes", "show", "custum"], "did you mean 'custom'"),
    ],
)
def test_wrong_arguments(call, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*options)
    assert code == 2
    assert_one_sentence(err, message)
    assert list(tmp_path.iterdir()) == []


def test_a_json_that_is_not_coco(call, tmp_path):
    path = tmp_path / "list.json"
    path.write_text("[1, 2, 3]")
    code, _, err = call("train", "custom", "--labeled", path, "--output", tmp_path / "run")
    assert code == 2
    assert_one_sentence(err, "holds a list")


def test_a_folder_without_images(call, coco, tiny, tmp_path):
    (tmp_path / "empty").mkdir()
    code, _, err = call(
        "train",
        "custom",
        "--labeled",
        coco,
        "--unlabeled",
        tmp_path / "empty",
        "--output",
        tmp_path / "run",
        *sets(tiny),
    )
    assert code == 2
    assert_one_sentence(err, "holds no images")
    assert not (tmp_path / "run").exists()


def test_no_unlabeled_images(call, coco, tiny, tmp_path):
    code, _, err = call("train", "custom", "--labeled", coco, "--output", tmp_path / "run", *sets([*tiny, *QUICK]))
    assert code == 2
    assert_one_sentence(err, "give --unlabeled PATH")


def test_a_truncated_image_in_training_and_in_prediction(call, coco, tiny, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "whole.jpg")
    content = (folder / "whole.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    run = tmp_path / "run"
    code, _, err = call(
        "train", "custom", "--labeled", coco, "--unlabeled", folder, "--output", run, *sets([*tiny, *QUICK])
    )
    assert code == 2
    assert_one_sentence(err, r"cut\.jpg is damaged")
    assert list((run / "checkpoints").glob("*.pt"))  # what was trained so far is kept
    code, _, err = call(
        "train", "custom", "--labeled", coco, "--unlabeled", coco.parent / "images", "--output", tmp_path / "good",
        *sets([*tiny, *QUICK, "schedule.max_steps=4"]),
    )  # fmt: skip
    assert code == 0, err
    code, _, err = call("predict", tmp_path / "good", folder, "--output", tmp_path / "found")
    assert code == 1
    assert "1 image could not be read" in err
    assert len(json.loads((tmp_path / "found" / "images.json").read_text())["images"]) == 1


def test_a_full_disk_is_a_failure_with_one_sentence(call, coco, unlabeled, tiny, tmp_path, monkeypatch):
    import errno

    import torch

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(torch, "save", full)
    code, _, err = call(
        "train", "custom", "--labeled", coco, "--unlabeled", unlabeled, "--output", tmp_path / "run",
        *sets([*tiny, *QUICK]),
    )  # fmt: skip
    assert code == 1
    assert_one_sentence(err, "No space left on device .*bytes are free")


def test_resuming_with_another_architecture(call, coco, unlabeled, tiny, tmp_path):
    train = [
        "train", "custom", "--labeled", coco, "--unlabeled", unlabeled, "--output", tmp_path / "run",
        *sets([*tiny, *QUICK, "schedule.max_steps=4"]),
    ]  # fmt: skip
    assert call(*train)[0] == 0
    before = (tmp_path / "run" / "recipe.yaml").read_bytes()
    code, _, err = call(*train, "--set", "detector.channels=32", "--resume")
    assert code == 2
    assert_one_sentence(err, r"detector\.channels=16, not 32")
    assert (tmp_path / "run" / "recipe.yaml").read_bytes() == before


def test_a_detector_of_other_classes_is_not_evaluated(call, coco, unlabeled, tiny, tmp_path):
    assert call(
        "train", "custom", "--labeled", coco, "--unlabeled", unlabeled, "--output", tmp_path / "run",
        *sets([*tiny, *QUICK, "schedule.max_steps=2", "method.name=supervised"]),
    )[0] == 0  # fmt: skip
    other = broken_coco(coco, tmp_path / "data", lambda c: c["categories"][0].update(name="purple"))
    code, _, err = call("evaluate", tmp_path / "run", "--data", other, "--images", coco.parent / "images")
    assert code == 2
    assert_one_sentence(err, "2: purple.*2: red|other categories")


def test_recipes_are_listed_and_shown(call):
    code, out, _ = call("recipes", "list")
    assert code == 0
    assert "coco_standard" in out
    code, out, _ = call("recipes", "show", "digits", "--set", "seed=9")
    assert code == 0
    assert "seed: 9" in out


def test_the_console_script_is_installed_and_import_is_light():
    names = {entry.name: entry.value for entry in importlib.metadata.entry_points(group="console_scripts")}
    assert names["denseteacher"] == "denseteacher.cli:main"
    code = (
        "import sys, denseteacher, denseteacher.cli; "
        "heavy = {'torch', 'timm', 'torchvision', 'matplotlib', 'lightning_fabric'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_is_one_sentence(call, coco, monkeypatch, number):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("denseteacher.api.check", lambda *_, **__: signal.raise_signal(number))
    assert call("check", coco) == (1, "", "denseteacher: interrupted\n")
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_to_the_whole_group_saves_and_leaves(coco, unlabeled, tiny, tmp_path):
    """As a scheduler does it, with loader processes, to the real command."""
    command = [
        sys.executable, "-m", "denseteacher.cli", "train", "custom", "--labeled", coco, "--unlabeled", unlabeled,
        "--output", tmp_path / "run",
        *sets([*tiny, *QUICK, "schedule.max_steps=100000", "runtime.workers=2", "schedule.checkpoint_every=100000"]),
    ]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True
    )
    log = tmp_path / "run" / "metrics.jsonl"
    wait_for_rows(process, log, 3, seconds=120)
    os.killpg(process.pid, signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "stopped by SIGTERM" in err
    assert list((tmp_path / "run" / "checkpoints").glob("step_*.pt"))
