"""The report: one file that needs nothing else, and pictures that show what they say."""

import re

import numpy as np
import pytest
import torch

import denseteacher
from denseteacher.report.figures import curve_figure, metric_series, richness_map, smooth


@pytest.fixture(scope="module")
def page(tmp_path_factory, coco, unlabeled):
    from conftest import TINY

    run = tmp_path_factory.mktemp("report") / "run"
    overrides = [*TINY, "method.burn_in=2", "method.ramp=1", "schedule.evaluate_every=4"]
    denseteacher.train("custom", labeled=coco, unlabeled=unlabeled, val=coco, output=run, overrides=overrides)
    return (run / "report.html").read_text()


def test_nothing_is_loaded_from_outside(page):
    sources = re.findall(r"""(?:src|href)=["']([^"']+)""", page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert "<script" not in page
    assert not re.search(r"@import|url\((?!#)", page)


def test_it_shows_numbers_curves_detections_and_dense_labels(page):
    for text in ("teacher", "student", "AP50", "ground truth", "dense pseudo-label", "dense_teacher", "ratio:"):
        assert text in page
    assert page.count("<svg") >= 3
    assert page.count("data:image/jpeg") >= 8 * 2


def test_captions_are_escaped():
    svg = curve_figure({"a & b": ([1, 2], [0.5, 1.0])}, title="x < y", ylabel="AP")
    assert svg.startswith("<svg")
    assert "x < y" not in svg.replace("<!-- x < y -->", "")


def test_curves_take_their_rows_from_the_log():
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "AP": 5.0}, {"step": 3, "loss": None}, {"step": 4, "loss": 1.0}]
    assert metric_series(rows, "loss") == ([1, 4], [2.0, 1.0])
    assert smooth([0.0, 3.0, 6.0], window=3) == [1.5, 3.0, 4.5]


@pytest.mark.parametrize("anchors", [1, 3])
def test_the_richness_map_puts_values_where_their_locations_are(anchors):
    # two levels of a 16 x 24 image: strides 8 and 16
    values = torch.zeros(8, anchors)
    values[4, -1] = 0.5  # stride 8, second row, second column
    values[7, 0] = 0.25  # stride 16, second column
    expected = np.zeros((16, 24), dtype=np.float32)
    expected[:, 16:] = 0.25
    expected[8:, 8:16] = 0.5
    assert np.array_equal(richness_map(values.flatten(), [(2, 3), (1, 2)], [8, 16], (16, 24)), expected)
