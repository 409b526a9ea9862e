"""Small things that several tests need."""

import json
import signal
import time

import numpy as np
import torch

import denseteacher
from denseteacher.structures import (
    METHOD_RANDOM,
    DenseOutput,
    ImageBatch,
    LabeledBatch,
    SemiBatch,
    Targets,
    UnlabeledBatch,
)

TIMING = {"data_wait", "step_seconds", "images_per_second", "mfu"}
"""Keys of ``metrics.jsonl`` that differ between two runs of the same recipe."""


def sigmoid64(logits):
    return np.exp(-np.logaddexp(0, -np.asarray(logits, dtype=np.float64)))


def giou_rows(first, second):
    """GIoU of (n, 4) boxes, one row at a time, in float64."""
    result = np.zeros(len(first))
    for i, (a, b) in enumerate(zip(first.astype(np.float64), second.astype(np.float64), strict=True)):
        w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
        hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
        result[i] = (w * h / union if union else 0.0) - ((hull - union) / hull if hull else 0.0)
    return result


def dense_output(seed, *, batch, locations, classes):
    """Random predictions, with a random part of the locations in the padding."""
    rng = torch.Generator().manual_seed(seed)
    corner = torch.rand((locations, 2), generator=rng) * 100
    return DenseOutput(
        logits=torch.randn((batch, locations, classes), generator=rng) * 2 - 2,
        deltas=torch.rand((batch, locations, 4), generator=rng) * 3,
        quality=torch.randn((batch, locations), generator=rng),
        anchors=torch.cat((corner, corner + 8), dim=1),
        valid=torch.rand((batch, locations), generator=rng) < 0.7,
    )


def image_batch(seed, *, batch, height, width, sizes=None):
    rng = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=rng)
    return ImageBatch(pixels, torch.tensor(sizes if sizes is not None else [[height, width]] * batch))


def images_on_canvas(sizes, canvas, seed=0):
    """Random images of these heights and widths, each with black padding right and below."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.zeros(len(sizes), 3, *canvas, dtype=torch.uint8)
    for row, (height, width) in zip(pixels, sizes, strict=True):
        row[:, :height, :width] = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    return ImageBatch(pixels, torch.tensor(sizes))


def student_and_teacher(kind):
    """Two small detectors of three classes that are not trained."""
    torch.manual_seed(0)
    options = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1}
    return tuple(kind(num_classes=3, **options).eval() for _ in range(2))


def random_targets(seed, *, batch, boxes, classes, extent=96):
    """Padded ground truth; some images have fewer boxes, perhaps none."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(-4, extent * 0.9, (batch, boxes, 2))
    sides = rng.uniform(2, extent, (batch, boxes, 2))
    xyxy = np.concatenate([corner, corner + sides], axis=2).astype(np.float32)
    counts = rng.integers(0, boxes + 1, batch)
    mask = np.arange(boxes)[None] < counts[:, None]
    return Targets(
        torch.from_numpy(xyxy * mask[..., None]),
        torch.from_numpy(rng.integers(0, classes, (batch, boxes)) * mask),
        torch.from_numpy(mask),
    )


def semi_batch(seed=0, *, labeled=2, unlabeled=2, side=64, classes=3):
    rng = torch.Generator().manual_seed(seed)
    return SemiBatch(
        LabeledBatch(
            image_batch(seed, batch=labeled, height=side, width=side),
            image_batch(seed + 1, batch=labeled, height=side, width=side),
            random_targets(seed, batch=labeled, boxes=3, classes=classes, extent=side),
        ),
        UnlabeledBatch(
            weak=image_batch(seed + 2, batch=unlabeled, height=side, width=side),
            strong=image_batch(seed + 3, batch=unlabeled, height=side, width=side),
            positions=torch.randperm(20, generator=rng)[:unlabeled],
            to_weak=torch.eye(3).repeat(unlabeled, 1, 1),
            to_strong=None,
            random=torch.rand((unlabeled, METHOD_RANDOM), generator=rng),
            hidden_targets=random_targets(seed + 4, batch=unlabeled, boxes=3, classes=classes, extent=side),
        ),
    )


def tensors_of(value):
    """All tensors in nested tuples and dicts."""
    if isinstance(value, torch.Tensor):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return [tensor for one in inner for tensor in tensors_of(one)]


def changed_json(file, folder, change):
    """A copy of a JSON in a folder, with what ``change`` does to its content."""
    content = json.loads(file.read_text())
    change(content)
    path = folder / "changed.json"
    path.write_text(json.dumps(content))
    return path


def trained_below(folder, options, **data):
    """A function that trains into a folder of this name below another one."""

    def train(name, *overrides, recipe="custom", **more):
        return denseteacher.train(recipe, output=folder / name, overrides=[*options, *overrides], **data, **more)

    return train


def wait_for_rows(process, log, rows, *, seconds):
    """Waits until a process has logged so many rows."""
    deadline = time.monotonic() + seconds  # of a machine with other work
    while not (log.exists() and log.read_text().count("\n") >= rows):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def last_state(folder):
    """The newest checkpoint of a run."""
    from denseteacher.training.checkpoint import CheckpointFolder

    return CheckpointFolder(folder / "checkpoints").load_newest()


def assert_same(first, second, where="state"):
    """Bit for bit, but for the recipe that names other folders or workers."""
    if isinstance(first, dict):
        assert first.keys() == second.keys(), where
        for key in first.keys() - {"recipe"}:
            assert_same(first[key], second[key], f"{where}[{key!r}]")
    elif isinstance(first, list | tuple):
        assert len(first) == len(second), where
        for index, pair in enumerate(zip(first, second, strict=True)):
            assert_same(*pair, f"{where}[{index}]")
    elif isinstance(first, torch.Tensor):
        assert first.dtype == second.dtype, where
        assert torch.equal(first, second), where
    else:
        assert first == second or (first != first and second != second), where  # NaN where nothing is to be found


def stop_after(monkeypatch, step, number=signal.SIGTERM):
    """Sends this process a signal once so many steps of a run have been reported."""
    from denseteacher.training.step_reports import StepReports

    original = StepReports.after_step

    def after_step(reports, *arguments):
        original(reports, *arguments)
        if reports.step == step:
            signal.raise_signal(number)

    monkeypatch.setattr(StepReports, "after_step", after_step)
