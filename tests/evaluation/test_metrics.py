"""What recipe and command line ask for comes back under its names."""

import json
import math

import pytest

from denseteacher import api
from denseteacher.errors import InputError
from denseteacher.evaluation.metrics import check_metrics, fitting_metrics, measure
from denseteacher.evaluation.miss_rate import log_average_miss_rate
from denseteacher.experiments.plan import make_run
from denseteacher.recipes.schema import load_recipe
from support.random_coco import random_scene

VOC, CROWDHUMAN = ["VOC07 AP50", "VOC AP50"], ["mMR", "CrowdHuman AP", "CrowdHuman recall"]


def test_metrics_are_merged():
    truth, results = random_scene(1, classes=1)
    coco = measure(truth, results)
    assert [key for key in coco.values if key not in ("AP50", "AP75")][:2] == ["AP", "APs"]
    everything = measure(truth, results, ("crowdhuman", "voc"))
    assert list(everything.values) == [*coco.values, *VOC, *CROWDHUMAN]
    assert everything.values["AP"] == coco.values["AP"]
    (name,) = coco.per_class
    assert coco.per_class[name] == {"AP": coco.values["AP"], "AP50": coco.values["AP50"]}
    assert list(everything.per_class[name]) == ["AP", "AP50", *VOC, *CROWDHUMAN]
    assert {type(value) for value in everything.values.values()} == {float}


def test_what_fits_a_data_set():
    plain = {"annotations": [{"bbox": [0, 0, 1, 1]}]}
    assert fitting_metrics(plain) == fitting_metrics(plain, "coco") == ("coco",)
    assert fitting_metrics(plain, "crowdhuman") == ("coco", "crowdhuman")
    assert fitting_metrics({"annotations": [*plain["annotations"], {"difficult": 0}]}) == ("coco", "voc")


def test_several_classes_are_averaged():
    truth, results = random_scene(1)
    found = measure(truth, results, ("voc", "crowdhuman"))
    for key in (*VOC, *CROWDHUMAN):
        column = [row[key] for row in found.per_class.values()]
        assert math.isnan(column.pop())  # the last class has no objects
        assert found.values[key] == pytest.approx(sum(column) / 3)
    first = truth["categories"][0]
    alone = log_average_miss_rate(truth | {"categories": [first]}, results)
    assert found.per_class[first["name"]]["mMR"] == alone.mMR


def test_an_unknown_metric_is_said_before_anything_is_detected():
    check_metrics(["coco", "voc", "crowdhuman"])
    with pytest.raises(InputError, match="there is no metric 'lvis': use coco, voc, crowdhuman"):
        check_metrics(["lvis"])


def test_recipes_ask_for_their_metrics():
    assert load_recipe("coco_standard").evaluation.metrics == ("coco",)
    assert load_recipe("voc").evaluation.metrics == ("coco", "voc")
    assert load_recipe("crowdhuman").evaluation.metrics == ("coco", "crowdhuman")
    with pytest.raises(InputError, match=r"evaluation\.metrics"):
        load_recipe("voc", ["evaluation.metrics=[pascal]"])
    # measuring more makes no other run of it: older ones go on, and share their burn-in
    changed = load_recipe("digits", ["evaluation.metrics=[coco, voc]"])
    assert make_run(changed, "").name == make_run(load_recipe("digits"), "").name


@pytest.fixture(scope="module")
def detector(coco, tmp_path_factory):
    """A run that was evaluated with VOC's metrics, and its data with a difficult object."""
    from conftest import TINY

    folder = tmp_path_factory.mktemp("metrics")
    content = json.loads(coco.read_text())
    for number, annotation in enumerate(content["annotations"]):
        annotation["difficult"] = number % 2
    data = folder / "difficult.json"
    data.write_text(json.dumps(content))
    overrides = [*TINY, "method.name=supervised", "schedule.max_steps=4", "evaluation.metrics=[coco, voc]"]
    images = coco.parent / "images"
    api.train("custom", labeled=data, images=images, val=data, output=folder / "run", overrides=overrides)
    return folder / "run", data, images


def test_a_run_logs_them(detector):
    rows = [json.loads(line) for line in (detector[0] / "metrics.jsonl").read_text().splitlines()]
    evaluation = next(row for row in rows if "teacher/AP" in row)
    for role in ("teacher", "student"):
        assert all(0 <= evaluation[f"{role}/{key}"] <= 100 for key in VOC)


def test_evaluate_prints_and_writes_them(call, detector, tmp_path):
    run, data, images = detector
    code, out, err = call("evaluate", run, "--data", data, "--images", images, "--json", tmp_path / "out.json")
    assert code == 0, err
    assert "VOC07 AP50" in out  # since objects have a difficult flag
    assert all(name in out for name in ("By class", "red", "green", "blue"))
    content = json.loads((tmp_path / "out.json").read_text())
    assert set(VOC) < set(content["metrics"])
    assert set(content["per_class"]["red"]) == {"AP", "AP50", *VOC}

    code, out, _ = call("evaluate", run, "--data", data, "--images", images, "--metric", "coco")
    assert code == 0
    assert "VOC07" not in out


def test_evaluate_refuses_what_it_can_not_measure(call, detector):
    run, data, images = detector
    code, _, err = call("evaluate", run, "--data", data, "--images", images, "--metric", "lvis")
    assert code == 2
    assert "there is no metric 'lvis': use coco, voc, crowdhuman" in err
    assert "Traceback" not in err


def test_a_long_list_of_classes_is_cut(capsys):
    from denseteacher.cli.detectors import _print_metrics
    from denseteacher.evaluation.metrics import Metrics

    metrics = Metrics(
        {"AP": 1.0}, {f"class-{number:02d}": {"AP": 2.0, "AP50": math.nan} for number in range(40)}, "faster"
    )
    _print_metrics("mine", metrics, all_classes=False)
    out = capsys.readouterr().out
    assert "class-29" in out
    assert "class-30" not in out
    assert "30 of 40 classes; --classes shows all" in out
    _print_metrics("mine", metrics, all_classes=True)
    assert "class-39" in capsys.readouterr().out
