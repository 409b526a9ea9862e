"""Fills the README from measurements: its tables from ``results/``, its picture from a run.

python benchmarks/readme.py [--run DEMO_FOLDER/dense_teacher] [--image 2]
"""

import argparse
import base64
import io
import json
import re
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from denseteacher.data.sources import open_data
from denseteacher.inference.predictor import Predictor
from denseteacher.methods import DenseTeacher
from denseteacher.recipe import load_recipe
from denseteacher.report.page import Panel, dense_label
from result_file import RESULTS

ROOT = Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "images" / "dense_label.jpg"
_SIDE, _CAPTION = 300, 28  # px


def main() -> None:
    """Writes ``README.md`` and, given a run, the picture."""
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
    readme = ROOT / "README.md"
    readme.write_text(
        re.sub(r"(<!-- results:(\w+) -->\n).*?(<!-- /results -->)", filled, readme.read_text(), flags=re.S)
    )


def filled(match: re.Match[str]) -> str:
    """One marked part of the README with its table."""
    file = RESULTS / f"{match[2]}.json"
    return match[1] + (table(json.loads(file.read_text())) if file.is_file() else "") + match[3]


def table(result: dict) -> str:
    """A results file as Markdown."""
    lines = ["| Digits, AP of the teacher | mean ± std | AP50 | AP75 | seeds |", "|---|---|---|---|---|"]
    for row in result["rows"]:
        summary, values = row["summary"], ", ".join(f"{value:.1f}" for value in row["values"]["AP"])
        lines.append(
            f"| {row['label']} | {summary['AP mean']:.1f} ± {summary['AP std']:.1f} | {summary['AP50 mean']:.1f} "
            f"| {summary['AP75 mean']:.1f} | {values} |"
        )
    source = f"benchmarks/results/{result['name']}.json"
    lines.append(f"\n{result['data']}; {result['steps']} steps each, {result['device']}. [{source}]({source})\n")
    return "\n".join(lines)


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
