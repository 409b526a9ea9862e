"""Every planted fault is found, with its file and its count, and nothing else is said to be wrong."""

import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from conftest import paint
from denseteacher import api
from support.published_datasets import write_crowdhuman, write_voc, write_yolo


def test_nothing_is_said_of_a_clean_data_set(planted):
    report = planted.check()
    assert {(one.severity, one.kind) for one in report.findings} == {("info", "image without objects")}
    assert report.images == {"labeled": 12, "unlabeled": 6, "validation": 8}
    assert report.errors == 0
    assert report.decoded


@pytest.mark.parametrize("write", [write_voc, write_yolo, write_crowdhuman], ids=lambda write: write.__name__)
def test_nothing_is_said_of_clean_data_in_other_formats(write, tmp_path, tiny):
    path = write(tmp_path)
    report = api.check(path, val=path, overrides=tiny)
    assert [one for one in report.findings if one.severity != "info"] == []
    assert report.images == {"labeled": 8, "validation": 4}


def test_a_validation_folder_has_images_of_its_own(tmp_path, tiny):
    data, val = write_yolo(tmp_path / "train"), write_yolo(tmp_path / "val", count=24, seed=5)
    report = api.check(data, images=tmp_path / "train", val=val, overrides=tiny)
    assert report.images == {"labeled": 8, "validation": 8}
    assert [one for one in report.findings if one.severity != "info"] == []


def test_faults_of_a_voc_data_set_name_its_files(tmp_path, tiny):
    path = write_voc(tmp_path)
    file = path / "Annotations" / "000002.xml"
    file.write_text(file.read_text().replace("<xmin>", "<xmin>a", 1))
    (path / "Annotations" / "000004.xml").write_text("<annotation>")
    (path / "JPEGImages" / "000006.jpg").write_bytes(b"\xff\xd8")
    found = serious(api.check(path, overrides=tiny))
    assert {kind: count for _, kind, count, _ in found} == {
        "box of no four numbers": 1,
        "unreadable annotation file": 1,
        "unreadable image": 1,
    }
    assert all(name in str(found) for name in ("000002.xml", "000004.xml", "000006.jpg"))


def test_faults_of_a_yolo_data_set_name_its_files(tmp_path, tiny):
    path = write_yolo(tmp_path)
    labels, images = tmp_path / "labels" / "train", tmp_path / "images" / "train"
    (labels / "000001.txt").write_text("0 30 20 12 14\n7 0.5 0.5 0.2 0.2\n0 0.5 0.5\n")
    (images / "000004.jpg").write_bytes(b"")
    content = (images / "000005.jpg").read_bytes()
    (images / "000005.jpg").write_bytes(content[:-300])
    found = serious(api.check(path, overrides=tiny))
    assert {kind: count for _, kind, count, _ in found} == {
        "box outside of its image": 1,
        "unknown category": 1,
        "box of no four numbers": 1,
        "unreadable image": 1,
        "damaged image": 1,
    }
    assert all(name in str(found) for name in ("000001.txt, line 1", "000001.txt, line 2", "000004.jpg", "000005.jpg"))


def test_faults_of_a_crowdhuman_data_set_name_its_files(tmp_path, tiny):
    path = write_crowdhuman(tmp_path)
    file = path / "annotation_train.odgt"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines, "{", lines[1]]) + "\n")
    found = serious(api.check(file, overrides=tiny))
    assert {kind: count for _, kind, count, _ in found} == {"image entry": 1, "image id twice": 1}
    assert all(name in str(found) for name in ("line 9", "line 10"))


def serious(report):
    """Errors and warnings as tuples."""
    return [(one.severity, one.kind, one.count, one.examples) for one in report.findings if one.severity != "info"]


# Faults: each in the labeled image of a number, or in what goes with it


def unreadable(data, number):
    data.file(number).write_bytes(b"no image at all")


def truncated(data, number):
    content = data.file(number).read_bytes()
    data.file(number).write_bytes(content[: len(content) // 2])


def other_size(data, number):
    data.entry(number)["width"] += 5


def turned_in_viewers(data, number):
    exif = Image.Exif()
    exif[0x0112] = 8
    with Image.open(data.file(number)) as image:
        image.load()
    image.save(data.file(number), exif=exif)


def outside(data, number):
    data.annotation(number)["bbox"] = [5, 5, 500, 20]


def empty(data, number):
    data.annotation(number)["bbox"] = [5, 5, 0, 20]


def inverted(data, number):
    data.annotation(number)["bbox"] = [40, 40, -20, -20]


def text_in_a_box(data, number):
    data.annotation(number)["bbox"] = ["5", 5, 20, 20]


def hole_in_a_box(data, number):
    data.annotation(number)["bbox"] = [5, 5, None, 20]


def unknown_category(data, number):
    data.annotation(number)["category_id"] = 77


def annotation_of_no_image(data, number):
    data.train["annotations"].append({"id": 5000, "image_id": 7777, "category_id": 2, "bbox": [1, 1, 9, 9]})


def image_id_twice(data, number):
    data.train["images"].append(dict(data.entry(number)))


def category_id_twice(data, number):
    data.train["categories"].append({"id": 5, "name": "green"})


def annotation_id_twice(data, number):
    data.annotation(number)["id"] = 1


def box_twice(data, number):
    data.train["annotations"].append(data.annotation(number) | {"id": 5001})


def thin(data, number):
    data.annotation(number)["bbox"] = [7.8, 10, 0.5, 30]


def same_content(data, number):
    copy = data.file(number).with_name("copy.png")
    shutil.copy(data.file(number), copy)
    data.train["images"].append(data.entry(number) | {"id": 5002, "file_name": copy.name})


def listed_twice(data, number):
    data.train["images"].append(data.entry(number) | {"id": 5003})


def missing_file(data, number):
    data.file(number).unlink()


def leaves_the_folder(data, number):
    data.entry(number)["file_name"] = "../../val/images/005.png"


def no_width(data, number):
    del data.entry(number)["width"]


def also_unlabeled(data, number):
    shutil.copy(data.file(number), data.folder / "unlabeled" / "copied.png")


def also_for_validation(data, number):
    shutil.copy(data.file(number), data.folder / "val" / "images" / "copied.png")
    data.val["images"].append(data.entry(number) | {"id": 5004, "file_name": "copied.png"})


def validation_is_unlabeled(data, number):
    (data.folder / "unlabeled" / "link.png").symlink_to(data.folder / "val" / "images" / "007.png")


def class_without_objects(data, number):
    data.train["categories"].append({"id": 12, "name": "violet"})


def class_of_validation_alone(data, number):
    data.val["categories"].append({"id": 13, "name": "orange"})


def alike(data, number):
    for content, one in ((data.train, data.annotation(number)), (data.val, data.val["annotations"][0])):
        content["categories"].append({"id": 14, "name": "Red"})
        one["category_id"] = 14


def below_all_levels(data, number):
    data.annotation(number)["bbox"] = [13, 13, 2, 2]


def whole_image(data, number):
    image = data.entry(number)
    data.annotation(number)["bbox"] = [0, 0, image["width"], image["height"]]


def unreadable_unlabeled(data, number):
    (data.folder / "unlabeled" / "3.png").write_bytes(b"")


def damaged_validation(data, number):
    file = data.folder / "val" / "images" / "005.png"
    file.write_bytes(file.read_bytes()[:-200])


def unlisted(data, number):
    pixels, _ = paint(np.random.default_rng(50), 60, 60, 1)
    Image.fromarray(pixels).save(data.file(number).with_name("more.png"))


FAULTS = {
    unreadable: ("error", "unreadable image", "labeled", "FILE"),
    truncated: ("error", "damaged image", "labeled", "FILE"),
    other_size: ("error", "image of another size than declared", "labeled", "FILE"),
    turned_in_viewers: ("warning", "image that is turned only in viewers", "labeled", "FILE"),
    outside: ("error", "box outside of its image", "labeled", "FILE"),
    empty: ("error", "box without area", "labeled", "FILE"),
    inverted: ("error", "box without area", "labeled", "FILE"),
    text_in_a_box: ("info", "box of text", "labeled", "FILE"),
    hole_in_a_box: ("error", "box of no four numbers", "labeled", "FILE"),
    unknown_category: ("error", "unknown category", "labeled", "FILE"),
    annotation_of_no_image: ("error", "annotation of no image", "labeled", "annotation 5000"),
    image_id_twice: ("error", "image id twice", "labeled", "image id"),
    category_id_twice: ("error", "category id twice", "labeled", "category id 5"),
    annotation_id_twice: ("warning", "annotation id twice", "labeled", "annotation id 1 "),
    box_twice: ("warning", "box twice", "labeled", "FILE"),
    thin: ("warning", "thin box", "labeled", "FILE"),
    same_content: ("warning", "files with the same content", "labeled", "copy.png"),
    listed_twice: ("warning", "file listed twice", "labeled", "FILE"),
    missing_file: ("error", "missing image file", "labeled", "FILE"),
    leaves_the_folder: ("error", "file name that leaves the folder", "labeled", "../../val/images/005.png"),
    no_width: ("info", "size read from the file", "labeled", "FILE"),
    also_unlabeled: ("warning", "image with the same content in two parts", "labeled and unlabeled", "FILE"),
    also_for_validation: ("error", "image with the same content in two parts", "labeled and validation", "FILE"),
    validation_is_unlabeled: ("warning", "image in two parts", "unlabeled and validation", "007.png"),
    class_without_objects: ("warning", "class without objects", "labeled", "violet"),
    class_of_validation_alone: (
        "error",
        "class of validation that training lacks",
        "labeled and validation",
        "orange",
    ),
    alike: ("warning", "class names that are almost the same", "labeled", "Red"),
    below_all_levels: ("warning", "object outside of all levels", "labeled", "FILE"),
    whole_image: ("info", "box as large as its image", "labeled", "FILE"),
    unreadable_unlabeled: ("error", "unreadable image", "unlabeled", "3.png"),
    damaged_validation: ("error", "damaged image", "validation", "005.png"),
    unlisted: ("info", "image file without an entry", "labeled", "more.png"),
}
"""Severity, kind, part, and what an example names; ``FILE`` stands for the image that the fault is in."""


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize("plant", FAULTS, ids=lambda plant: plant.__name__)
def test_a_planted_fault_alone_is_found_alone(plant, planted):
    file = planted.file(7).name
    plant(planted, 7)
    severity, kind, part, name = FAULTS[plant]
    found = [one for one in planted.check().findings if one.kind != "image without objects"]
    count = 2 if plant is alike else 1
    assert [(one.severity, one.kind, one.subset, one.count) for one in found] == [(severity, kind, part, count)]
    assert any(name.replace("FILE", file) in example for example in found[0].examples)


@pytest.mark.usefixtures("no_memory")
def test_all_faults_in_one_data_set_are_found_and_counted(planted_large):
    plants = [plant for plant in FAULTS if plant is not unlisted]  # not looked for where entries are at fault
    for number, plant in enumerate(plants, 20):
        plant(planted_large, number)
    wanted = Counter(FAULTS[plant][1:3] for plant in plants)
    wanted["class names that are almost the same", "labeled"] = 2
    report = planted_large.check()
    found = {(one.kind, one.subset): one.count for one in report.findings if one.kind != "image without objects"}
    assert found == wanted
    severities = [one.severity for one in report.findings]
    assert severities == sorted(severities, key=("error", "warning", "info").index)
    assert all(len(one.examples) == min(one.count, 3) for one in report.findings)
