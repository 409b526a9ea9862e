"""Fills the documents from measurements: tables from ``results/``, the README's picture from a run.

python benchmarks/documents.py [--run DEMO_FOLDER/dense_teacher] [--image 2]

A table stands between ``<!-- results:NAME -->`` and ``<!-- /results -->``.
"""

import argparse
import base64
import io
import json
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from denseteacher.data.sources import open_data
from denseteacher.inference.predictor import Predictor
from denseteacher.methods import DenseTeacher
from denseteacher.recipe import load_recipe
from denseteacher.report.page import Panel, dense_label
from result_file import RESULTS

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "results.md")
PICTURE = ROOT / "docs" / "images" / "dense_label.jpg"
_SIDE, _CAPTION = 300, 28  # px


def main() -> None:
    """Writes the tables and, given a run, the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="finished Dense Teacher run on Digits")
    parser.add_argument("--image", type=int, default=0, help="which unlabeled image to show")
    arguments = parser.parse_args()
    if arguments.run is not None:
        recipe = load_recipe(arguments.run / "recipe.yaml")
        assert isinstance(recipe.method, DenseTeacher)
        record = open_data(recipe.data).unlabeled[arguments.image]
        panels = dense_label(Predictor.load(arguments.run), record, recipe.method)
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        side_by_side(panels).save(PICTURE, quality=90)
    for document in DOCUMENTS:

        def filled(match: re.Match[str], folder: Path = document.parent) -> str:
            file = RESULTS / f"{match[2]}.json"
            return match[1] + (table(file, folder) if file.is_file() else "not measured yet\n") + match[3]

        text = re.sub(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", filled, document.read_text(), flags=re.S)
        document.write_text(text)


def table(file: Path, folder: Path) -> str:
    """A results file as Markdown, with its link as seen from a document in ``folder``."""
    result = json.loads(file.read_text())
    rows = result["rows"]
    known = {name for row in rows for name, values in row["values"].items() if set(values) - {None}}
    metrics = [metric for metric in result.get("metrics", ("AP", "AP50", "AP75")) if metric in known]
    published = any(row.get("published") for row in rows)
    heads = ["", *metrics, *(["paper, on COCO"] if published else []), "seeds"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        texts = [spread(row["values"][metric]) for metric in metrics]
        texts += [paper(row["published"], metrics[0])] if published else []
        lines.append(f"| {' | '.join([row['label'], *texts, ', '.join(map(str, row['seeds']))])} |")
    # both documents lie at most one folder below the root
    link = ("" if folder == ROOT else "../") + str(file.relative_to(ROOT))
    lines.append(f"\n{result['data']}; {result['device']}. [{file.name}]({link})\n")
    return "\n".join(lines)


def spread(values: list[float | None]) -> str:
    """Mean and, of several, sample standard deviation."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    deviation = f" ± {stdev(known):.1f}" if len(known) > 1 else ""
    return f"{mean(known):.1f}{deviation}"


def paper(published: dict[str, Any], metric: str) -> str:
    """The published value of the first metric."""
    return f"{published[metric][0]:.2f}" if metric in published else "-"


def side_by_side(panels: list[Panel]) -> Image.Image:
    """The panels in a row, each under its caption."""
    sheet = Image.new("RGB", (len(panels) * (_SIDE + 8) - 8, _SIDE + _CAPTION), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=17)
    for index, panel in enumerate(panels):
        picture = Image.open(io.BytesIO(base64.b64decode(panel.uri.split(",", 1)[1]))).resize((_SIDE, _SIDE))
        sheet.paste(picture, (index * (_SIDE + 8), _CAPTION))
        pen.text((index * (_SIDE + 8) + 2, 3), panel.caption, fill="black", font=font)
    return sheet


if __name__ == "__main__":
    main()
