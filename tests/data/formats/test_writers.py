"""What a writer writes, the reader reads back; and labeling tools find what they look for."""

import json
import os
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

from denseteacher.data.formats import AnnotationSource, read_annotations, read_image_info, read_labeled, read_unlabeled
from denseteacher.data.records import Category, LabeledImages
from denseteacher.data.writers import write_annotations
from support.published_datasets import CLASSES, save, scenes, write_coco_published, write_tar_shards

CATEGORIES = [Category(3, "person"), Category(7, "car & truck"), Category(12, "Hündchen"), Category(40, "never seen")]
ROUNDING = {"coco": 0.011, "yolo": 1e-4, "voc": 0.501}
"""Pixels: two digits; six digits of the share of 96 pixels; whole pixels."""


def predicted(records, seed=0):
    """As many boxes as an image has by its place in the list, the third none; scores fall."""
    rng = np.random.default_rng(seed)
    boxes, labels, scores = [], [], []
    for place, record in enumerate(records):
        count = 0 if place == 2 else 1 + place % 4
        size = np.array([record.width, record.height])
        corner = rng.uniform(0, 0.6, (count, 2)) * size
        far = np.minimum(corner + rng.uniform(2, 40, (count, 2)), size)
        boxes.append(np.concatenate([corner, far], axis=1).astype(np.float32))
        labels.append(rng.integers(0, 3, count))
        scores.append(np.sort(rng.uniform(0.3, 1, count))[::-1].astype(np.float32))
    return LabeledImages(list(records), boxes, labels, CATEGORIES), scores


@pytest.fixture
def records(tmp_path):
    """Images in folders below each other, with a blank in a name, and two that differ in their suffix only."""
    names = ["a.jpg", "deep/a.jpg", "deep/a.png", "deep/er/my photo 1.png", "classes.png"]
    for scene, name in zip(scenes(5), names, strict=True):
        save(scene, tmp_path / "source" / name)
    return read_unlabeled(tmp_path / "source")


def write(to, data, scores, folder):
    folder.mkdir()
    return write_annotations(to, data, scores, folder)


def assert_read_back(read, data, tolerance):
    """Equal boxes in equal pixels; class names by label."""
    assert len(read.images) == len(data.images)
    pixels = {Path(record.path).read_bytes(): index for index, record in enumerate(read.images)}
    for record, boxes, labels in zip(data.images, data.boxes, data.labels, strict=True):
        index = pixels[record.path.read_bytes()]
        assert (read.images[index].width, read.images[index].height) == (record.width, record.height)
        assert np.abs(read.boxes[index] - boxes).max(initial=0) <= tolerance
        names = [read.categories[label].name for label in read.labels[index]]
        assert names == [data.categories[label].name for label in labels]


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
def test_what_is_written_is_read_back(tmp_path, records, to):
    data, scores = predicted(records)
    before = {file: file.read_bytes() for file in (tmp_path / "source").rglob("*.*")}
    hint = write(to, data, scores, tmp_path / "out")
    assert "CVAT" in hint
    images = tmp_path / "source" if to == "coco" else None
    read = read_labeled(AnnotationSource(tmp_path / "out", images))
    assert_read_back(read, data, ROUNDING[to])
    assert [category.name for category in read.categories] == [category.name for category in CATEGORIES]
    assert read_annotations(AnnotationSource(tmp_path / "out", images)).format == to
    assert {file: file.read_bytes() for file in (tmp_path / "source").rglob("*.*")} == before


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
def test_images_in_tar_files_are_copied_out(tmp_path, to):
    shards = write_tar_shards(tmp_path / "tar")
    shown = read_unlabeled(shards)
    twice = [*shown, replace(shown[0], id=7)]
    data, scores = predicted(twice)
    write(to, data, scores, tmp_path / "out")
    read = read_labeled(tmp_path / "out")
    assert [len(boxes) for boxes in read.boxes].count(0) == 1
    assert sum(map(len, read.boxes)) == sum(map(len, data.boxes))
    names = {record.path.name for record in read.images}
    assert names == {*(f"{number:06d}.png" for number in range(1, 7)), "000001_2.png"}


def test_coco_keeps_scores_ids_and_refers_to_the_images(tmp_path):
    coco = write_coco_published(tmp_path / "coco")
    source = read_image_info(coco / "annotations" / "image_info_unlabeled2017.json")
    data, scores = predicted(source)
    hint = write("coco", data, scores, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["annotations.json", "images"]
    assert (tmp_path / "out" / "images").resolve() == coco / "unlabeled2017"  # a link, so that the readers find them
    assert len(read_annotations(tmp_path / "out" / "annotations.json").records) == len(source)
    assert f"{coco / 'unlabeled2017'}. CVAT" in hint
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert [image["id"] for image in content["images"]] == [record.id for record in source]
    assert [image["file_name"] for image in content["images"]] == [record.path.name for record in source]
    written = np.array([one["score"] for one in content["annotations"]])
    assert np.allclose(written, np.concatenate(scores), atol=1e-4)
    assert content["categories"] == [{"id": one.id, "name": one.name} for one in CATEGORIES]
    assert {one["category_id"] for one in content["annotations"]} == {3, 7, 12}


def test_yolo_has_what_each_tool_looks_for(tmp_path, records):
    data, scores = predicted(records)
    write("yolo", data, scores, tmp_path / "out")
    out = tmp_path / "out"
    names = [category.name for category in CATEGORIES]
    content = yaml.safe_load((out / "data.yaml").read_text())
    assert content == {"train": "images", "names": dict(enumerate(names))}
    # Label Studio's converter, LabelImg and CVAT
    for place in ("classes.txt", "labels/classes.txt", "obj.names"):
        assert (out / place).read_text().splitlines() == names
    settings = dict(line.split(" = ") for line in (out / "obj.data").read_text().splitlines())
    assert settings == {"classes": "4", "train": "train.txt", "names": "obj.names"}
    listed = (out / "train.txt").read_text().splitlines()
    # CVAT's frame is what follows the first folder, and its text file has the image's path but for the suffix
    frames = [line.split("/", 1)[1] for line in listed]
    assert sorted(frames) == sorted(str(file.relative_to(out / "images")) for file in out.rglob("*.[jp][pn]g"))
    assert {"a.jpg", "deep/a.jpg", "deep/a_2.png", "classes_2.png"} < set(frames)
    for line in listed:
        lines = (out / line).with_suffix(".txt").read_text().splitlines()
        assert all(len(text.split(" ")) == 5 for text in lines)


def test_voc_has_what_cvat_looks_for(tmp_path, records):
    data, scores = predicted(records)
    write("voc", data, scores, tmp_path / "out")
    out = tmp_path / "out"
    assert (out / "labelmap.txt").read_text().splitlines() == [f"{one.name}:::" for one in CATEGORIES]
    listed = (out / "ImageSets" / "Main" / "train.txt").read_text().splitlines()
    assert '"deep/er/my photo 1"' in listed
    for name in listed:
        root = ElementTree.parse(out / "Annotations" / f"{name.strip(chr(34))}.xml").getroot()
        assert (out / "JPEGImages" / name.strip('"')).parent.joinpath(root.findtext("filename")).is_file()
        for box in root.iter("bndbox"):
            corners = [int(side.text) for side in box]
            assert 1 <= corners[0] <= corners[2]
            assert 1 <= corners[1] <= corners[3]


def test_a_box_thinner_than_a_pixel_is_one_in_voc(tmp_path, records):
    thin = np.array([[10.1, 20.1, 10.3, 30]], np.float32)
    data = LabeledImages(records[:1], [thin], [np.array([0])], CATEGORIES)
    write("voc", data, [np.array([0.9], np.float32)], tmp_path / "out")
    assert read_labeled(tmp_path / "out").boxes[0].tolist() == [[10, 20, 11, 30]]


def test_label_studio_tasks_are_predictions_in_percent(tmp_path, records):
    data, scores = predicted(records)
    hint = write("label-studio", data, scores, tmp_path / "out")
    assert f"DOCUMENT_ROOT={tmp_path}," in hint
    tasks = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert len(tasks) == len(records)
    for task, record, boxes, labels, own in zip(tasks, records, data.boxes, data.labels, scores, strict=True):
        url = task["data"]["image"]
        assert url.startswith("/data/local-files/?d=source/")
        assert " " not in url
        assert tmp_path / unquote(url.partition("=")[2]) == record.path
        (prediction,) = task["predictions"]
        assert prediction["score"] == pytest.approx(own.mean() if len(own) else 0)
        values = [one["value"] for one in prediction["result"]]
        size = np.array([record.width, record.height] * 2)
        percent = [[value["x"], value["y"], value["width"], value["height"]] for value in values]
        pixels = np.array(percent).reshape(-1, 4) * size / 100
        pixels[:, 2:] += pixels[:, :2]
        assert np.allclose(pixels, boxes, atol=1e-3)
        assert [value["rectanglelabels"] for value in values] == [[CATEGORIES[label].name] for label in labels]
        assert [one["score"] for one in prediction["result"]] == own.tolist()
        for one in prediction["result"]:
            assert (one["original_width"], one["original_height"]) == (record.width, record.height)
            assert (one["type"], one["from_name"], one["to_name"]) == ("rectanglelabels", "label", "image")
    view = ElementTree.parse(tmp_path / "out" / "label_config.xml").getroot()
    assert view.find("Image").attrib == {"name": "image", "value": "$image"}
    assert view.find("RectangleLabels").attrib == {"name": "label", "toName": "image"}
    assert [one.get("value") for one in view.iter("Label")] == [category.name for category in CATEGORIES]


def test_a_data_set_goes_from_format_to_format(tmp_path):
    """COCO to YOLO to VOC to COCO, within a pixel."""
    start = read_labeled(write_coco_published(tmp_path / "start"))
    data = start
    for to in ("yolo", "voc", "coco"):
        write(to, data, [np.ones(len(boxes), np.float32) for boxes in data.boxes], tmp_path / to)
        data = read_labeled(AnnotationSource(tmp_path / to, tmp_path / "voc" / "JPEGImages" if to == "coco" else None))
    assert_read_back(data, start, 0.02)  # whole pixels stay whole
    assert set(CLASSES) <= {category.name for category in data.categories}


@pytest.mark.parametrize("to", ["coco", "yolo", "voc", "label-studio"])
def test_file_names_that_are_no_text_are_written(to, tmp_path):
    """Bytes that are no UTF-8: names of an old archive."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "a.png")
    os.rename(folder / "a.png", os.fsencode(folder) + b"/b\xff\xe9.png")  # noqa: PTH104 (bytes)
    records = read_unlabeled(folder)
    data, scores = predicted(records)
    write(to, data, scores, tmp_path / "out")
    if to == "label-studio":
        assert "images/b%FF%E9.png" in (tmp_path / "out" / "tasks.json").read_text()
    else:
        path = tmp_path / "out" / "annotations.json" if to == "coco" else tmp_path / "out"
        assert len(read_annotations(path).records) == 1
