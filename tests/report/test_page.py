"""The report: one file that needs nothing else, and shows what it is meant to show."""

import csv
import json
import re
import shutil
import xml.etree.ElementTree as ET
from typing import get_args

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from PIL import Image

import denseteacher
from conftest import TINY
from denseteacher.detectors import FCOS, RetinaNet
from denseteacher.evaluation.summary import ClassScore, RunEvaluation
from denseteacher.methods import MethodConfig
from denseteacher.report.charts import loss_charts, optimizer_charts, pseudo_label_charts
from denseteacher.report.curves import ShownRun
from denseteacher.report.gallery import PageBox, page_picture
from denseteacher.report.label_charts import few_to_many
from denseteacher.report.page import class_table
from denseteacher.runs.evaluate import read_evaluation
from denseteacher.runs.folder import RunFolder
from denseteacher.training.metrics_log import metric_series, smooth
from denseteacher.visualization.heatmap import score_map
from support import semi_batch
from support.finished_runs import trained, with_detections


@pytest.fixture(scope="module")
def run(tmp_path_factory, coco, unlabeled):
    return with_detections(trained(tmp_path_factory.mktemp("report") / "run", coco, unlabeled))


@pytest.fixture(scope="module")
def page(run):
    return (run / "report.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_outside(page):
    sources = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "<script src" not in page
    assert not re.search(r"@import|url\((?!#)", page)
    assert "://" not in page.replace("http://www.w3.org", "")  # names of SVG and its links
    assert "default-src 'none'" in page


@pytest.mark.parametrize(
    "text",
    [
        "teacher", "student", "AP50", "ground truth", "dense pseudo-label", "strong view", "teacher&#39;s scores",
        "Worst mistakes", "Precision against recall", "Confusion", "burn-in ends", "Losses on unlabeled images",
        "Locations learned from", "red", "ratio:", "Versions and machine", 'aria-label="AP on the validation images',
    ],
)  # fmt: skip
def test_it_shows(page, text):
    assert text in page


def test_every_picture_has_a_text_instead(page):
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) > 30
    assert all(re.search(r' alt="[^"]+"', image) or 'class="layer"' in image for image in images)
    assert all("aria-label" in svg or "aria-hidden" in svg for svg in re.findall(r"<svg [^>]*>", page))


def test_the_run_folder_has_what_users_of_other_trainers_expect(run):
    for name in ("recipe.yaml", "detector.safetensors", "last_teacher.safetensors", "detections.json"):
        assert (run / name).is_file()
    for name in ("pr_curve.png", "confusion_matrix.png"):
        assert (run / name).read_bytes().startswith(b"\x89PNG")
    card = json.loads((run / "evaluation.json").read_text())
    with (run / "per_class.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [one["name"] for one in card["classes"]] == ["red", "green", "blue"]
    assert float(rows[0]["AP"]) == card["classes"][0]["scores"]["AP"]
    assert sum(int(row["objects"]) for row in rows) == sum(
        one.objects for one in read_evaluation(RunFolder(run)).classes
    )


def test_a_run_evaluates_the_detector_it_leaves(tmp_path, coco, unlabeled):
    run = trained(tmp_path / "run", coco, unlabeled)
    found = denseteacher.evaluate(run, data=coco)
    card = read_evaluation(RunFolder(run))
    assert card.metrics["AP"] == pytest.approx(found.metrics.values["AP"])  # the same batches by the same operators
    assert card.images == 12
    assert len(json.loads((run / "detections.json").read_text())) == len(found.results)


def test_without_validation_images_their_parts_are_left_out(tmp_path, coco, unlabeled):
    run = trained(tmp_path / "run", coco, unlabeled, val=False)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "dense pseudo-label" in page
    assert "Worst mistakes" not in page
    assert not {"evaluation.json", "per_class.csv", "pr_curve.png"} & {file.name for file in run.iterdir()}


@pytest.mark.parametrize(
    ("method", "text"),
    [("unbiased_teacher", "pseudo-boxes"), ("csd", "teacher&#39;s detections"), ("supervised", "sup")],
)
def test_every_kind_of_method_has_a_report(tmp_path, coco, unlabeled, method, text):
    overrides = [*TINY, f"method.name={method}", "schedule.max_steps=4"]
    if method != "supervised":
        overrides += ["method.burn_in=1", "method.ramp=1"]
    denseteacher.train("custom", labeled=coco, unlabeled=unlabeled, output=tmp_path / "run", overrides=overrides)
    assert text in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_class_names_are_shown_as_they_are(tmp_path, coco, unlabeled):
    """A run ends well whatever its classes are called: not markup, neither matplotlib's nor the page's."""
    names = ["$^$", r"$\frac$", "<b>"]
    content = json.loads(coco.read_text())
    for category, name in zip(content["categories"], names, strict=True):
        category["name"] = name
    shutil.copytree(coco.parent, tmp_path / "data")
    file = tmp_path / "data" / coco.name
    file.write_text(json.dumps(content))
    run = with_detections(trained(tmp_path / "run", file, unlabeled))
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "<b>" not in page
    for name in ("$^$", r"$\frac$", "&lt;b&gt;"):
        assert page.count(f">{name}</text>") >= 2  # both sides of the confusion matrix
        assert f"<td>{name}</td>" in page
    assert (run / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_that_can_not_be_written_names_no_picture_as_the_reason_to_stop(tmp_path, coco, unlabeled, recwarn):
    run = tmp_path / "run"
    run.mkdir()
    original = denseteacher.runs.build.evaluate_run

    def with_obstacle(folder, *arguments, **options):
        folder.pr_curve.mkdir()
        original(folder, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denseteacher.runs.build, "evaluate_run", with_obstacle)
        trained(run, coco, unlabeled)
    assert (run / "report.html").is_file()
    assert any("can't be written" in str(one.message) for one in recwarn)


def _evaluation(digest, *ap):
    scores = [ClassScore(name, 3, {"AP": value, "AP50": 50.0}) for name, value in zip("ab", ap, strict=True)]
    return RunEvaluation(8, "val.json", digest, 4, {}, scores)


def test_gains_are_over_the_first_run():
    runs = [
        ShownRun("base", [], None, _evaluation("x", 10.0, None)),
        ShownRun("new", [], None, _evaluation("x", 14.0, 5.0)),
    ]
    heads, rows = class_table(runs)
    assert heads == ["objects", "AP, base", "AP, new", "gain", "AP50"]
    assert [(name, [cell.value for cell in cells]) for name, cells in rows] == [
        ("a", [3, 10.0, 14.0, 4.0, 50.0]),
        ("b", [3, None, 5.0, None, 50.0]),
    ]
    heads, rows = class_table(runs, comparable=False)
    assert heads == ["objects", "AP", "AP50"]
    assert class_table([ShownRun("old", [])]) == ([], [])


def test_charts_take_whatever_a_method_watches():
    rows = [{"step": step, "sup/cls": 1.0, "unsup/cls": 2.0, "my/number": step, "lr": 0.1} for step in range(5)]
    one = [ShownRun("one", rows)]
    assert [chart.title for chart in loss_charts(one)] == ["Losses on labeled images", "Losses on unlabeled images"]
    assert [chart.title for chart in pseudo_label_charts(one)] == ["my/number"]
    assert [chart.title for chart in optimizer_charts(one)] == ["Learning rate"]
    both = loss_charts([*one, ShownRun("labels alone", [{"step": 0, "sup/cls": 1.0}, {"step": 4, "sup/cls": 0.5}])])
    assert [len(chart.lines) for chart in both] == [2, 0]  # a single line needs no legend
    for chart in (*loss_charts(one), *both):
        ET.fromstring(chart.svg)


def test_a_text_ends_in_its_picture():
    boxes = [PageBox(x, 30, 40, 40, text, "detection", 1.0) for x in (-5, 10, 195) for text in ("cat", "cell 0.93")]
    picture = page_picture("", Image.new("RGB", (200, 100)), boxes)
    assert [box.text for box in picture.boxes] == [box.text for box in boxes]
    for box in picture.boxes:
        assert 0 < box.place[0] <= 200 - 0.6 * picture.text_size * len(box.text)
    assert len({box.place for box in picture.boxes}) == len(boxes)
    long = page_picture("", Image.new("RGB", (200, 100)), [boxes[0]._replace(text="of a long name" * 9)])
    assert long.boxes[0].place[0] > 0  # its beginning is what can be read


@pytest.mark.parametrize("config", get_args(get_args(MethodConfig)[0]))
def test_what_methods_watch_has_a_title(config):
    torch.manual_seed(0)
    detector = FCOS(num_classes=3, backbone="test_byobnet", levels=(3, 5), channels=16, head_convs=1)
    given = {name: value for name, value in {"burn_in": 0, "ratio": 0.1}.items() if name in config.model_fields}
    watched = config(**given).losses(detector, detector, semi_batch(), 20).metrics
    rows = [{"step": step, **dict.fromkeys(watched, 1.0)} for step in (1, 2)]
    charts = pseudo_label_charts([ShownRun("one", rows)])
    assert len(charts) == sum(not name.startswith("labeled/") for name in watched)
    assert [chart.title for chart in charts if "/" in chart.title] == []


@pytest.mark.parametrize("card", ["#ffffff", "#1d2329"])  # --card of page.css
def test_few_and_many_stand_out_from_light_and_dark_cards(card):
    colors = np.vstack([few_to_many()(np.linspace(0, 1, 256))[:, :3], to_rgb(card)])
    light = np.where(colors <= 0.03928, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
    pairs = np.sort(np.stack([light[:-1], np.full(256, light[-1])]), axis=0) + 0.05
    assert (pairs[1] / pairs[0]).min() >= 3  # WCAG 1.4.11


def test_curves_take_their_rows_from_the_log():
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "AP": 5.0}, {"step": 3, "loss": None}, {"step": 4, "loss": 1.0}]
    assert metric_series(rows, "loss") == ([1, 4], [2.0, 1.0])
    assert smooth([0.0, 3.0, 6.0], window=3) == [1.5, 3.0, 4.5]


@pytest.mark.parametrize("detector", [FCOS, RetinaNet])
def test_values_are_shown_around_their_locations(detector):
    detector = detector(num_classes=1, backbone="test_byobnet", levels=(3, 5), channels=16)
    anchors = detector.anchors((64, 64), torch.device("cpu"))
    counts = [64, 16, 4]
    values = torch.zeros(sum(counts), len(anchors) // sum(counts))
    values[9, -1] = 0.5  # stride 8: second row and column, at (8, 8)
    values[64 + 16 + 3, 0] = 0.25  # stride 32: second row and column, at (32, 32)
    expected = np.zeros((50, 64), dtype=np.float32)
    expected[16:, 16:] = 0.25
    expected[4:12, 4:12] = 0.5
    found = score_map(values.flatten(), anchors, detector.shapes((64, 64)), detector.strides, (50, 64))
    assert np.array_equal(found, expected)


def test_large_pictures_are_reduced_with_their_boxes():
    box = PageBox(100, 200, 400, 300, "cat 0.90", "detection", 0.9)
    picture = page_picture("a cat", Image.new("RGB", (1440, 960)), [box, box])
    assert (picture.width, picture.height) == (720, 480)
    first, second = picture.boxes
    assert (first.x, first.y, first.width, first.height) == (50, 100, 200, 150)
    assert second.place[1] >= first.place[1] + picture.text_size  # not one text over the other
    small = page_picture("a digit", Image.new("RGB", (96, 96)), [box])
    assert (small.width, small.boxes[0].x) == (96, 100)
