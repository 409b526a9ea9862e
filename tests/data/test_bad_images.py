"""Images that are missing or damaged: refused with the way out named, or left out, counted and stood in for."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from conftest import paint, write_coco
from denseteacher import api
from denseteacher.data.config import DataConfig
from denseteacher.data.open import open_data
from denseteacher.errors import InputError
from denseteacher.training.trainer import Trainer


def truncate(file):
    file.write_bytes(file.read_bytes()[:-300])


def other_size(file):
    Image.new("RGB", (17, 23)).save(file)


BAD = {
    "missing": (lambda file: file.unlink(), "is not in"),
    "empty": (lambda file: file.write_bytes(b""), "can't be read as an image"),
    "no image": (lambda file: file.write_text("<html>"), "can't be read as an image"),
    "truncated": (truncate, "is damaged"),
    "of another size": (other_size, "but its annotation says"),
    "a folder": (lambda file: (file.unlink(), file.mkdir()), "is not in"),
}


@pytest.fixture
def data(tmp_path):
    """A labeled and a validation set of 8, and 6 unlabeled images."""
    for name, seed in (("train", 1), ("val", 2)):
        write_coco(tmp_path / name, 8, seed=seed)
    (tmp_path / "unlabeled").mkdir()
    rng = np.random.default_rng(7)
    for number in range(6):
        Image.fromarray(paint(rng, 72, [60, 90][number % 2], 2)[0]).save(tmp_path / "unlabeled" / f"{number}.png")
    return tmp_path


def config(data, bad_images="skip"):
    paths = {name: data / name / "annotations.json" for name in ("train", "val")}
    return DataConfig(labeled=paths["train"], val=paths["val"], unlabeled=data / "unlabeled", bad_images=bad_images)


@pytest.mark.parametrize("case", BAD)
def test_bad_images_are_left_out_and_counted(case, data):
    spoil, says = BAD[case]
    for file in ("train/images/001.png", "train/images/005.png", "val/images/007.png"):
        spoil(data / file)
    opened = open_data(config(data))
    assert len(opened.labeled.images) == 6
    assert len(opened.validation.images) == len(opened.validation.ground_truth["images"]) == 7
    assert {one["image_id"] for one in opened.validation.ground_truth["annotations"]} <= {10, 20, 30, 40, 50, 60, 80}
    said = [note for note in opened.notes if note.startswith("left out: ")]
    assert len(said) == 1
    assert says in said[0]
    assert said[0].endswith("(3 such in all)")


def test_today_they_are_refused_and_the_way_out_is_named(data):
    (data / "train" / "images" / "001.png").unlink()
    with pytest.raises(InputError, match=r"001\.png' is not in .*--set data\.bad_images=skip"):
        open_data(config(data, "error"))


def test_unreadable_unlabeled_images_are_left_out(data):
    (data / "unlabeled" / "3.png").write_bytes(b"x")
    opened = open_data(config(data))
    assert [image.path.name for image in opened.unlabeled] == ["0.png", "1.png", "2.png", "4.png", "5.png"]
    with pytest.raises(InputError, match=r"3\.png"):
        open_data(config(data, "error"))


def test_all_images_bad_is_an_error(data):
    for file in (data / "train" / "images").iterdir():
        truncate(file)
    with pytest.raises(InputError, match=r"none of the 8 images of .* can be read; the first: .*001\.png"):
        open_data(config(data))


def test_crowds_alone_are_no_validation_data(data):
    path = data / "val" / "annotations.json"
    content = json.loads(path.read_text())
    content["annotations"] = [one | {"iscrowd": 1} for one in content["annotations"]]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"8 validation images .* only \d+ regions that do not count \(iscrowd\)"):
        open_data(config(data))


def train(data, tiny, output, *more, **arguments):
    paths = {"labeled": data / "train" / "annotations.json", "unlabeled": data / "unlabeled"}
    options = [*tiny, "method.burn_in=1", "method.ramp=1", "method.ratio=0.1", *more]
    overrides = {key: yaml.safe_load(value) for key, value in (option.split("=", 1) for option in options)}
    return api.train("custom", output=output, overrides=overrides, **paths, **arguments)


def test_a_run_with_damaged_images_is_the_same_with_any_workers_and_after_a_resume(
    data, tiny, tmp_path, monkeypatch, capfd
):
    """Found damaged when a step draws it, an unlabeled image has a stand-in that depends on the files alone."""
    for number in (1, 2):
        truncate(data / "unlabeled" / f"{number}.png")
    skip = "data.bad_images=skip"
    with pytest.raises(InputError, match=r"[12]\.png is damaged .*--set data\.bad_images=skip"):
        train(data, tiny, tmp_path / "refused")
    whole = train(data, tiny, tmp_path / "whole", skip)
    said = capfd.readouterr().err
    assert said.count("1.png is damaged") == said.count("2.png is damaged") == 1
    workers = train(data, tiny, tmp_path / "workers", skip, "runtime.workers=2")

    def stop(self, asked, original=Trainer._stops):
        return self.step == 3 or original(self, asked)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_stops", stop)
        assert train(data, tiny, tmp_path / "parts", skip).stopped_by is not None
    parts = train(data, tiny, tmp_path / "parts", skip, resume=True)
    weights = [
        api.load(run.folder / "last_student.safetensors").detector.state_dict() for run in (whole, workers, parts)
    ]
    assert all(torch.equal(one[key], weights[0][key]) for one in weights for key in weights[0])


def change_names(content):
    content["categories"][1]["name"] = "purple"


def change_order(content):
    first, second = content["categories"][:2]
    first["name"], second["name"] = second["name"], first["name"]


def another_class(content):
    content["categories"].append({"id": 99, "name": "late"})


def one_image_less(content):
    gone = content["images"].pop()["id"]
    content["annotations"] = [one for one in content["annotations"] if one["image_id"] != gone]


OTHER_DATA = {
    "renamed": (change_names, r"other classes .* the class number 1 was 'green' \(id 5\) and is 'purple' \(id 5\)"),
    "reordered": (change_order, r"the class number 0 was 'red' \(id 2\) and is 'green' \(id 2\)"),
    "another class": (another_class, r"3 classes then, 4 now"),
    "an image less": (one_image_less, r"labeled images are not those .*8 then, 7 now"),
    "unlabeled images less": (None, r"began with 6 unlabeled images, and now there are 5"),
}


def test_a_resume_needs_the_data_it_began_with(data, tiny, tmp_path, monkeypatch):
    path = data / "train" / "annotations.json"
    sound = path.read_text()
    train(data, tiny, tmp_path / "run", "schedule.max_steps=4")
    for change, says in OTHER_DATA.values():
        content = json.loads(sound)
        if change is None:
            (data / "unlabeled" / "5.png").rename(tmp_path / "away.png")
        else:
            change(content)
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=says):
            train(data, tiny, tmp_path / "run", "schedule.max_steps=4", resume=True)
    (tmp_path / "away.png").rename(data / "unlabeled" / "5.png")
    path.write_text(sound)
    assert train(data, tiny, tmp_path / "run", "schedule.max_steps=4", resume=True).step == 4
