"""The live view in headless Chromium: it draws a run, follows it as it grows, and fits a phone."""

import json
import shutil

import pytest

from denseteacher import api
from support.finished_runs import trained

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
WAIT = 30_000  # ms
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")


@pytest.fixture(scope="module")
def run(tmp_path_factory, coco, unlabeled):
    return trained(tmp_path_factory.mktemp("live") / "run", coco, unlabeled)


@pytest.fixture
def visit(visits):
    """Opens a live view; what it says, asks for elsewhere or stumbles over must be nothing in the end."""
    own = []

    def open_page(served, **options):
        own.append(served.address)
        return visits.open(served.address, **options)

    yield open_page
    visits.close()
    # of a monitor that has ended
    assert [text for text in visits.complaints if "ERR_CONNECTION_REFUSED" not in text] == []
    assert [url for url in visits.requests if not url.startswith((*own, "data:"))] == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_run_is_drawn(visit, run, width, scheme):
    with api.monitor(run) as served:
        page = visit(served, viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.wait_for_selector("#training .card svg")
        page.evaluate("document.querySelectorAll('details').forEach((one) => (one.open = true))")
        page.wait_for_load_state("networkidle")
        assert page.evaluate("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"
        assert dark == (scheme == "dark")
        assert page.locator("#status").inner_text() == "Finished: step 8 of 8."
        assert page.locator("#health p").count() >= 1
        assert page.locator("#training .card").count() == 3
        strokes = "(all) => all.map((one) => getComputedStyle(one).stroke)"
        assert len(set(page.locator("#training .card:nth-child(2) path").evaluate_all(strokes))) == 3
        assert page.locator("#previews img").count() == 5
        chart = page.locator("#training .card").nth(1)
        chart.locator("svg").first.hover()
        assert chart.locator(".read").inner_text().startswith("step ")
        assert float(chart.locator(".value").first.inner_text()) > 0
        slider = page.locator("#teacher input")
        assert page.locator("#teacher output").inner_text() == "8"
        slider.fill("0")
        assert page.locator("#teacher output").inner_text() == "4"
        assert "step_000004.jpg" in page.locator("#teacher img").get_attribute("src")


def test_it_follows_a_run_that_grows(visit, run, tmp_path):
    folder = tmp_path / "<b>run"
    with api.monitor(folder) as served:
        page = visit(served)
        playwright.expect(page.locator("#status")).to_contain_text("There is not a run", timeout=WAIT)
        assert not page.locator("#training").is_visible()
        assert page.locator("#title").inner_text() == folder.name  # a text, not markup
        folder.mkdir()
        shutil.copy(run / "recipe.yaml", folder)
        lines = (run / "metrics.jsonl").read_text().splitlines()
        for count in (3, len(lines)):
            (folder / "metrics.jsonl").write_text("\n".join(lines[:count]) + "\n")
            step = json.loads(lines[count - 1])["step"]
            playwright.expect(page.locator("#status")).to_contain_text(f"step {step} of 8", timeout=WAIT)
        assert page.locator("#training .card").count() == 3
    playwright.expect(page.locator("#seen")).to_contain_text("does not answer", timeout=WAIT)
    page.close()
