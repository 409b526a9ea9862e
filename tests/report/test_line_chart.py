"""Lines in a page: where points land, what the axes say, and text that can't break out."""

import re
import xml.etree.ElementTree as ET

import pytest

from denseteacher.report.line_chart import Line, line_chart, ticks


def _points(chart):
    return [
        [tuple(map(float, point.split(","))) for point in line.split()]
        for line in re.findall(r' points="([^"]*)"', chart.svg)
    ]


def test_points_lie_where_their_values_are():
    chart = line_chart([Line("a", ([0, 50, 100], [0.0, 1.0, 10.0]))], title="loss", ylabel="value")
    [(left, middle, right)] = _points(chart)
    assert middle[0] == pytest.approx((left[0] + right[0]) / 2)
    assert left[1] > middle[1] > right[1]  # up is less in SVG
    assert (left[1] - middle[1]) / (left[1] - right[1]) == pytest.approx(0.1, abs=1e-3)
    numbers = {float(one.text.replace(",", "")): float(one.get("y")) for one in _elements(chart, "text", "y")}
    assert numbers[10] == pytest.approx(right[1], abs=0.1)
    assert numbers[0] == pytest.approx(left[1], abs=0.1)


def test_names_are_escaped():
    chart = line_chart([Line('<b> & "x"', ([1, 2], [0.5, 1.0]))], title="x < y", ylabel="a & b")
    root = ET.fromstring(chart.svg)
    assert "x < y" in root.get("aria-label")
    assert root.find(".//title").text == '<b> & "x"'


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [5.0, 5.01], [-1.0, -1.0], [1e-9, 2e-9], [0.0, 1e6]])
def test_any_values_give_a_picture(values):
    chart = line_chart([Line("a", (range(len(values)), values))], title="t", ylabel="y")
    for line in _points(chart):
        assert all(0 <= x <= 400 and 0 <= y <= 250 for x, y in line)


def test_a_burn_in_is_marked_where_lines_go_beyond_it():
    line = Line("a", ([10, 20], [1.0, 2.0]))
    assert "burn-in" in line_chart([line], title="t", ylabel="y", burn_in=15).svg
    assert "burn-in" not in line_chart([line], title="t", ylabel="y", burn_in=5).svg
    assert "burn-in" not in line_chart([line], title="t", ylabel="y").svg


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 2400), (0.22, 0.25), (-3, 7), (1e-8, 3e-7), (0, 180_000)])
def test_ticks_are_few_round_numbers_within_the_range(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 7
    assert low - 1e-12 <= found[0] < found[-1] <= high + 1e-12
    assert float(f"{found[1] - found[0]:.4e}".partition("e")[0]) in (1, 2, 2.5, 5)


def _elements(chart, name, kind):
    return [one for one in ET.fromstring(chart.svg).iter(name) if one.get("class") == kind]
