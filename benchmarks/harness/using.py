"""Inference and evaluation: images a second of a predictor, seconds of COCO's metrics."""

import time
from typing import Any

import numpy as np
import torch

from denseteacher.data.records import LabeledImages
from denseteacher.detectors import DetectorCard
from denseteacher.evaluation.coco_map import coco_map
from denseteacher.hardware import this_machine
from denseteacher.inference.predictor import Predictor
from denseteacher.recipes import Recipe, resolve
from harness.timing import in_turns, medians


def measure_inference(
    recipe: Recipe, *, classes: int, batch: int, height: int, width: int, rounds: int
) -> dict[str, float]:
    """Times prediction on made-up arrays: resizing, forward, NMS.

    Args:
        recipe: Says detector, evaluation size and device.
        classes: K.
        batch: Images a forward.
        height: Of the arrays, in pixels.
        width: Of the arrays.
        rounds: That count.
    """
    detector = recipe.detector.build(classes).eval()
    recipe = resolve(recipe, labeled=LabeledImages([], [], [], []), unlabeled=0, machine=this_machine())
    view = recipe.evaluation.view
    card = DetectorCard(
        detector=recipe.detector,
        categories=tuple((number, str(number)) for number in range(classes)),
        short_side=view.short_side,
        max_side=view.max_side,
        trained={},
    )
    predictor = Predictor(detector, card, device=torch.device(recipe.runtime.device))
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(batch)]
    work = {"predict": lambda: predictor.predict(images, batch_size=batch)}
    seconds = medians(in_turns(work, rounds=rounds, device=predictor.device))["predict"]
    return {"images/s": batch / seconds}


def measure_evaluation(*, images: int = 5000, detections: int = 100, classes: int = 80) -> dict[str, float]:
    """Seconds of COCO's metrics on made-up detections, seven objects an image, half of them found."""
    rng = np.random.default_rng(0)
    truth = [_box(rng) for _ in range(images * 7)]
    owners = np.repeat(np.arange(1, images + 1), 7)
    labels = rng.integers(1, classes + 1, len(truth))
    annotations: list[dict[str, Any]] = [
        {"id": number, "image_id": int(owner), "category_id": int(label), "bbox": box, "area": box[2] * box[3]}
        for number, (owner, label, box) in enumerate(zip(owners, labels, truth, strict=True), 1)
    ]
    content = {
        "images": [{"id": number} for number in range(1, images + 1)],
        "categories": [{"id": number, "name": str(number)} for number in range(1, classes + 1)],
        "annotations": annotations,
    }
    results = []
    for image in range(1, images + 1):
        own = annotations[(image - 1) * 7 : image * 7 : 2]
        results += [{**_result(one["bbox"], rng), "image_id": image, "category_id": one["category_id"]} for one in own]
        results += [
            {**_result(_box(rng), rng), "image_id": image, "category_id": int(rng.integers(1, classes + 1))}
            for _ in range(detections - len(own))
        ]
    start = time.perf_counter()
    found = coco_map(content, results)
    return {"seconds": time.perf_counter() - start, "AP": found.values["AP"]}


def _box(rng: np.random.Generator) -> list[float]:
    x, y, w, h = rng.random(4)
    return [float(x * 400), float(y * 300), float(8 + w * 200), float(8 + h * 150)]


def _result(box: list[float], rng: np.random.Generator) -> dict[str, Any]:
    moved = [side + float(rng.normal()) for side in box]
    return {"bbox": moved, "score": float(rng.random())}
