"""The paper's comparison on photographs: Table 1 on two small published data sets.

    python benchmarks/convert_weights.py pkgs --output weights        (see there)
    python benchmarks/real.py masks bccd --weights weights/mobilenetv2_100.safetensors [--seeds 1 2 3] [--jobs 2]

Trains what is missing (see ``denseteacher reproduce``: a call that was stopped goes on) and writes
``results/real_NAME.json`` after every call, with the rows that are finished and the names of the labeled images. With
``--count`` another number of images is labeled, and the file is ``results/real_NAME_COUNT.json``.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from denseteacher.data.open import open_data
from denseteacher.experiments.reproduce import reproduce
from denseteacher.experiments.table import content
from denseteacher.recipes.schema import load_recipe
from result_file import write_result

DATA = Path(__file__).parents[1].parent / "shared" / "data"
ROWS = Path(__file__).parent / "real.yaml"
SOURCES = {
    "masks": "github.com/iniakunhuda/detr-facemask-dataset, 677 train and 171 validation images, 3 classes",
    "bccd": "github.com/Shenggan/BCCD_Dataset, 292 trainval and 72 test images, 3 classes",
}


def main() -> None:
    """Runs the data sets one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=list(SOURCES))
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of the recipe's backbone")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds masks/ and bccd/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="each is a split and a seed")
    parser.add_argument("--count", type=int, help="labeled images; those of the recipes if not given")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, one thread each")
    parser.add_argument("--row", dest="rows", action="append", default=[], help="train only rows with this text")
    parser.add_argument("--output", type=Path, default=Path("runs/real"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    for name in arguments.names:
        measure(name, arguments)


def measure(name: str, arguments: argparse.Namespace) -> None:
    """Trains what is missing of one data set and writes its results file."""
    overrides = [f"detector.pretrained={json.dumps(str(arguments.weights.resolve()))}", *arguments.overrides]
    result_name = f"real_{name}"
    if arguments.count is not None:
        overrides.append(f"data.count={arguments.count}")
        result_name += f"_{arguments.count}"
    result = reproduce(
        ROWS,
        root=arguments.data / name,
        profile=name,
        folds=arguments.seeds,
        output=arguments.output / result_name.removeprefix("real_"),
        jobs=arguments.jobs,
        rows=arguments.rows,
        overrides=overrides,
    )
    rows = [row for row in content(result.table)["rows"] if row["seeds"]]
    for row in rows:
        print(f"{row['label']:34} {row['summary']['AP mean']:5.1f}  {row['values']['AP']}")
    print(
        write_result(
            result_name,
            rows,
            gains(rows),
            metrics=["AP", "AP50", "AP75"],
            data=SOURCES[name],
            weights=arguments.weights.name,
            overrides=arguments.overrides,
            labeled_images={str(seed): labeled_names(name, arguments, seed) for seed in arguments.seeds},
        )
    )
    if result.stopped_by is not None or result.failures:
        raise SystemExit(f"{name}: {result.stopped_by or result.failures}")


def gains(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Relative gain in mean AP of each row over the supervised one, over the seeds that both have."""
    base = next((row for row in rows if row["label"] == "Supervised"), None)
    found = {}
    for row in rows:
        shared = [] if base is None or row is base else sorted(set(row["seeds"]) & set(base["seeds"]))
        if base is not None and shared:
            ours, theirs = (
                mean(one["values"]["AP"][one["seeds"].index(seed)] for seed in shared) for one in (row, base)
            )
            found[f"{row['label']} over Supervised"] = round(ours / theirs - 1, 4)
    return found


def labeled_names(name: str, arguments: argparse.Namespace, fold: int) -> list[str]:
    """The labeled images of one split."""
    keys = {"data.root": str(arguments.data / name), "data.fold": fold}
    recipe = load_recipe(name, keys | ({} if arguments.count is None else {"data.count": arguments.count}))
    return sorted(image.name for image in open_data(recipe.data).labeled.images)


if __name__ == "__main__":
    main()
