"""Fills the documents from measurements: tables from ``results/``, the README's picture from a run.

python benchmarks/documents.py [--run DEMO_FOLDER/dense_teacher] [--image 2]

A table stands between ``<!-- results:NAME -->`` and ``<!-- /results -->``; one of a file's ratios between
``<!-- results:NAME:ratios -->`` and the same end, and one of a few rows after ``<!-- results:NAME: ROW; ROW -->``.
"""

import argparse
import json
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from denseteacher.data.open import open_data
from denseteacher.inference.predictor import Predictor
from denseteacher.recipes.schema import load_recipe
from denseteacher.report.previews import first_views, unlabeled_examples
from denseteacher.runs.build import build_steps
from denseteacher.visualization.boxes import draw_detections, fitted
from denseteacher.visualization.heatmap import heat_overlay
from result_file import RESULTS

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("results", "many-gpus", "labeling-loop")))
PICTURE = ROOT / "docs" / "images" / "dense_label.jpg"
_SIDE, _CAPTION = 300, 28  # px


def main() -> None:
    """Writes the tables and, given a run, the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="finished Dense Teacher run on Digits")
    parser.add_argument("--image", type=int, default=0, help="which unlabeled image to show")
    arguments = parser.parse_args()
    if arguments.run is not None:
        PICTURE.parent.mkdir(parents=True, exist_ok=True)
        side_by_side(panels(arguments.run, arguments.image)).save(PICTURE, quality=90)
    for document in DOCUMENTS:

        def filled(match: re.Match[str], folder: Path = document.parent) -> str:
            file = RESULTS / f"{match[2]}.json"
            if not file.is_file():
                return f"{match[1]}not measured yet\n{match[4]}"
            if match[3] == "ratios":
                return match[1] + ratios(file, folder) + match[4]
            return match[1] + table(file, folder, match[3].split("; ") if match[3] else []) + match[4]

        text = re.sub(
            r"(<!-- results:(\w+)(?:: ?([^\n]+))? -->\n).*?(<!-- /results -->)",
            filled,
            document.read_text(),
            flags=re.S,
        )
        document.write_text(text)


def ratios(file: Path, folder: Path) -> str:
    """The ratios of a results file as Markdown."""
    result = json.loads(file.read_text())
    lines = ["| ratio | measured |", "|---|---|"]
    lines += [f"| {name} | {value:.3g} |" for name, value in result["ratios"].items()]
    return "\n".join([*lines, source(file, folder, result)])


def table(file: Path, folder: Path, labels: list[str]) -> str:
    """A results file, or its rows with these labels, as Markdown, with its link as seen from a document in ``folder``.

    Raises:
        SystemExit: The file has no such row.
    """
    result = json.loads(file.read_text())
    rows = [row for row in result["rows"] if not labels or row["label"] in labels]
    if missing := set(labels) - {row["label"] for row in rows}:
        raise SystemExit(f"{file.name} has no row {min(missing)!r}")
    known = {name for row in rows for name, values in row["values"].items() if set(values) - {None}}
    metrics = [metric for metric in result.get("metrics", ("AP", "AP50", "AP75")) if metric in known]
    published = any(row.get("published") for row in rows)
    heads = ["", *metrics, *(["paper, on COCO"] if published else []), "seeds"]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        texts = [spread(row["values"][metric]) if metric in row["values"] else "" for metric in metrics]
        texts += [paper(row["published"], metrics[0])] if published else []
        lines.append(f"| {' | '.join([row['label'], *texts, ', '.join(map(str, row['seeds']))])} |")
    return "\n".join([*lines, source(file, folder, result)])


def source(file: Path, folder: Path, result: dict[str, Any]) -> str:
    """The line below a table: what it was measured on, and where it stands."""
    # the documents lie at most one folder below the root
    link = ("" if folder == ROOT else "../") + str(file.relative_to(ROOT))
    return f"\n{result['data']}; {result['device']}. [{file.name}]({link})\n"


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


def panels(run: Path, place: int) -> dict[str, Image.Image]:
    """An unlabeled image of the run's first step, what its teacher says of it, and what the student learns."""
    recipe, predictor = load_recipe(run / "recipe.yaml"), Predictor.load(run)
    data = open_data(recipe.data)
    dataset = build_steps(recipe, data)
    views = first_views(dataset)
    example = unlabeled_examples(recipe.method, predictor.detector, views, predictor.device)[place]
    assert example.region is not None, "no run of Dense Teacher"
    weak = fitted(Image.fromarray(example.weak), _SIDE)
    found = example.detections._replace(boxes=example.detections.boxes * (_SIDE / max(example.weak.shape)))
    return {
        "unlabeled image": weak,
        "highest class score": heat_overlay(example.weak, example.scores),
        "dense pseudo-label": heat_overlay(example.weak, example.region),
        "what pseudo-boxes would keep": draw_detections(weak, found, predictor.class_names),
    }


def side_by_side(pictures: dict[str, Image.Image]) -> Image.Image:
    """Pictures in a row, each under its caption."""
    sheet = Image.new("RGB", (len(pictures) * (_SIDE + 8) - 8, _SIDE + _CAPTION), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=17)
    for index, (caption, picture) in enumerate(pictures.items()):
        sheet.paste(picture.resize((_SIDE, _SIDE), Image.Resampling.NEAREST), (index * (_SIDE + 8), _CAPTION))
        pen.text((index * (_SIDE + 8) + 2, 3), caption, fill="black", font=font)
    return sheet


if __name__ == "__main__":
    main()
