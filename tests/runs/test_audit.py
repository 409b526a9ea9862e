"""``denseteacher audit``: what it writes, says and refuses, with a detector that sees what is there."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from conftest import CATEGORY_IDS
from denseteacher.data.formats import AnnotationSource, read_labeled
from denseteacher.data.images import load_image
from denseteacher.inference.predictor import Predictor
from denseteacher.structures import Detections
from support.finished_runs import trained
from support.published_datasets import write_yolo


@pytest.fixture(scope="module")
def run(tmp_path_factory, coco, unlabeled):
    """A run that was trained on all images of ``coco``."""
    return trained(tmp_path_factory.mktemp("audited") / "run", coco, unlabeled, val=False)


@pytest.fixture
def sees_all(monkeypatch, coco):
    """In place of the network: the boxes that are in the good labels, found by the pixels of their image."""
    data = read_labeled(coco)
    known = [
        (load_image(record).permute(1, 2, 0).numpy(), boxes, labels)
        for record, boxes, labels in zip(data.images, data.boxes, data.labels, strict=True)
    ]

    def predict(self, images, *, batch_size=8):
        detections = []
        for image in images:
            boxes, labels = next((boxes, labels) for pixels, boxes, labels in known if np.array_equal(pixels, image))
            scores = torch.linspace(0.98, 0.95, len(boxes))
            detections.append(Detections(torch.from_numpy(boxes), scores, torch.from_numpy(labels)))
        return detections

    monkeypatch.setattr(Predictor, "predict", predict)


@pytest.fixture
def faulty(coco, tmp_path):
    """The labels of ``coco`` with one fault of each kind, and where each is: kind, image file, annotation."""
    content = json.loads(coco.read_text())
    objects = [one for one in content["annotations"] if not one["iscrowd"]]
    names = {image["id"]: image["file_name"] for image in content["images"]}
    removed, other, loose = objects[4], objects[10], objects[14]
    assert len({one["image_id"] for one in (removed, other, loose)}) == 3
    content["annotations"].remove(removed)
    other["category_id"] = next(id_ for id_ in CATEGORY_IDS if id_ != other["category_id"])
    x, y, width, height = loose["bbox"]
    loose["bbox"] = [x, y, 0.45 * width, height]
    empty = content["images"][2]  # without boxes
    content["annotations"].append(
        {"id": 500, "image_id": empty["id"], "category_id": 5, "bbox": [2, 2, 30, 30], "area": 900, "iscrowd": 0}
    )
    path = tmp_path / "faulty.json"
    path.write_text(json.dumps(content))
    planted = {
        ("missed", names[removed["image_id"]], ""),
        ("other class", names[other["image_id"]], str(other["id"])),
        ("loose box", names[loose["image_id"]], str(loose["id"])),
        ("phantom", empty["file_name"], "500"),
    }
    return path, planted


def rows_of(folder):
    with (folder / "findings.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_planted_faults_are_found_written_and_shown(call, run, coco, faulty, sees_all, tmp_path):
    path, planted = faulty
    images, out = coco.parent / "images", tmp_path / "out"
    code, said, err = call(
        "audit", run, path, "--images", images, "--output", out, "--json", tmp_path / "all.json", "--score", "0.1"
    )
    assert code == 0, err
    rows = rows_of(out)
    assert {(row["kind"], row["image"].rpartition("/")[2], row["annotation"]) for row in rows} == planted
    assert [float(row["score"]) for row in rows] == sorted((float(row["score"]) for row in rows), reverse=True)
    assert "4 cases in 12 images with" in said
    assert "12 of the 12 images are among those that" in err
    page = (out / "audit.html").read_text()
    assert page.count("<figure") == 4
    assert page.count("data:image/jpeg") == 4
    assert "<script" not in page
    assert "has learned their mistakes" in page
    content = json.loads((tmp_path / "all.json").read_text())
    assert content["trained_on"] == 12
    assert len(content["found"]) == 4
    assert content["kinds"] == dict.fromkeys(("missed", "phantom", "other class", "loose box"), 1)


def test_the_draft_goes_back_in_with_what_was_missed(call, run, coco, faulty, sees_all, tmp_path):
    path, _ = faulty
    images, good = coco.parent / "images", json.loads(coco.read_text())
    for to, file in (("coco", "draft/annotations.json"), ("voc", "draft"), ("yolo", "draft")):
        out = tmp_path / to
        code, _, err = call("audit", run, path, "--images", images, "--output", out, "--to", to, "--score", "0.1")
        assert code == 0, err
        data = read_labeled(AnnotationSource(out / file, images if to == "coco" else None))
        assert len(data.images) == 4
        missed = next(row for row in rows_of(out) if row["kind"] == "missed")
        name = missed["image"].rpartition("/")[2]
        (place,) = [place for place, image in enumerate(data.images) if image.path.stem == name.partition(".")[0]]
        wanted = [
            one["bbox"]
            for one in good["annotations"]
            if one["image_id"] == int(missed["image_id"]) and not one["iscrowd"]
        ]
        assert len(data.boxes[place]) == len(wanted)
    tasks = tmp_path / "tasks"
    assert call("audit", run, path, "--images", images, "--output", tasks, "--to", "label-studio")[0] == 0
    assert json.loads((tasks / "draft" / "tasks.json").read_text())[0]["predictions"]


def test_good_labels_leave_nothing_to_doubt(call, run, coco, sees_all, tmp_path):
    code, out, err = call("audit", run, coco, "--output", tmp_path / "out", "--score", "0.2")
    assert code == 0, err
    assert "0 cases in 12 images" in out
    assert rows_of(tmp_path / "out") == []
    assert not (tmp_path / "out" / "draft").exists()


def test_what_is_said_of_what_the_detector_was_trained_on(call, run, coco, sees_all, tmp_path):
    content = json.loads((run / "split.json").read_text())
    shutil.copy(run / "detector.safetensors", tmp_path / "detector.safetensors")
    code, _, err = call("audit", tmp_path / "detector.safetensors", coco, "--output", tmp_path / "a")
    assert code == 0
    assert "not known, since it is not in a run folder" in err
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    text = (moved / "recipe.yaml").read_text()
    (moved / "recipe.yaml").write_text(text.replace(str(coco), str(tmp_path / "gone.json")))
    code, _, err = call("audit", moved, coco, "--output", tmp_path / "b")
    assert code == 0
    assert "can't be told (there is no" in err
    half = {"labeled_ids": content["labeled_ids"][:5], "unlabeled_ids": content["labeled_ids"][5:]}
    shutil.copy(run / "recipe.yaml", moved / "recipe.yaml")
    (moved / "split.json").write_text(json.dumps(content | half))
    code, _, err = call("audit", moved, coco, "--output", tmp_path / "c")
    assert code == 0
    assert "5 of the 12 images are among those" in err


def test_unreadable_images_are_named_and_passed_over(call, run, faulty, coco, sees_all, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(coco.parent / "images", images)
    (images / "001.png").write_bytes(b"no image")
    code, out, err = call("audit", run, faulty[0], "--images", images, "--output", tmp_path / "out")
    assert code == 1
    assert "001.png can't be read as an image" in err
    assert "in 11 images" in out
    for file in images.iterdir():
        file.write_bytes(b"no image")
    code, _, err = call("audit", run, faulty[0], "--images", images, "--output", tmp_path / "none")
    assert code == 2
    assert "none of the images of" in err
    assert not (tmp_path / "none").exists()


def test_bad_input_is_one_sentence(call, run, coco, tmp_path):
    full = tmp_path / "full"
    full.mkdir()
    (full / "precious.txt").write_text("mine")
    other = write_yolo(tmp_path / "other")
    cases = [
        ((run, coco, "--output", full), "full is not empty: choose another --output; nothing was changed"),
        ((run, tmp_path / "gone.json"), "there is no annotation file or folder"),
        ((tmp_path, coco), "it is not a finished run of denseteacher"),
        ((run, other), "has other categories than the detector"),
        ((run, coco, "--score", "2"), "--score"),
        ((run, coco, "--images", full), "is in none of"),
    ]
    for arguments, sentence in cases:
        output = () if "--output" in arguments else ("--output", tmp_path / "out")
        code, _, err = call("audit", *arguments, *output)
        assert code == 2, arguments
        assert sentence in " ".join(err.split())
        assert "Traceback" not in err
    assert (full / "precious.txt").read_text() == "mine"
    assert not (tmp_path / "out").exists()
