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

from denseteacher.data.geometry import EvalView, pad_batch, pad_targets
from denseteacher.data.images import decode_image
from denseteacher.data.sources import open_data
from denseteacher.inference.predictor import Predictor
from denseteacher.methods import DenseTeacher
from denseteacher.recipe import load_recipe
from result_file import write_result

BATCH = 32


@torch.no_grad()
def measure(folder: Path, images: int) -> dict[str, float]:
    """Shares in the region of one run's last teacher, over unlabeled images with their hidden labels."""
    recipe = load_recipe(folder / "recipe.yaml")
    assert isinstance(recipe.method, DenseTeacher)
    data = open_data(recipe.data.model_copy(update={"hidden_labels": True}))
    assert data.hidden is not None
    detector = Predictor.load(folder / "last_teacher.safetensors").detector
    view = EvalView(short_side=recipe.evaluation.short_side, max_side=recipe.evaluation.max_side)
    mass = selected_mass = foreground = covered = selected = locations = 0.0
    for start in range(0, images, BATCH):
        records = data.hidden.images[start : start + BATCH]
        views = [view.apply(decode_image(record.path)) for record in records]
        batch = pad_batch(views)
        targets = pad_targets(data.hidden.boxes[start : start + BATCH], data.hidden.labels[start : start + BATCH])
        output = detector(batch)
        labels = recipe.method.model_copy(update={"region": "top", "group_size": None}).pseudo_labels(output)
        richness = output.logits.sigmoid().amax(-1)
        true = detector.foreground(output.anchors, targets)
        mass += float(richness.sum())
        selected_mass += float((richness * labels.selected).sum())
        foreground += float(true.sum())
        covered += float((true & labels.selected).sum())
        selected += float(labels.selected.sum())
        locations += labels.selected.numel()
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
