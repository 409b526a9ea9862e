"""What a text list of 10 million unlabeled images costs before the first step.

    python benchmarks/long_list.py [--images 10000000] [--rounds 3]

The list lies in a temporary folder, and every path in it is that of an image: links to a few. Each round is a fresh
process, measured from where everything is imported: until the list is read, until the positions of the first step are
known (split written, samplers made), and until its images are loaded. Writes ``results/long_list.json``.
"""

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from denseteacher.data.formats import open_unlabeled
from denseteacher.data.open import open_data
from denseteacher.data.splits import write_split_ids
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.build import build_steps
from result_file import write_result

_SHARD = 10_000  # files of a folder
_PARTS = ("list read", "first step's positions", "first step loaded")


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", type=Path, help="A folder to measure in this process.")
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, arguments.images)
        command = [sys.executable, __file__, "--measure", name]
        rounds = [json.loads(subprocess.check_output(command)) for _ in range(arguments.rounds)]
        size = (folder / "list.txt").stat().st_size
    rows = [
        {"label": part, "seeds": [0], "values": {key: [one[part][key] for one in rounds] for key in rounds[0][part]}}
        for part in _PARTS
    ]
    worst = {key: max(rows[1]["values"][key]) for key in ("seconds", "peak MB")}
    ratios = {"seconds": worst["seconds"], "peak_mb": worst["peak MB"]}
    for row in rows:
        print(row["label"], row["values"])
    print(write_result("long_list", rows, ratios, images=arguments.images, list_bytes=size, rounds=arguments.rounds))


def measure(folder: Path) -> dict[str, dict[str, float]]:
    """Seconds and growth of memory since the imports, part by part."""
    recipe = load_recipe("custom", [f"data.labeled={folder / 'labeled.json'}", f"data.unlabeled={folder / 'list.txt'}"])
    recipe = recipe.model_copy(update={"method": recipe.method.model_copy(update={"burn_in": 0})})
    start, before, peak = time.perf_counter(), _resident(), _peak()

    def now() -> dict[str, float]:
        values = {"seconds": time.perf_counter() - start, "MB": _resident() - before, "peak MB": _peak() - peak}
        return {name: round(value, 3) for name, value in values.items()}

    found = {}
    open_unlabeled(folder / "list.txt")
    found["list read"] = now()
    start = time.perf_counter()
    data = open_data(recipe.data)
    write_split_ids(data.split, folder / "split.json")
    dataset = build_steps(recipe, data)
    dataset.unlabeled_sampler.positions(0, range(recipe.data.unlabeled_batch), portrait=False)
    found["first step's positions"] = now()
    dataset.load(0)
    found["first step loaded"] = now() | {"MB sent to a worker": round(len(pickle.dumps(data.unlabeled)) / 1e6, 3)}
    return found


def write_images(folder: Path, count: int) -> None:
    """A few images, many links to them and their list, and a labeled data set."""
    first = folder / "shard_0000"
    first.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        size = (60, 80) if number % 4 == 0 else (80, 60)
        Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(folder / f"{number}.jpg")
    for number in range(_SHARD):
        os.link(folder / f"{number % 8}.jpg", first / f"image_{number:04d}.jpg")
    for shard in range(1, -(-count // _SHARD)):
        (folder / f"shard_{shard:04d}").symlink_to(first)
    with (folder / "list.txt").open("w") as file:
        for start in range(0, count, _SHARD):
            names = (f"{folder}/shard_{start // _SHARD:04d}/image_{number:04d}.jpg\n" for number in range(_SHARD))
            file.write("".join(names))
    images = [{"id": number, "file_name": f"{number}.jpg", "width": 80, "height": 60} for number in (1, 2, 3)]
    boxes = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 30, 20]}]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (folder / "labeled.json").write_text(json.dumps(content))


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


if __name__ == "__main__":
    main()
