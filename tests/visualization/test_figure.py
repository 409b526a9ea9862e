"""Lines in a page: where points land, what the axes say, and text that is shown as it is."""

import re
import warnings
import xml.etree.ElementTree as ET

import pytest
from PIL import Image

from denseteacher.visualization.boxes import draw_boxes
from denseteacher.visualization.figure import Line, as_svg, line_chart, literal_text, new_figure, page_style, save_png

SVG = "{http://www.w3.org/2000/svg}"
HARD_NAMES = ["$^$", r"$\frac$", "<b>", "a $x$ & b", "猫 字"]


def _points(chart):
    """The points of each line, which are what the page's colors are for."""
    paths = [one for one in ET.fromstring(chart.svg).iter(f"{SVG}path") if "stroke: var(--line-" in one.get("style")]
    return [
        [(float(x), float(y)) for x, y in re.findall(r"[ML] (\S+) (\S+)", path.get("d"))]
        for path in paths
        if "fill: none" in path.get("style")
    ]


def _texts(svg):
    return list(ET.fromstring(svg).iter(f"{SVG}text"))


def test_points_lie_where_their_values_are():
    chart = line_chart([Line("a", ([0, 50, 100], [0.0, 1.0, 10.0]))], title="loss", ylabel="value")
    [(left, middle, right)] = _points(chart)
    assert middle[0] == pytest.approx((left[0] + right[0]) / 2, abs=1e-3)
    assert left[1] > middle[1] > right[1]  # up is less in SVG
    assert (left[1] - middle[1]) / (left[1] - right[1]) == pytest.approx(0.1, abs=1e-3)
    beside = [one for one in _texts(chart.svg) if "text-anchor: end" in one.get("style")]
    numbers = {float(one.text): float(one.get("y")) for one in beside}
    assert numbers[0] - numbers[10] == pytest.approx(left[1] - right[1], abs=0.1)
    assert 0 <= numbers[0] - left[1] < 5  # baseline of the number beside the point


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 2400), (0.22, 0.25), (-3, 7), (1e-8, 3e-7), (0, 180_000)])
def test_numbers_beside_the_axes_are_few_and_round(low, high):
    chart = line_chart([Line("a", ([0, 10], [low, high]))], title="t", ylabel="y")
    beside = [one.text for one in _texts(chart.svg) if "text-anchor: end" in one.get("style")]
    found = [float(text.replace(",", "")) for text in beside]
    assert 2 <= len(found) <= 7
    assert float(f"{found[1] - found[0]:.4e}".partition("e")[0]) in (1, 2, 2.5, 5)
    assert all("−" not in text for text in beside)  # a number that a search finds


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [5.0, 5.01], [-1.0, -1.0], [1e-9, 2e-9], [0.0, 1e6]])
def test_any_values_give_a_picture(values):
    chart = line_chart([Line("a", (range(len(values)), values))], title="t", ylabel="y")
    width, height = map(float, ET.fromstring(chart.svg).get("viewBox").split()[2:])
    assert _points(chart)
    for line in _points(chart):
        assert all(0 <= x <= width and 0 <= y <= height for x, y in line)


def test_a_burn_in_is_marked_where_lines_go_beyond_it():
    line = Line("a", ([10, 20], [1.0, 2.0]))
    assert "burn-in" in line_chart([line], title="t", ylabel="y", burn_in=15).svg
    assert "burn-in" not in line_chart([line], title="t", ylabel="y", burn_in=5).svg
    assert "burn-in" not in line_chart([line], title="t", ylabel="y").svg


def test_colors_and_dashes_are_those_of_the_legend():
    lines = [Line(str(number), ([1, 2], [0.5, number]), number, number) for number in range(4)]
    chart = line_chart(lines, title="t", ylabel="y")
    assert chart.lines == lines
    for number, line in enumerate(lines, 1):
        assert f"var(--line-{number})" in line.look
        assert f"var(--line-{number}," in chart.svg
        assert ("dasharray" in line.look) == (number > 1)
    assert chart.svg.count("stroke-dasharray") == 3
    assert line_chart(lines[:1], title="t", ylabel="y").lines == ()  # a single line needs no legend


def test_figures_of_one_page_share_no_names_but_equal_ones():
    charts = [line_chart([Line("a", ([1, 2], [1.0, value]))], title="t", ylabel="y").svg for value in (2.0, 3000.0)]
    first, second = (dict(re.findall(r'<(?:clipPath|path) id="([^"]*)"(.*?)/>', svg, re.S)) for svg in charts)
    assert first
    assert all(second[name] == content for name, content in first.items() if name in second)
    for svg in charts:
        assert set(re.findall(r' id="([^"]*)"', svg)) == set(re.findall(r"""(?:url\(|href=")#(\w+)""", svg))


@pytest.mark.parametrize("name", HARD_NAMES)
def test_users_text_is_shown_as_it_is(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = line_chart([Line(name, ([1, 2], [0.5, 1.0]))], title=name, ylabel=name)
        with page_style():
            figure = new_figure(3, 3)
            axes = figure.add_subplot()
            axes.set_yticks([0, 1], [name, "other"])
            axes.plot([0, 1], label=name)
            figure.legend()
        svg = as_svg(figure, name)
        save_png(tmp_path / "figure.png", figure)
        with literal_text():
            figure = new_figure(3, 3)
            figure.suptitle(name)
            figure.savefig(tmp_path / "plain.png")
    assert name in [one.text for one in _texts(chart.svg)]
    assert [one.text for one in _texts(svg)].count(name) == 2
    assert ET.fromstring(chart.svg).get("aria-label").startswith(f"{name}: {name}, ")


@pytest.mark.parametrize("name", [*HARD_NAMES, "two\nlines", ""])
def test_any_name_can_stand_beside_a_box(name):
    picture = draw_boxes(Image.new("RGB", (64, 64)), [[8, 8, 40, 40]], [0], [name], [0.5])
    assert picture.size == (64, 64)
