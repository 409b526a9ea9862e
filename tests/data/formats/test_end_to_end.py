"""Each format through the command line: check, split, train, evaluate, predict; and the paper's recipes with --data."""

import json

import pytest

from conftest import TINY
from denseteacher.data.open import open_data
from denseteacher.recipes.schema import load_recipe
from support.published_datasets import write_coco_published, write_crowdhuman, write_tar_shards, write_voc, write_yolo

TEN_STEPS = ["method.burn_in=3", "method.ramp=2", "schedule.max_steps=10", "schedule.evaluate_every=10"]


def sets(*overrides):
    return [part for override in [*TINY, *TEN_STEPS, *overrides] for part in ("--set", override)]


def voc(folder):
    root = write_voc(folder)
    return root, root / "JPEGImages", []


def yolo(folder):
    path = write_yolo(folder)
    return path, folder / "images" / "train", ["--format", "yolo"]


def crowdhuman(folder):
    root = write_crowdhuman(folder)
    return root, root / "Images", []


def coco(folder):
    root = write_coco_published(folder)
    return root, root / "train2017", ["--subset", "train"]


FORMATS = {"voc": voc, "yolo": yolo, "crowdhuman": crowdhuman, "coco": coco}
METRICS = {"voc": "VOC AP50", "yolo": "AP", "crowdhuman": "mMR", "coco": "AP"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_from_check_to_predict(call, tmp_path, name):
    data, images, options = FORMATS[name](tmp_path / "data")

    def run(*arguments):
        code, out, err = call(*arguments)
        assert code == 0, f"{arguments[0]}: {err}{out}"
        return out

    run("check", data, "--val", data, *options, *sets(), "--json", tmp_path / "check.json")
    assert json.loads((tmp_path / "check.json").read_text())["images"]["labeled"] == 8

    cut = tmp_path / "split"
    run("split", data, *options, "--count", 4, "--protocol", "stratified", "--output", cut)
    labeled, rest = (json.loads((cut / f"{part}.json").read_text()) for part in ("labeled", "unlabeled"))
    assert (len(labeled["images"]), len(rest["images"])) == (4, 4)

    out = run(
        "train", "custom", "--labeled", cut / "labeled.json", "--images", images, "--unlabeled", cut / "unlabeled.json",
        "--val", data, "--output", tmp_path / "run", *sets(f"data.unlabeled_images={images}"),
    )  # fmt: skip
    assert "teacher" in out
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert (len(split["labeled_ids"]), len(split["unlabeled_ids"])) == (4, 4)

    run("evaluate", tmp_path / "run", "--data", data, "--json", tmp_path / "metrics.json")
    metrics = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert METRICS[name] in metrics

    run("predict", tmp_path / "run", images, "--output", tmp_path / "found")
    found = json.loads((tmp_path / "found" / "images.json").read_text())["images"]
    assert len(found) == {"voc": 12, "yolo": 8, "crowdhuman": 12, "coco": 8}[name]


def test_a_data_set_is_trained_on_without_a_split_file(call, tmp_path):
    """Labels and unlabeled images of one data set, cut by the recipe; validation is its other part."""
    data, _, _ = yolo(tmp_path / "data")
    code, out, err = call(
        "train", "custom", "--labeled", data, "--val", data, "--output", tmp_path / "run",
        *sets("data.split=seeded", "data.count=3"),
    )  # fmt: skip
    assert code == 0, err
    assert "teacher" in out
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("teacher/AP" in record for record in records)


def test_tar_shards_and_a_list_from_train_to_label(call, tmp_path):
    coco = write_coco_published(tmp_path / "coco")
    shards = write_tar_shards(tmp_path / "tar")
    names = sorted(file.name for file in (coco / "unlabeled2017").iterdir())
    (coco / "unlabeled2017" / "list.txt").write_text("\n".join(names[:3]))
    code, _, err = call(
        "train", "custom", "--labeled", coco / "annotations" / "instances_train2017.json",
        "--unlabeled", shards / "*.tar", "--unlabeled", coco / "unlabeled2017" / "list.txt",
        "--output", tmp_path / "run", *sets(),
    )  # fmt: skip
    assert code == 0, err
    assert len(json.loads((tmp_path / "run" / "split.json").read_text())["unlabeled_ids"]) == 9
    code, out, err = call(
        "label", tmp_path / "run", shards, "--to", "yolo", "--output", tmp_path / "out", "--score", "0.001"
    )
    assert code == 0, err
    assert "in 6 images" in out
    # what it wrote is a data set to train on
    code, _, err = call(
        "train", "custom", "--labeled", tmp_path / "out", "--unlabeled", shards, "--output", tmp_path / "again",
        *sets("method.name=supervised", "data.bad_boxes=fix"),
    )  # fmt: skip
    assert code == 0, err


def run_recipe(call, recipe, root, output, *overrides):
    code, out, err = call("train", recipe, "--data", root, "--output", output, *sets(*overrides))
    assert code == 0, err
    split = json.loads((output / "split.json").read_text())
    return len(split["labeled_ids"]), len(split["unlabeled_ids"]), out + err


def test_recipe_voc(call, tmp_path):
    write_voc(tmp_path)
    write_voc(tmp_path, 2012, count=9)
    labeled, unlabeled, out = run_recipe(call, "voc", tmp_path / "VOCdevkit", tmp_path / "run")
    assert (labeled, unlabeled) == (8, 9)
    assert "teacher" in out


def test_recipe_voc_coco20cls(call, tmp_path):
    write_voc(tmp_path)
    write_voc(tmp_path, 2012, count=9)
    write_coco_published(tmp_path / "VOCdevkit" / "coco")
    labeled, unlabeled, out = run_recipe(call, "voc_coco20cls", tmp_path / "VOCdevkit", tmp_path / "run")
    assert (labeled, unlabeled) == (8, 9 + 7 + 4)  # all scenes but the one without objects
    assert (
        "COCO20cls: 11 images; the list that is known has 19,592"
        in out + (tmp_path / "run" / "report.html").read_text()
    )


def test_recipe_crowdhuman(call, tmp_path):
    write_crowdhuman(tmp_path / "crowdhuman")
    labeled, unlabeled, out = run_recipe(
        call, "crowdhuman", tmp_path / "crowdhuman", tmp_path / "run", "data.percent=50"
    )
    assert (labeled, unlabeled) == (4, 4)
    assert "teacher" in out


def test_recipe_coco_standard(call, tmp_path):
    write_coco_published(tmp_path / "coco")
    overrides = ["data.split=stac", "data.percent=50", "data.fold=3", "data.val=null"]
    labeled, unlabeled, _ = run_recipe(call, "coco_standard", tmp_path / "coco", tmp_path / "run", *overrides)
    assert labeled + unlabeled == 8
    assert 1 <= labeled <= 4


@pytest.mark.parametrize("name", ["coco_full", "coco_full_lsj"])
def test_recipes_of_all_of_coco(tmp_path, name):
    recipe = load_recipe(name, [f"data.root={write_coco_published(tmp_path)}"])
    data = open_data(recipe.data)
    # one of the eight images has no box
    assert (len(data.labeled.images), len(data.unlabeled), len(data.validation.images)) == (7, 6, 4)
    assert {record.path.parent.name for record in data.unlabeled} == {"unlabeled2017"}
