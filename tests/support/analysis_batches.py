"""Outputs of a detector that was never trained, on images that never were."""

from types import SimpleNamespace

import numpy as np
import torch

from denseteacher.analysis.outputs import DetectorOutputs, OutputBatch
from denseteacher.detectors import FCOS, GFL, RetinaNet
from denseteacher.structures import DenseOutput, ImageBatch, Targets

SIDE, CLASSES = 64, 3


def make_detector(name):
    options = {"backbone": "test_byobnet", "levels": (3, 5), "channels": 16, "head_convs": 1}
    if name == "fcos":
        return FCOS(num_classes=CLASSES, **options, size_factor=4.0).eval()
    if name == "gfl":
        return GFL(num_classes=CLASSES, **options).eval()
    return RetinaNet(num_classes=CLASSES, **options, anchor_scale=2.0).eval()


def make_batch(detector, seed, *, size=3):
    """Confident guesses at some places, objects near some of them, and others where nothing was found."""
    rng = np.random.default_rng(seed)
    anchors = detector.anchors((SIDE, SIDE), torch.device("cpu"))
    count = len(anchors)
    logits = torch.from_numpy(rng.normal(-3, 1.0, (size, count, CLASSES)).astype(np.float32))
    for image in range(size):
        sure = rng.choice(count, 12, replace=False)
        logits[image, sure, rng.integers(0, CLASSES, 12)] = torch.from_numpy(rng.uniform(0, 4, 12).astype(np.float32))
    deltas = (
        rng.normal(0, 0.1, (size, count, 4))
        if detector.config.name == "retinanet"
        else rng.uniform(1, 3, (size, count, 4))
    )
    if detector.config.name == "gfl":  # distributions about these distances
        deltas = -4 * (np.arange(17) - deltas[..., None]).reshape(size, count, -1) ** 2
    quality = torch.full((size, count), 2.0) if detector.config.name == "fcos" else None
    sizes = torch.tensor([[SIDE, SIDE], [SIDE, 40], [48, SIDE]][:size])
    x, y = (anchors[:, 0] + anchors[:, 2]) / 2, (anchors[:, 1] + anchors[:, 3]) / 2
    valid = (x[None] < sizes[:, 1:]) & (y[None] < sizes[:, :1])
    output = DenseOutput(logits, torch.from_numpy(deltas.astype(np.float32)), quality, anchors, valid)
    boxes = detector.decode(output).boxes
    best = (logits.amax(-1).masked_fill(~valid, -9)).topk(6, dim=1).indices
    near = (
        boxes.gather(1, best[..., None].expand(-1, -1, 4)) + torch.from_numpy(rng.uniform(-3, 3, (size, 6, 4))).float()
    )
    label = logits.argmax(-1).gather(1, best)
    mask = torch.tensor([[True] * 4 + [False] * 2, [True] * 3 + [False] * 3, [False] * 6][:size])
    limit = sizes.flip(1).repeat(1, 2)[:, None].float()
    near = near.clamp(min=0).minimum(limit)
    objects = Targets(near * mask[..., None], label * mask, mask)
    ignored = Targets(
        torch.tensor([[0.0, 0, 30, 30]]).repeat(size, 1, 1),
        torch.ones(size, 1, dtype=torch.int64),
        torch.tensor([[True], [False], [True]][:size]),
    )
    ignored = ignored._replace(boxes=ignored.boxes * ignored.mask[..., None])
    images = ImageBatch(torch.zeros(size, 3, SIDE, SIDE, dtype=torch.uint8), sizes)
    return OutputBatch(images, output, objects, ignored)


class MadeUpOutputs(DetectorOutputs):
    """Batches that are there already."""

    def __init__(self, detector, batches):
        predictor = SimpleNamespace(
            detector=detector, device=torch.device("cpu"), card=SimpleNamespace(detector=detector.config)
        )
        images = [None] * sum(len(batch.images.sizes) for batch in batches)
        truth = SimpleNamespace(objects=SimpleNamespace(images=images))
        super().__init__(predictor, truth, batch_size=3)
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def made_up_outputs(name="fcos", *, batches=4):
    torch.manual_seed(0)
    detector = make_detector(name)
    return MadeUpOutputs(detector, [make_batch(detector, seed) for seed in range(batches)])
