"""``train --baseline``: two halves, one burn-in, one sentence; however often it is stopped."""

import json
import re
import shutil
import signal

import numpy as np
import pytest

import denseteacher
from conftest import TINY
from denseteacher.data.open import open_data
from denseteacher.errors import InputError
from denseteacher.evaluation.gain import (
    BestTeacher,
    ClassGain,
    UnlabeledGain,
    by_falling_gain,
    read_gain,
    write_gain,
)
from denseteacher.recipes.schema import load_recipe
from denseteacher.report.charts import gain_chart
from denseteacher.runs.baseline import measure_gain
from denseteacher.runs.evaluate import read_detections, read_evaluation
from denseteacher.runs.folder import RunFolder
from denseteacher.runs.report import report_run
from denseteacher.training.metrics_log import read_metrics
from denseteacher.training.step_reports import StepReports
from denseteacher.training.student_teacher import StudentTeacher
from support import TIMING, assert_same, last_state
from support.finished_runs import with_detections

SHORT = [*TINY, "method.burn_in=3", "method.ramp=1", "schedule.evaluate_every=4"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, coco, unlabeled):
    """A run with its baseline, trained without a stop."""
    return denseteacher.train(
        "custom",
        labeled=coco,
        unlabeled=unlabeled,
        val=coco,
        output=tmp_path_factory.mktemp("whole") / "run",
        overrides=SHORT,
        baseline=True,
    )


def rows(folder):
    return [{k: v for k, v in row.items() if k not in TIMING} for row in read_metrics(folder / "metrics.jsonl")]


def state(folder):
    """Of the last checkpoint, without AP of sizes that no object has: nan differs from itself."""
    return {key: value for key, value in last_state(folder).items() if key != "metrics"}


def stop_in(monkeypatch, folder, step):
    """A signal once so many steps of the half in this folder have been reported."""
    original = StepReports.after_step

    def after_step(reports, *arguments):
        original(reports, *arguments)
        if reports.log.path.parent.name == folder and reports.step == step:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(StepReports, "after_step", after_step)


def test_the_baseline_is_a_supervised_run_from_the_same_burn_in(whole, coco, unlabeled, tmp_path):
    other = denseteacher.train(
        "custom",
        labeled=coco,
        unlabeled=unlabeled,
        val=coco,
        output=tmp_path / "supervised",
        overrides=[*TINY, "schedule.evaluate_every=4", "method.name=supervised"],
        burn_in_from=whole.folder,
    )
    folder = whole.folder / "baseline"
    assert whole.baseline.folder == folder
    assert whole.step == whole.baseline.step == 8
    assert rows(folder) == rows(other.folder)
    assert_same(state(folder), state(other.folder))
    assert rows(folder)[:3] == rows(whole.folder)[:3]  # the burn-in
    assert rows(folder)[4:] != rows(whole.folder)[4:]
    assert (folder / "split.json").read_bytes() == (whole.folder / "split.json").read_bytes()
    assert load_recipe(folder / "recipe.yaml").method.name == "supervised"


def test_stopped_in_both_halves_it_becomes_the_same(call, whole, coco, unlabeled, tmp_path, monkeypatch):
    sets = [part for override in SHORT for part in ("--set", override)]
    train = ["train", "custom", "--labeled", coco, "--unlabeled", unlabeled, "--val", coco, "--baseline", *sets]
    train += ["--output", tmp_path / "run"]
    for folder, step, resume in (("run", 5, []), ("baseline", 6, ["--resume"])):
        with monkeypatch.context() as patch:
            stop_in(patch, folder, step)
            code, _, err = call(*train, *resume)
        assert code == 1
        assert f"stopped by SIGTERM after step {step}{' of the baseline' * (folder == 'baseline')}, all is saved" in err
        assert f"--resume --baseline --output {tmp_path / 'run'}" in err
        assert not (tmp_path / "run" / "baseline.json").exists()

    trained = []
    original = StudentTeacher.train_step
    monkeypatch.setattr(
        StudentTeacher, "train_step", lambda own, loaded: trained.append(own.step) or original(own, loaded)
    )
    report = (tmp_path / "run" / "evaluation.json").stat().st_mtime_ns
    code, out, err = call(*train, "--resume")
    assert code == 0, err
    assert trained == [6, 7]  # of the baseline; the run itself is finished
    assert (tmp_path / "run" / "evaluation.json").stat().st_mtime_ns == report
    for half in ("", "baseline"):
        assert rows(tmp_path / "run" / half) == rows(whole.folder / half)
        assert_same(state(tmp_path / "run" / half), state(whole.folder / half))
    assert read_gain(tmp_path / "run" / "baseline.json") == whole.gain == read_gain(whole.folder / "baseline.json")
    assert whole.gain.sentence in out
    assert "baseline" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give --val PATH"),
        (["--val", "val.json", "--set", "method.name=supervised"], "method 'supervised' has no burn-in"),
    ],
)
def test_without_something_to_compare_it_is_refused_at_once(call, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call("train", "custom", "--labeled", "labeled.json", "--baseline", *options)
    assert code == 2
    assert err.count("\n") == 1
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_compare_takes_both_halves(call, whole):
    code, out, err = call("compare", whole.folder / "baseline", whole.folder)
    assert code == 0, err
    assert "method.name" in out
    assert "do not compare" not in out


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole.folder, tmp_path / "run")


@pytest.mark.parametrize(("missed", "word"), [((0.6, 0.0), "+"), ((0.0, 0.6), "-")])
def test_the_report_begins_with_what_the_unlabeled_images_were_worth(copy, missed, word):
    for folder, share in zip((copy / "baseline", copy), missed, strict=True):
        with_detections(folder, missed=share)
    recipe = load_recipe(copy / "recipe.yaml")
    data = open_data(recipe.data)
    gain = measure_gain(RunFolder(copy), data)
    write_gain(copy / "baseline.json", gain)
    report_run(RunFolder(copy), recipe, data)

    without, with_ = read_evaluation(RunFolder(copy).baseline), read_evaluation(RunFolder(copy))
    assert gain.gain == pytest.approx(with_.metrics["AP"] - without.metrics["AP"])
    assert (gain.gain > 0) == (word == "+")
    page = (copy / "report.html").read_text(encoding="utf-8")
    begin = rf'<p class="summary">The 6 unlabeled images were worth \{word}{abs(gain.gain):.1f} AP'
    assert re.search(begin, page)
    assert page.index(gain.sentence) < page.index('<section id="gain">') < page.index('<section id="result">')
    assert gain.interval[0] <= gain.gain <= gain.interval[1]

    content = json.loads((copy / "baseline.json").read_text())
    assert content["sentence"] == gain.sentence
    truth = data.validation.ground_truth
    for one in content["classes"]:
        category = next(category["id"] for category in truth["categories"] if category["name"] == one["name"])
        boxes = [box for box in truth["annotations"] if box["category_id"] == category and not box["iscrowd"]]
        assert one["labeled_boxes"] == len(boxes)  # the same file is trained and evaluated on
        scores = [
            next(row.scores["AP"] for row in found.classes if row.name == one["name"]) for found in (without, with_)
        ]
        assert [one["AP_without"], one["AP_with"]] == scores
        assert one["gain"] == pytest.approx(scores[1] - scores[0])
        assert f"<td>{one['name']}</td>" in page
    gains = [one["gain"] for one in content["classes"]]
    assert gains == sorted(gains, reverse=True)


def test_the_interval_is_that_of_the_gain(copy):
    for folder in (copy / "baseline", copy):
        with_detections(folder, missed=0.3)  # the same detections
    gain = measure_gain(RunFolder(copy), open_data(load_recipe(copy / "recipe.yaml").data))
    assert read_detections(RunFolder(copy)) == read_detections(RunFolder(copy).baseline)
    np.testing.assert_array_equal(gain.interval, [0, 0])  # what is hard in an image is hard for both
    assert "worth nothing" in gain.sentence


def test_other_validation_images_are_not_compared(copy):
    file = copy / "baseline" / "evaluation.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"digest": "other"}))
    with pytest.raises(InputError, match=r"has changed since the run in .* was evaluated"):
        measure_gain(RunFolder(copy), open_data(load_recipe(copy / "recipe.yaml").data))


def worth(before, after, interval=(-0.4, 5.2)):
    classes = [ClassGain("cat", 5, 10.0, 9.0), ClassGain("cow", 0, None, None), ClassGain("dog", 7, 20.0, 24.5)]
    halves = (BestTeacher(40, one, 60.0, 80, one - 1) for one in (before, after))
    return UnlabeledGain(20, 4000, 171, *halves, by_falling_gain(classes), interval, 0 if interval is None else 1000)


def test_the_answer_in_words():
    gain = worth(38.1, 41.2)
    assert gain.sentence == (
        "The 4,000 unlabeled images were worth +3.1 AP over the same detector without them: 41.2 instead of 38.1."
    )
    assert gain.certainty == (
        "It lies between -0.4 and +5.2 in 95 of 100 resamplings of the 171 validation images, so it may be chance of "
        "these images."
    )
    assert "chance" not in worth(38.1, 41.2, (0.8, 5.2)).certainty
    assert "were worth -1.2 AP: the same detector is better without them, 38.1 AP instead of 36.9" in (
        worth(38.1, 36.9).sentence
    )
    assert "worth nothing: the same detector reaches 38.1 AP without them" in worth(38.1, 38.11).sentence
    assert "was not measured" in worth(38.1, 41.2, None).certainty
    assert [one.name for one in gain.classes] == ["dog", "cat", "cow"]
    assert gain_chart(gain).svg.count("dog") == 1
    assert gain_chart(gain._replace(classes=[ClassGain("cow", 0, None, None)])) is None


def test_the_file_is_the_answer(tmp_path):
    for interval in ((-0.4, 5.2), None):
        write_gain(tmp_path / "gain.json", worth(38.1, 41.2, interval))
        assert read_gain(tmp_path / "gain.json") == worth(38.1, 41.2, interval)
    assert read_gain(tmp_path / "elsewhere") is None
