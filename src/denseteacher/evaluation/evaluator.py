"""Runs a detector over images, and over a labeled data set to get its metrics."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from denseteacher.data.augment.weak import EvalView, pad_batch
from denseteacher.data.images import load_image
from denseteacher.data.loading.workers import begin_worker, loading
from denseteacher.data.open import Validation
from denseteacher.data.records import Category, ImageRecord
from denseteacher.detectors import DenseDetector
from denseteacher.errors import InputError
from denseteacher.evaluation.metrics import Metrics, check_metrics, measure
from denseteacher.structures import Detections, ImageBatch


class _Batches(Dataset[ImageBatch | InputError]):
    """Images at evaluation size, in fixed batches."""

    def __init__(self, batches: list[list[ImageRecord]], view: EvalView) -> None:
        self.batches = batches
        self.view = view

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> ImageBatch | InputError:
        try:
            return pad_batch([self.view.apply(load_image(record)) for record in self.batches[index]])
        except InputError as error:  # an exception would lose its type on the way out of a worker
            return error


def detect_images(
    detector: DenseDetector,
    images: Sequence[ImageRecord],
    *,
    view: EvalView,
    device: torch.device,
    batch_size: int = 8,
    workers: int = 0,
) -> Iterator[tuple[ImageRecord, Detections]]:
    """Detections of every image, on the CPU and in the pixels of its file.

    Images come in order of their shape, so that a batch has little padding, not in the order given.

    Raises:
        InputError: If an image can't be read.
    """
    ordered = sorted(images, key=lambda record: record.height / record.width)
    batches = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    loader = DataLoader(
        _Batches(batches, view),
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        worker_init_fn=begin_worker,
    )
    with loading(loader) as stream:
        for records in batches:
            batch = next(stream)
            if isinstance(batch, InputError):
                raise batch
            file_sizes = [(record.height, record.width) for record in records]
            yield from zip(records, detect_batch(detector, batch, file_sizes, device), strict=True)


@torch.no_grad()
def detect_batch(
    detector: DenseDetector, batch: ImageBatch, file_sizes: Sequence[tuple[int, int]], device: torch.device
) -> list[Detections]:
    """Detections of one batch, on the CPU and in the pixels of the images before they were resized.

    Args:
        detector: On ``device``, in eval mode.
        batch: At evaluation size, on the CPU.
        file_sizes: Height and width of each image before.
        device: Where to compute.
    """
    found = detector.detect(detector(ImageBatch(batch.pixels.to(device), batch.sizes.to(device))), batch.sizes)
    return in_file_pixels(found, batch.sizes, file_sizes)


def in_file_pixels(
    found: Sequence[Detections], sizes: Tensor, file_sizes: Sequence[tuple[int, int]]
) -> list[Detections]:
    """Detections on resized images, on the CPU and in the pixels of the images before.

    Args:
        found: Of B images.
        sizes: (B, 2) height and width of each image.
        file_sizes: Height and width of each image before.
    """
    moved = []
    for detections, (height, width), (file_height, file_width) in zip(found, sizes.tolist(), file_sizes, strict=True):
        x, y = file_width / width, file_height / height
        boxes = detections.boxes.cpu() * torch.tensor([x, y, x, y])
        moved.append(Detections(boxes, detections.scores.cpu(), detections.labels.cpu()))
    return moved


def coco_results(image_id: int, detections: Detections, categories: Sequence[Category]) -> list[dict[str, Any]]:
    """Detections of one image as COCO result entries."""
    ids = [category.id for category in categories]
    boxes = detections.boxes.double().numpy()
    corners_and_sides = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return [
        {"image_id": image_id, "category_id": ids[label], "bbox": box, "score": score}
        for box, score, label in zip(
            corners_and_sides.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        )
    ]


class Evaluator:
    """Metrics of any detector on one data set."""

    def __init__(
        self,
        validation: Validation,
        categories: Sequence[Category],
        *,
        view: EvalView,
        batch_size: int,
        workers: int = 0,
        metrics: Sequence[str] = ("coco",),
    ) -> None:
        """Takes what to evaluate on, and the classes.

        Raises:
            InputError: If there is nothing to evaluate on, or no such metric.
        """
        if not validation.images or not validation.ground_truth["annotations"]:
            raise InputError(f"{validation.path} has no annotated images to evaluate on")
        check_metrics(metrics)
        self.images, self.ground_truth = validation.images, validation.ground_truth
        self.categories, self.metrics = categories, metrics
        self.view, self.batch_size, self.workers = view, batch_size, workers

    def __call__(self, detector: DenseDetector, device: torch.device) -> tuple[Metrics, list[dict[str, Any]]]:
        """The metrics, and the COCO results they are computed from."""
        results: list[dict[str, Any]] = []
        for record, detections in detect_images(
            detector,
            self.images,
            view=self.view,
            device=device,
            batch_size=self.batch_size,
            workers=self.workers,
        ):
            results.extend(coco_results(record.id, detections, self.categories))
        return measure(self.ground_truth, results, self.metrics), results
