"""Two processes that share a batch train as one process that has it all."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import TINY, paint
from denseteacher.training.checkpoint import CheckpointFolder


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Images of one size, so that the canvas does not depend on which of them meet in a process."""
    folder = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 9):
        pixels, found = paint(rng, 64, 64, 2)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 64, "height": 64})
        for box, label in found:
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": label + 1, "bbox": box})
    content = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": str(label)} for label in range(3)],
    }
    (folder / "squares.json").write_text(json.dumps(content))
    return folder / "squares.json"


def train(squares, output, devices, *overrides):
    command = [sys.executable, "-m", "denseteacher.cli", "train", "custom", "--devices", devices, "--output", output]
    command += ["--labeled", squares, "--unlabeled", squares.parent, "--val", squares]
    options = [
        *TINY,
        "augment.weak.short_side=[64]",
        "augment.weak.sampling=choice",
        "detector.freeze_batch_norm=true",  # live statistics are those of a process's own images
        "data.labeled_batch=4",
        "data.unlabeled_batch=4",
        "method.group_size=2",
        "method.count_padding=true",
        "method.ratio=0.1",
        "method.burn_in=2",
        "method.ramp=2",
        "schedule.max_steps=6",
        *overrides,
    ]
    for option in options:
        command += ["--set", option]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return CheckpointFolder(output / "checkpoints").load_newest()


@pytest.mark.parametrize("options", [[], ["schedule.accumulate=2", "method.group_size=1"]])
def test_two_processes_equal_one(squares, tmp_path, options):
    one = train(squares, tmp_path / "one", 1, *(option for option in options if "accumulate" not in option))
    two = train(squares, tmp_path / "two", 2, *options)
    assert one["step"] == two["step"] == 6
    # the parts of an accumulated step have their own normalizers, so only plain processes are the same run
    tolerance = 1e-5 if not options else 1e-2
    for role in ("student", "teacher"):
        for key, value in one[role].items():
            torch.testing.assert_close(
                value, two[role][key], rtol=tolerance, atol=tolerance, msg=lambda m, k=key: f"{k}: {m}"
            )
    assert (tmp_path / "two" / "report.html").is_file()
