"""``denseteacher label``: thresholds, counts, and what it refuses, with a detector whose scores are known."""

import json
import re
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import TINY
from denseteacher import load
from denseteacher.data.formats import AnnotationSource, read_labeled
from denseteacher.detectors import DetectorCard, save_detector
from denseteacher.inference.label import label_images
from denseteacher.inference.predictor import Predictor
from denseteacher.recipes.schema import load_recipe
from denseteacher.structures import Detections
from support.published_datasets import write_tar_shards, write_unlabeled


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """A detector file of the classes red, green and blue, not trained."""
    recipe = load_recipe("custom", TINY)
    card = DetectorCard(
        detector=recipe.detector,
        categories=((2, "red"), (5, "green"), (11, "blue")),
        short_side=64,
        max_side=96,
        trained={},
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("detector") / "detector.safetensors"
    save_detector(path, card.detector.build(3).state_dict(), card)
    return path


FOUND = [
    (0.9, 0), (0.8, 1), (0.7, 0), (0.5, 2), (0.45, 1), (0.3, 0), (0.29, 2), (0.06, 1)
]  # fmt: skip
"""Score and label of what is found in each image of more than 62 pixels' height; nothing in the others."""


@pytest.fixture
def known(monkeypatch):
    """In place of the network: boxes with the scores above, side by side."""

    def predict(self, images, *, batch_size=8):
        detections = []
        for image in images:
            found = FOUND if image.shape[0] > 62 else []
            boxes = torch.tensor([[5.0 * place, 2, 5.0 * place + 4, 20] for place in range(len(found))]).reshape(-1, 4)
            scores, labels = torch.tensor([score for score, _ in found]), torch.tensor([label for _, label in found])
            detections.append(Detections(boxes, scores, labels.long()))
        return detections

    monkeypatch.setattr(Predictor, "predict", predict)


@pytest.fixture
def source(tmp_path):
    """Six images, of which the second and fifth are 60 pixels high, so that nothing is found in them."""
    folder = write_unlabeled(tmp_path / "source")
    assert [Image.open(file).height > 62 for file in sorted(folder.iterdir())] == [True, False, True] * 2
    return folder


def labels_of(folder):
    data = read_labeled(AnnotationSource(folder / "annotations.json", folder.parent / "source"))
    return [[data.categories[label].name for label in labels] for labels in data.labels]


def test_scores_top_and_classes_choose(call, detector, known, source, tmp_path):
    base = ["label", detector, source, "--to", "coco", "--output"]
    names = ["red", "green", "blue"]
    for number, (options, kept) in enumerate(
        {
            (): [one for one in FOUND if one[0] >= 0.3],
            ("--score", "0.5"): FOUND[:4],
            ("--score", "0"): FOUND,
            ("--top", "2"): FOUND[:2],
            ("--class-score", "red=0.85", "--class-score", "blue=0"): [FOUND[i] for i in (0, 1, 3, 4, 6)],
            ("--score", "1", "--class-score", "green=0.46", "--top", "9"): [FOUND[1]],
        }.items()
    ):
        code, _, err = call(*base, tmp_path / f"out{number}", *options)
        assert code == 0, err
        expected = [names[label] for _, label in kept]
        assert labels_of(tmp_path / f"out{number}") == [expected, [], expected] * 2


def test_the_table_counts_by_class(call, detector, known, source, tmp_path):
    code, out, _ = call("label", detector, source, "--to", "yolo", "--output", tmp_path / "out")
    assert code == 0
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if "│" in line]
    assert rows == [["red", "4", "12", "0.63"], ["green", "4", "8", "0.62"], ["blue", "4", "4", "0.50"]]
    assert "24 boxes in 6 images" in out
    assert f"2 images without boxes: {source / '000002.png'}, {source / '000005.png'}\n" in out
    assert "label-studio-converter import yolo" in out
    assert (tmp_path / "out" / "labels" / "000002.txt").read_text() == ""


def test_unreadable_images_are_named_and_passed_over(call, detector, known, source, tmp_path):
    whole = (source / "000001.png").read_bytes()
    (source / "000001.png").write_bytes(whole[: len(whole) // 2])
    (source / "000004.png").write_text("no image")
    code, out, err = call("label", detector, source, "--to", "voc", "--output", tmp_path / "out")
    assert code == 1
    assert "000001.png is damaged" in err
    assert "000004.png can't be read as an image" in err
    assert "2 images could not be read; all others are done" in err
    assert "12 boxes in 4 images" in out
    assert len(list((tmp_path / "out" / "JPEGImages").iterdir())) == 4
    for file in source.iterdir():
        file.write_text("no image")
    code, _, err = call("label", detector, source, "--to", "voc", "--output", tmp_path / "none")
    assert code == 2
    assert "none of the images" in err
    assert not (tmp_path / "none").exists()


def test_other_sources_of_images(call, detector, known, tmp_path):
    shards = write_tar_shards(tmp_path / "tar")
    assert call("label", detector, shards, "--to", "label-studio", "--output", tmp_path / "tasks")[0] == 0
    assert len(list((tmp_path / "tasks" / "images").iterdir())) == 6
    assert len(json.loads((tmp_path / "tasks" / "tasks.json").read_text())) == 6
    folder = write_unlabeled(tmp_path / "source")
    (tmp_path / "list.txt").write_text("000003.png\n000001.png\n")
    code, out, _ = call(
        "label", detector, tmp_path / "list.txt", "--images", folder, "--to", "coco", "--output", tmp_path / "out"
    )
    assert code == 0
    assert "12 boxes in 2 images" in out


REFUSED = {
    "output not empty": (["--output", "full"], r"full is not empty: choose another --output; nothing was changed"),
    "output is a file": (["--output", "full/precious.txt"], r"precious\.txt is not empty"),
    "unknown class": (["--class-score", "violet=0.5"], "has no class 'violet'; it has red, green, blue"),
    "no number": (["--class-score", "red=much"], "--class-score takes NAME=SCORE .* not 'red=much'"),
    "no name": (["--class-score", "0.5"], "--class-score takes NAME=SCORE .* not '0.5'"),
    "score above 1": (["--class-score", "red=50"], "a score from 0 to 1"),
    "unknown format": (["--to", "pascal"], "'pascal' is not one of"),
    "no images": (["--source", "full"], "holds no images"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_label_refuses(call, detector, known, source, tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious.txt").write_text("mine")
    given, message = REFUSED[case]
    options = {"--source": source, "--to": "yolo", "--output": "out"} | dict(zip(given[::2], given[1::2], strict=True))
    code, _, err = call(
        "label", detector, options.pop("--source"), *(part for pair in options.items() for part in pair)
    )
    assert code == 2
    assert "Traceback" not in err
    assert re.search(message, " ".join(err.replace("│", " ").split())), err
    assert (tmp_path / "full" / "precious.txt").read_text() == "mine"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("there", [False, True])
def test_an_interrupt_while_writing_leaves_nothing(call, detector, known, source, tmp_path, monkeypatch, there):
    def stopped(*_):
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("denseteacher.data.writers.yolo._lines", stopped)
    if there:
        (tmp_path / "out").mkdir()
    code, _, err = call("label", detector, source, "--to", "yolo", "--output", tmp_path / "out")
    assert (code, err) == (1, "denseteacher: interrupted\n")
    assert not (tmp_path / "out").exists()


def test_a_score_floor_is_a_score(detector, call, coco):
    code, _, err = call("evaluate", detector, "--data", coco, "--score-floor", 5)
    assert (code, err) == (2, "denseteacher: a score floor is at least 0 and below 1, not 5\n")


def test_a_network_that_was_not_replaced_is_the_detector_s_own(detector, source, tmp_path):
    """Scores below the detector's own floor come where they are asked for, and boxes are the predictor's."""
    outcome = label_images(detector, source, tmp_path / "out", to="coco", score=0.001, top=7)
    assert outcome.images == 6
    assert outcome.boxes == 42
    content = json.loads((tmp_path / "out" / "annotations.json").read_text())
    first = [one for one in content["annotations"] if one["image_id"] == 1]
    expected = Predictor.load(detector, score_floor=0.001).predict(sorted(source.iterdir()))[0]
    boxes = expected.boxes[:7].numpy()
    assert np.allclose([one["bbox"] for one in first], np.c_[boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], atol=0.011)
    assert len(load(detector).predict([source / "000001.png"])[0].scores) == 0
