"""Do labels that were spoiled on purpose come first in an audit? On photographs of masks and on blood cells.

    python benchmarks/audit.py masks bccd --weights weights/mobilenetv2_100.safetensors [--seeds 1 2 3] [--steps 400]

5 % of the training set's labels are spoiled: a quarter each is removed, moved or resized to an IoU of 0.35 to 0.6,
given another class, or drawn where nothing is. A detector learns from half of the spoiled images (the other half is
unlabeled), in a short run of the data set's recipe on one thread, and audits all of them. A spoiled label counts as
found among the first N cases if one of them is about it: about the label itself, or, of a removed one, a missing label
at IoU 0.5 with it. N is the number of spoiled labels; in random order N labels hold N / labels of them. The data sets
have faults of their own, which count against the audit. What is done is not done again; ``results/audit.json`` is
written after every run.
"""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

import denseteacher
from denseteacher.data.config import DataConfig
from denseteacher.data.formats import AnnotationSource, read_annotations
from denseteacher.evaluation.matching import iou
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.folder import RunFolder
from real import DATA, SOURCES
from result_file import write_result

SHARE = 0.05
"""Share of the labels that are spoiled."""
KINDS = ("removed", "loosened", "other class", "added")
Content = dict[str, Any]
Faults = list[dict[str, Any]]


def main() -> None:
    """Does what is missing, data set by data set and seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=list(SOURCES))
    parser.add_argument("--weights", type=Path, required=True, help="ImageNet weights of the recipe's backbone")
    parser.add_argument("--data", type=Path, default=DATA, help="folder that holds masks/ and bccd/")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of the faults, the split and the run")
    parser.add_argument("--steps", type=int, default=400, help="steps a run")
    parser.add_argument("--output", type=Path, default=Path("runs/audit"))
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    for name in arguments.names:
        for seed in arguments.seeds:
            folder = arguments.output / f"{name}-{seed}"
            if not (folder / "found.json").exists():
                measure(name, seed, folder, arguments)
            write(arguments)


def measure(name: str, seed: int, folder: Path, arguments: argparse.Namespace) -> None:
    """Spoils the labels, trains and audits one seed, and writes what was found to ``found.json``."""
    root = (arguments.data / name).resolve()
    spoiled, faults, images = spoil(load_recipe(name, {"data.root": str(root)}).data, seed, folder)
    count = len(json.loads(spoiled.read_text())["images"]) // 2
    keys = {"data.root": str(root), "data.labeled": str(spoiled.resolve()), "data.images": str(images.resolve())}
    keys |= {"data.format": None, "data.subset": None, "data.val": None, "data.fold": seed, "data.count": count}
    keys |= {"seed": seed, "schedule.max_steps": arguments.steps, "runtime.threads": 1, "runtime.device": "cpu"}
    keys |= {"detector.pretrained": str(arguments.weights.resolve())}
    overrides = [*(f"{key}={json.dumps(value)}" for key, value in keys.items()), *arguments.overrides]
    run = RunFolder(folder / "run")
    if not run.is_finished:
        denseteacher.train(name, output=run.path, overrides=overrides, resume=run.has_checkpoint)
    audited = folder / "audit"
    for file in [] if not audited.exists() else sorted(audited.rglob("*"), reverse=True):
        file.unlink() if not file.is_dir() or file.is_symlink() else file.rmdir()
    outcome = denseteacher.audit(run.path, spoiled, images=images, output=audited, score=0.0, top=50)
    trained = set(json.loads(run.split.read_text())["labeled_ids"])
    ranks = [next((n for n, case in enumerate(outcome.found, 1) if is_about(case, one)), None) for one in faults]
    rows = [{"kind": one["kind"], "trained": one["image_id"] in trained} for one in faults]
    content = {
        "labels": outcome.labels,
        "faults": [row | {"rank": rank} for row, rank in zip(rows, ranks, strict=True)],
    }
    (folder / "found.json").write_text(json.dumps(content, indent=1))


def spoil(data: DataConfig, seed: int, folder: Path) -> tuple[Path, Faults, Path]:
    """The labels with faults as a COCO JSON, the faults, and the folder of the images."""
    assert data.labeled_source is not None
    source: AnnotationSource = data.labeled_source
    annotations = read_annotations(source)
    content = {key: annotations.content[key] for key in ("images", "annotations", "categories")}
    content["annotations"] = [one | {"id": number} for number, one in enumerate(content["annotations"], 1)]
    random = np.random.default_rng(seed)
    labels = content["annotations"]
    chosen = random.permutation(len(labels))[: round(SHARE * len(labels))]
    faults = [{"kind": KINDS[number % len(KINDS)], **labels[place]} for number, place in enumerate(chosen)]
    for fault in faults:
        one = labels[fault["id"] - 1]
        if fault["kind"] == "loosened":
            one["bbox"] = loosened(one["bbox"], random)
        elif fault["kind"] == "other class":
            others = [category["id"] for category in content["categories"] if category["id"] != one["category_id"]]
            one["category_id"] = int(random.choice(others))
        elif fault["kind"] == "added":
            fault |= added(one, content, random) | {"id": len(labels) + 1}
            labels.append({key: value for key, value in fault.items() if key != "kind"})
    gone = {fault["id"] for fault in faults if fault["kind"] == "removed"}
    content["annotations"] = [one for one in labels if one["id"] not in gone]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "spoiled.json"
    path.write_text(json.dumps(content))
    return path, faults, annotations.images


def corners(box: list[float]) -> Any:
    """(1, 4) xyxy of x, y, width, height."""
    return np.array([[box[0], box[1], box[0] + box[2], box[1] + box[3]]])


def loosened(box: list[float], random: np.random.Generator) -> list[float]:
    """The box moved and resized until it has an IoU of 0.35 to 0.6 with what it was."""
    x, y, width, height = box
    while True:
        sides = np.array([width, height]) * random.uniform(0.6, 1.6, 2)
        place = np.array([x, y]) + np.array([width, height]) * random.uniform(-0.4, 0.4, 2)
        moved = [*np.maximum(place, 0).tolist(), *sides.tolist()]
        if 0.35 <= iou(corners(box), corners(moved))[0, 0] <= 0.6:
            return moved


def added(one: Content, content: Content, random: np.random.Generator) -> Content:
    """A label like this one in an image where it overlaps no label by more than an IoU of 0.1."""
    _, _, width, height = one["bbox"]
    while True:
        image = content["images"][int(random.integers(len(content["images"])))]
        if image["width"] <= width or image["height"] <= height:
            width, height = width / 2, height / 2
            continue
        place = random.uniform(0, [image["width"] - width, image["height"] - height]).tolist()
        boxes = [other["bbox"] for other in content["annotations"] if other["image_id"] == image["id"]]
        if all(iou(corners(box), corners([*place, width, height]))[0, 0] <= 0.1 for box in boxes):
            return one | {"image_id": image["id"], "bbox": [*place, width, height], "area": width * height}


def is_about(case: Any, fault: Content) -> bool:
    """Whether a case of the audit points at a fault."""
    if fault["kind"] != "removed":
        return bool(case.annotation == fault["id"])
    if case.kind != "missed" or case.image_id != fault["image_id"]:
        return False
    return bool(iou(corners(case.detection_box), corners(fault["bbox"]))[0, 0] >= 0.5)


def write(arguments: argparse.Namespace) -> None:
    """Writes the results file from what is done: the shares in percent."""
    rows, ratios = [], {}
    for name in SOURCES:
        done = {
            seed: json.loads(file.read_text())
            for seed in arguments.seeds
            if (file := arguments.output / f"{name}-{seed}" / "found.json").exists()
        }
        if done:
            values = [shares(one) for one in done.values()]
            by_key = {key: [round(100 * one[key], 2) for one in values] for key in values[0]}
            rows.append({"label": name, "seeds": list(done), "values": by_key})
            ratios[f"{name}: found over random order"] = round(mean(by_key["found"]) / mean(by_key["random"]), 2)
    details = {"data": SOURCES, "weights": arguments.weights.name, "overrides": arguments.overrides}
    path = write_result("audit", rows, ratios, steps=arguments.steps, spoiled=SHARE, **details)
    print(path, ratios)


def shares(done: Content) -> dict[str, float]:
    """Shares of the faults that are among the first N and 2 N cases, of all, of each kind and half of the images."""
    faults = done["faults"]
    groups = {"": faults} | {f" ({kind})": [one for one in faults if one["kind"] == kind] for kind in KINDS}
    groups |= {" (trained on)": [one for one in faults if one["trained"]]}
    groups |= {" (held out)": [one for one in faults if not one["trained"]]}
    n = len(faults)
    first = {f"found{key}": mean([(one["rank"] or n + 1) <= n for one in some]) for key, some in groups.items()}
    twice = mean([(one["rank"] or 2 * n + 1) <= 2 * n for one in faults])
    return first | {"found in 2 N": twice, "random": n / done["labels"]}


if __name__ == "__main__":
    main()
