"""``predict --score auto``: from the evaluation at a run's end to the boxes that are drawn."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from denseteacher.detectors import BestScores, DetectorCard, add_best_scores, load_detector
from denseteacher.errors import InputError
from denseteacher.evaluation.evaluator import Evaluator
from denseteacher.evaluation.metrics import measure
from denseteacher.inference.onnx_card import read_card
from support.finished_runs import random_results, trained


@pytest.fixture(scope="module")
def run(tmp_path_factory, coco, unlabeled):
    """A run of eight steps whose evaluations say what a much better detector finds."""

    def evaluate(self, *_):
        results = random_results(self.ground_truth, np.random.default_rng(0), missed=0.2)
        return measure(self.ground_truth, results), results

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "__call__", evaluate)
        return trained(tmp_path_factory.mktemp("scores") / "run", coco, unlabeled)


@pytest.fixture
def detector(run, tmp_path):
    """A copy of its detector."""
    return Path(shutil.copy(run / "detector.safetensors", tmp_path))


def predict(call, detector, unlabeled, output, score):
    return call("predict", detector, unlabeled, "--output", output, "--score", score)


def test_a_run_says_where_to_cut_and_predict_cuts_there(call, run, unlabeled, tmp_path):
    evaluation = json.loads((run / "evaluation.json").read_text())
    best = {one["name"]: one["best"]["score"] for one in evaluation["classes"]}
    assert set(evaluation["best"]) == {"score", "f1", "precision", "recall"}
    _, card = load_detector(run / "detector.safetensors")
    assert card.best_scores.by_class == pytest.approx(list(best.values()))
    assert card.best_scores.overall == evaluation["best"]["score"]
    assert all(
        (run / f"{name}_curve.png").read_bytes().startswith(b"\x89PNG") for name in ("f1", "recall", "precision")
    )
    assert (run / "labels.png").read_bytes().startswith(b"\x89PNG")
    page = (run / "report.html").read_text()
    assert "F1 against score threshold" in page
    assert f"Scores above {evaluation['best']['score']:.2f} give the best F1" in page
    code, out, err = predict(call, run, unlabeled, tmp_path / "found", "auto")
    assert code == 0, err
    assert f"Drawn: red above {best['red']:.2f}, green above {best['green']:.2f}" in out


def test_each_class_is_cut_at_its_own_score(call, detector, unlabeled, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "denseteacher.inference.predict.draw_detections",
        lambda image, _, __, score_floor: drawn.append(score_floor) or image,
    )
    add_best_scores(detector, BestScores(overall=0.25, classes=(0.5, None, 0.75)))
    assert predict(call, detector, unlabeled, tmp_path / "found", "auto")[0] == 0
    assert drawn[0].tolist() == [0.5, 0.25, 0.75]
    assert predict(call, detector, unlabeled, tmp_path / "again", "0.5")[0] == 0
    assert drawn[-1].tolist() == [0.5] * 3


def test_a_detector_without_best_scores_says_so(call, run, unlabeled, tmp_path):
    code, _, err = predict(call, run / "last_teacher.safetensors", unlabeled, tmp_path / "found", "auto")
    assert code == 2
    assert "last_teacher.safetensors has no best scores for --score auto" in err
    assert not (tmp_path / "found").exists()
    for wrong in ("none", "1.5", "-1", "nan"):
        code, _, err = predict(call, run, unlabeled, tmp_path / "found", f"{wrong}")
        assert code == 2
        assert "--score" in err


def test_scores_of_other_classes_are_refused_and_damage_is_not_covered(detector):
    with pytest.raises(InputError, match="best_scores are of 1 classes, not 3"):
        add_best_scores(detector, BestScores(overall=0.5, classes=(0.5,)))
    content = bytearray(detector.read_bytes())
    content[-1] ^= 1
    detector.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        add_best_scores(detector, BestScores(overall=0.5, classes=(0.5, 0.5, 0.5)))


def test_files_of_versions_without_best_scores_still_load(run):
    _, card = load_detector(run / "last_teacher.safetensors")
    content = card.model_dump(mode="json")
    del content["best_scores"]
    assert DetectorCard.model_validate(content).best_scores is None
    content = {
        "version": "1",
        "categories": [[1, "red"], [2, "green"]],
        "short_side": 64,
        "max_side": 96,
        "multiple": 32,
        "score_floor": 0.05,
        "nms": True,
        "trained": {},
    }
    assert read_card("old.onnx", json.dumps(content), None).best_scores is None
    assert read_card("new.onnx", json.dumps(content | {"best_scores": [0.5, 0.25]}), None).best_scores == [0.5, 0.25]
    for wrong in ([0.5, 2.0], "0.5", [True, "a"], {}):
        with pytest.raises(InputError, match="best_scores"):
            read_card("odd.onnx", json.dumps(content | {"best_scores": wrong}), None)
