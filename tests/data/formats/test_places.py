"""Where images are looked for, and which part is trained on, when one folder or file serves several ends."""

import json
import shutil

import pytest

from denseteacher.check.data import read_checked_data
from denseteacher.data.config import DataConfig
from denseteacher.data.formats import read_annotations, read_unlabeled, write_split
from denseteacher.data.open import draw_split, open_data
from denseteacher.errors import InputError
from support.published_datasets import parts, scenes, write_coco_published, write_crowdhuman, write_voc, write_yolo


def counts(config):
    """Images labeled, unlabeled and to validate on; a check sees the same ones."""
    data = open_data(config)
    checked, _ = read_checked_data(config)
    found = [len(data.labeled.images), len(data.unlabeled), len(data.validation.images)]
    assert found == [len(checked.labeled.images), len(checked.unlabeled), len(checked.validation.images)]
    return found


@pytest.mark.parametrize("format", ["voc", "yolo", "crowdhuman", "coco"])
def test_the_parts_of_a_split_need_the_folder_of_the_images_alone(tmp_path, format):
    write = {"voc": write_voc, "yolo": write_yolo, "crowdhuman": write_crowdhuman, "coco": write_coco_published}[format]
    annotations = read_annotations(write(tmp_path / "data"))
    chosen = draw_split(annotations, "seeded", count=5)
    labeled, unlabeled, images = write_split(annotations, chosen.labeled_ids, tmp_path / "elsewhere" / "parts")
    config = DataConfig(labeled=labeled, unlabeled=unlabeled, images=images, val=labeled)
    assert counts(config) == [5, 3, 5]


def test_images_of_a_validation_json_are_its_own(tmp_path):
    coco = write_coco_published(tmp_path)
    train, val = (coco / "annotations" / f"instances_{part}2017.json" for part in ("train", "val"))
    assert counts(DataConfig(labeled=train, images=coco / "train2017", unlabeled=coco / "train2017", val=val)) == [
        8,
        8,
        4,
    ]


def test_images_of_a_validation_json_that_are_nowhere_near(tmp_path):
    coco = write_coco_published(tmp_path)
    train, val = (coco / "annotations" / f"instances_{part}2017.json" for part in ("train", "val"))
    (tmp_path / "far").mkdir()
    (coco / "val2017").rename(tmp_path / "far" / "val2017")
    config = DataConfig(labeled=train, images=coco / "train2017", unlabeled=coco / "train2017", val=val)
    with pytest.raises(InputError, match=r"val2017\.json: the image .* with --set data\.val_images=DIR"):
        open_data(config)
    assert counts(config.model_copy(update={"val_images": tmp_path / "far" / "val2017"})) == [8, 8, 4]


def test_images_beside_the_annotations_in_a_folder_of_any_name(tmp_path):
    """A JSON of another name than its images' folder, as ``annotations/custom_val.json`` with ``val2017``."""
    coco = write_coco_published(tmp_path)
    val = coco / "annotations" / "instances_val2017.json"
    renamed = val.rename(val.with_name("custom_val.json"))
    assert {image.path.parent for image in read_annotations(renamed).records} == {coco / "val2017"}
    shutil.copytree(coco / "val2017", coco / "other")  # now it could be either
    with pytest.raises(InputError, match=r"custom_val\.json: the image .* is in none of"):
        read_annotations(renamed)


def test_voc_without_a_test_set_is_trained_on_train(tmp_path):
    folder = write_voc(tmp_path, 2012)
    config = DataConfig(labeled=folder, unlabeled=folder / "JPEGImages", val=folder)
    assert counts(config) == [6, 12, 6]
    data = open_data(config)
    assert {image.path for image in data.labeled.images}.isdisjoint(image.path for image in data.validation.images)
    assert data.notes == (f"labeled are the images of 'train' in {folder}, since 'val' is evaluated on",)
    assert counts(config.model_copy(update={"subset": "trainval"})) == [12, 12, 6]
    assert len(open_data(DataConfig(labeled=folder)).labeled.images) == 12


def test_voc_with_a_test_set_is_trained_on_trainval(tmp_path):
    folder = write_voc(tmp_path)
    config = DataConfig(labeled=folder, unlabeled=folder / "JPEGImages", val=folder)
    assert counts(config) == [8, 12, 4]
    assert open_data(config).notes == ()
    assert counts(config.model_copy(update={"val_subset": "val"})) == [4, 12, 4]


def test_a_recipe_without_its_data_asks_for_the_root():
    with pytest.raises(InputError, match=r"there is no annotations/train\.json: give the folder .* as --data ROOT"):
        open_data(DataConfig(labeled="annotations/train.json"))


def test_suffixes_in_capitals(tmp_path):
    voc, flat = write_voc(tmp_path / "voc"), write_yolo(tmp_path / "flat", "flat")
    for file in [*voc.glob("JPEGImages/*.jpg"), *flat.glob("*.jpg")]:
        file.rename(file.with_suffix(".PNG"))
    assert len(read_annotations(voc).records) == len(read_annotations(flat).records) == 8


def test_paths_from_windows(tmp_path):
    yolo, coco = write_yolo(tmp_path / "yolo", "lists"), write_coco_published(tmp_path / "coco")
    for file in (yolo, yolo.parent / "train.txt"):
        file.write_text(file.read_text().replace("path: .", r"path: D:\data").replace("/", "\\"))
    assert len(read_annotations(yolo).records) == 8
    path = coco / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    for image in content["images"]:
        image |= {"file_name": f"train2017\\{image['file_name']}", "width": float(image["width"])}
    path.write_text(json.dumps(content))
    assert [(one.width, one.height) for one in read_annotations(path).records] == [
        scene.size for scene in parts(scenes())[0]
    ]


def test_one_image_is_a_list_of_one(tmp_path):
    coco = write_coco_published(tmp_path)
    file = shutil.copy(next((coco / "val2017").iterdir()), tmp_path / "one.JPG")
    assert [record.path for record in read_unlabeled(file)] == [file]
