"""Why the learning region matters on one detector and not on another: where a teacher's scores lie.

    python benchmarks/region_mass.py --run LABEL=RUN_FOLDER [--run ...] [--images 256]

Dense labels without a region divide the class loss by the sum of all locations' highest scores (the normalizer). Where
the background holds much of that sum, learning from all locations weakens the loss at the objects and spends it on
noise; where it holds little, the region changes nothing. For each run (Dense Teacher on Digits): the shares of the
normalizer and of the locations in the selected region, and of the true foreground that it covers.
"""

import argparse
from pathlib import Path

import torch

from denseteacher.analysis.outputs import DetectorOutputs
from denseteacher.analysis.selection import learning_rule, select_region
from denseteacher.analysis.truth import hidden_truth
from denseteacher.inference.predictor import Predictor
from denseteacher.recipes.schema import load_recipe
from result_file import write_result

BATCH = 32


def measure(folder: Path, images: int) -> dict[str, float]:
    """Shares in the region of one run's last teacher, over unlabeled images with their hidden labels."""
    predictor, rule = Predictor.load(folder / "last_teacher.safetensors"), learning_rule(folder, None)
    truth = hidden_truth(folder).select(list(range(images)))
    mass = selected_mass = foreground = covered = selected = locations = 0.0
    outputs = DetectorOutputs(predictor, truth, batch_size=BATCH)
    for batch in outputs:
        region = select_region(outputs, batch, rule)
        richness = batch.output.logits.sigmoid().amax(-1)
        mass += float(richness.sum())
        selected_mass += float((richness * region.selected).sum())
        foreground += float(region.foreground.sum())
        covered += float((region.foreground & region.selected).sum())
        selected += float(region.selected.sum())
        locations += region.selected.numel()
    shares = {
        "locations selected, %": selected / locations,
        "normalizer outside, %": 1 - selected_mass / mass,
        "true foreground, %": foreground / locations,
        "of it selected, %": covered / foreground,
        "hard negatives among the selected, %": 1 - covered / selected,
    }
    return {name: 100 * share for name, share in shares.items()}


def main() -> None:
    """Measures all runs and writes ``results/region_mass.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", action="append", required=True, metavar="LABEL=FOLDER")
    parser.add_argument("--images", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for text in arguments.run:
        label, _, folder = text.partition("=")
        values = {name: [round(value, 2)] for name, value in measure(Path(folder), arguments.images).items()}
        print(label, values)
        rows.append({"label": label, "seeds": [load_recipe(Path(folder) / "recipe.yaml").seed], "values": values})
    print(
        write_result(
            "region_mass", rows, {}, metrics=list(rows[0]["values"]), data=f"Digits, {arguments.images} images"
        )
    )


if __name__ == "__main__":
    main()
