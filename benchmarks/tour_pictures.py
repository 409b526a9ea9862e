"""The pictures of ``docs/tour.md``, from a finished run on Digits with 40 labeled images.

    denseteacher train digits --set data.count=40 --set schedule.max_steps=600 --set method.burn_in=300 \
      --set method.ramp=100 --set ema.start=150 --set ema.decay=0.98 --set schedule.evaluate_every=150 \
      --set schedule.preview_every=150 --set schedule.log_every=10 --output RUN
    denseteacher suggest RUN DIGITS/train --count 20 --output NEXT
    python benchmarks/tour_pictures.py --run RUN [--suggested NEXT/suggested.txt]

Each is a WebP in ``docs/images/tour``. That of the monitor needs playwright and Chromium.
"""

import argparse
import io
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from PIL import Image

import denseteacher
from denseteacher.data.open import open_data
from denseteacher.recipes.schema import load_recipe
from denseteacher.visualization.boxes import SHOWN_ABOVE, draw_detections, fitted, picture_sheet

FOLDER = Path(__file__).parent.parent / "docs" / "images" / "tour"
_SIDE, _COLUMNS = 160, 5  # px, pictures a row
_SHOWN = 10


def main() -> None:
    """Writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="finished run on Digits")
    parser.add_argument("--suggested", type=Path, help="suggested.txt of that run")
    arguments = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    keep("monitor", monitor_page(arguments.run))
    keep("found", sheet(found(arguments.run)))
    if arguments.suggested is not None:
        paths = arguments.suggested.read_text().splitlines()[:_SHOWN]
        keep("suggested", sheet(Image.open(path).convert("RGB") for path in paths))


def keep(name: str, picture: Image.Image) -> None:
    """Writes a picture of the page."""
    picture.save(FOLDER / f"{name}.webp", quality=80, method=6)


def monitor_page(run: Path) -> Image.Image:
    """The upper part of the run's live view, as a browser shows it."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    with denseteacher.monitor(run) as served, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1180, "height": 1000}, color_scheme="light")
        page.goto(served.address)
        page.wait_for_selector("#training .card svg")
        content = page.screenshot()
        browser.close()
    return Image.open(io.BytesIO(content)).convert("RGB")


def found(run: Path) -> Iterator[Image.Image]:
    """Validation images with the detections above the best score of all classes."""
    validation = open_data(load_recipe(run / "recipe.yaml").data).validation
    predictor = denseteacher.load(run)
    best = predictor.card.best_scores
    assert validation is not None
    for record in validation.images[:_SHOWN]:
        large = fitted(Image.open(record.path).convert("RGB"), _SIDE)
        floor = SHOWN_ABOVE if best is None else best.overall
        yield draw_detections(large, predictor.predict([large])[0], predictor.class_names, score_floor=floor)


def sheet(pictures: Iterable[Image.Image]) -> Image.Image:
    """Pictures in rows."""
    cells = [fitted(one, _SIDE) for one in pictures]
    return picture_sheet([cells[first : first + _COLUMNS] for first in range(0, len(cells), _COLUMNS)])


if __name__ == "__main__":
    main()
