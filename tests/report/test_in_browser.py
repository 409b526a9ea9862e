"""The pages in headless Chromium: quiet, self-contained, readable on a phone and in the dark, and their tools work."""

import shutil

import pytest

from denseteacher import api
from denseteacher.runs.compare import compare_runs
from support.finished_runs import trained, with_detections

pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PAGES = ["run", "compare", "check", "suggest", "audit"]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")

_CONTRAST = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).slice(0, 3).map((value) => {
    value /= 255;
    return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  });
  const light = (color) => { const [r, g, b] = channels(color); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (one) => {
    const color = getComputedStyle(one).backgroundColor;
    return color === "rgba(0, 0, 0, 0)" && one.parentElement ? behind(one.parentElement) : color;
  };
  const found = {};
  for (const name of ["h1", ".summary", ".note", "dt", "dd", "td", "th", ".warning", ".up", ".down", "figcaption",
                      "pre", "a", "summary", ".chart text[style*=currentColor]", ".legend"]) {
    for (const one of document.querySelectorAll(name)) {
      const style = getComputedStyle(one);
      const pair = [light(one.ownerSVGElement ? style.fill : style.color), light(behind(one))].sort((a, b) => a - b);
      found[name] = Math.min(found[name] ?? 21, (pair[1] + 0.05) / (pair[0] + 0.05));
    }
  }
  return found;
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory, coco, unlabeled):
    folder = tmp_path_factory.mktemp("pages")
    runs = [
        with_detections(trained(folder / "labels-alone", coco, unlabeled, "method.name=supervised"), missed=0.5),
        with_detections(trained(folder / "a_dense_teacher_with_a_long_name-102875f9e2", coco, unlabeled), seed=1),
    ]
    compare_runs(runs, output=folder / "compare.html")
    overrides = ["detector.backbone=test_byobnet", "detector.levels=[3,5]", "detector.pretrained=false"]
    api.check(coco, unlabeled=unlabeled, html=folder / "check.html", overrides=overrides, quick=True, pool=True)
    return {
        "run": runs[1] / "report.html",
        "compare": folder / "compare.html",
        "check": folder / "check.html",
        "suggest": api.suggest(runs[1], unlabeled, output=folder / "next", count=3, score=0.0).page,
        "audit": api.audit(runs[1] / "detector.safetensors", coco, output=folder / "audit", score=0.0, top=9).page,
    }


@pytest.fixture
def visit(visits, pages):
    """Opens a page; what it says, asks for or stumbles over must be nothing in the end."""
    yield lambda name, **options: visits.open(pages[name].as_uri(), **options)
    visits.close()
    assert visits.complaints == []
    own = [file.as_uri() for file in pages.values()]
    assert [url for url in visits.requests if url not in own and not url.startswith("data:")] == []


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_fits_its_window(visit, name, width):
    page = visit(name, viewport={"width": width, "height": 800})
    page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter((one) => !one.complete || one.naturalWidth === 0).length"
    assert page.evaluate(broken) == 0
    sizes = page.locator("p, td, th, dd, figcaption, label, .legend").evaluate_all(
        "(all) => all.map((one) => parseFloat(getComputedStyle(one).fontSize))"
    )
    assert min(sizes) >= 12  # px


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(visit, name, scheme):
    page = visit(name, color_scheme=scheme)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"
    assert dark == (scheme == "dark")
    contrast = page.evaluate(_CONTRAST)
    assert name in ("suggest", "audit") or ".chart text[style*=currentColor]" in contrast
    assert name == "suggest" or "td" in contrast
    assert name == "check" or "figcaption" in contrast
    assert {place: ratio for place, ratio in contrast.items() if ratio < 4.5} == {}  # WCAG AA


@pytest.mark.parametrize("width", [390, 1280])
def test_labels_in_doubt_are_told_apart(visit, width):
    page = visit("audit", viewport={"width": width, "height": 800})
    figures = page.locator("#findings figure")
    assert figures.count() == 9
    assert page.locator("#findings .box.wrong, #findings .box.right").count() >= 9
    for figure in figures.all():
        caption, picture = figure.locator("figcaption").bounding_box(), figure.locator(".frame").bounding_box()
        assert caption["y"] >= picture["y"] + picture["height"] - 1  # px
        whole = figure.bounding_box()
        assert whole["y"] + whole["height"] - caption["y"] - caption["height"] < 4  # a card ends with its text
    dash = "(all) => new Set(all.map((one) => getComputedStyle(one).strokeDasharray)).size"
    kinds = page.locator("#findings .box.wrong rect"), page.locator("#findings .box.truth rect")
    assert all(kind.count() for kind in kinds)
    assert page.locator("#findings .box.wrong rect, #findings .box.truth rect").evaluate_all(dash) == 2


def test_the_score_slider_decides_what_is_found(visit):
    page = visit("run")
    section = page.locator("#mistakes")

    def state():
        return section.locator(".box:not(.truth):not(.low)").count(), section.locator(".box.truth.missed").count()

    shown, missed = state()
    assert shown > 0
    section.locator("[data-tool=score]").fill("0.95")
    fewer, more = state()
    assert fewer < shown
    assert more > missed
    assert section.locator("output").inner_text() == "0.95"
    section.locator("[data-tool=score]").fill("0.5")
    assert state() == (shown, missed)  # what the file says without a script


def test_views_can_be_hidden_and_labels_faded(visit):
    page = visit("run")
    section = page.locator("#unlabeled")
    strong = section.locator("figure", has_text="strong view")
    assert strong.first.is_visible()
    section.get_by_label("strong view: the student's").uncheck()
    assert not strong.first.is_visible()
    assert section.locator("figure", has_text="weak view").first.is_visible()
    section.locator("[data-tool=strength]").fill("30")
    layer = section.locator(".layer").first
    assert float(layer.evaluate("(one) => getComputedStyle(one).opacity")) == pytest.approx(0.3)


def test_classes_can_be_sorted(visit):
    page = visit("compare")
    table = page.locator("table.sortable")
    gain = table.locator("th button", has_text="gain")
    column = "(rows) => rows.map((row) => Number(row.cells[4].dataset.value))"
    for direction in (-1, 1):
        gain.click()
        values = table.locator("tbody tr").evaluate_all(column)
        assert values == sorted(values, key=lambda value, sign=direction: sign * value)


def test_all_is_there_without_a_script(visit):
    page = visit("run", java_script_enabled=False)
    for section in ("result", "training", "classes", "unlabeled", "mistakes", "detections", "recipe"):
        assert page.locator(f"#{section}").is_visible()
    assert page.locator("#unlabeled figure").first.is_visible()
    assert not page.locator("#unlabeled .tools").is_visible()
    assert page.locator("#mistakes .box:not(.low)").first.is_visible()
