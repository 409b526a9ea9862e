"""What a teacher says of a fixed sample of the unlabeled images, in the numbers that ``training.health`` judges."""

from collections.abc import Iterator

import numpy as np
import torch

from denseteacher.data.augment.weak import EvalView, pad_batch
from denseteacher.data.images import load_image
from denseteacher.data.loading.steps import StepDataset
from denseteacher.data.records import ImageRecord, LabeledImages
from denseteacher.detectors import DenseDetector
from denseteacher.evaluation.arrays import Floats
from denseteacher.evaluation.evaluator import detect_batch
from denseteacher.structures import Detections
from denseteacher.training.health import CLASS_KL, IMAGES_WITHOUT, LABELED_WITHOUT, SCORE

_MOST = 64  # images
_STEPS = 64  # that are looked at for them


class UnlabeledSample:
    """The unlabeled images of a run's first steps: evenly drawn, and the same at every evaluation.

    They are looked at between steps, at evaluation size; no random number of the run is used.
    """

    def __init__(
        self, dataset: StepDataset, *, believed_above: float, view: EvalView, batch_size: int, device: torch.device
    ) -> None:
        """Opens nothing yet.

        Args:
            dataset: The run's steps.
            believed_above: Score above which a detection is a pseudo-label.
            view: Size of the images.
            batch_size: Images a forward.
            device: Where the teacher is.
        """
        self.dataset, self.believed_above = dataset.with_unlabeled(), believed_above
        self.view, self.batch_size, self.device = view, batch_size, device
        self._records: list[ImageRecord] = []

    def __call__(self, teacher: DenseDetector) -> dict[str, float]:
        """The numbers by name; empty where there are no unlabeled images.

        Args:
            teacher: In eval mode.

        Raises:
            InputError: If an image can't be read.
        """
        self._records = self._records or self._choose()
        found = list(self._detect(teacher))
        if not found:
            return {}
        labels = np.concatenate([one.labels[one.scores > self.believed_above].numpy() for one in found])
        best = [float(one.scores.max()) if len(one.scores) else 0.0 for one in found]
        labeled = self.dataset.labeled
        numbers = {
            IMAGES_WITHOUT: float(np.mean([score <= self.believed_above for score in best])),
            LABELED_WITHOUT: float(np.mean([not len(boxes) for boxes in labeled.boxes])),
            SCORE: float(np.mean(best)),
        }
        counts = _counts(labeled)
        if len(labels) and counts.any():
            numbers[CLASS_KL] = class_divergence(counts, np.bincount(labels, minlength=len(counts)).astype(np.float64))
        return numbers

    def _choose(self) -> list[ImageRecord]:
        chosen: dict[int, ImageRecord] = {}
        for step in range(_STEPS):
            chosen |= {view.position: view.record for view in self.dataset.plan(step).unlabeled}
            if len(chosen) >= _MOST:
                break
        records = list(chosen.values())[:_MOST]
        return sorted(records, key=lambda record: record.height / record.width)  # so that a batch has little padding

    def _detect(self, teacher: DenseDetector) -> Iterator[Detections]:
        for start in range(0, len(self._records), self.batch_size):
            records = self._records[start : start + self.batch_size]
            batch = pad_batch([self.view.apply(load_image(record)) for record in records])
            yield from detect_batch(teacher, batch, [(one.height, one.width) for one in records], self.device)


def class_divergence(labels: Floats, pseudo_labels: Floats) -> float:
    """Kullback-Leibler divergence of the pseudo-labels' classes from those of the labels, in nats.

    Few boxes of many classes say little: as many boxes as there are classes, drawn as the labels are, are added to the
    pseudo-labels.

    Args:
        labels: (K,) objects of each class, some.
        pseudo_labels: (K,) boxes of each class.
    """
    wanted = labels / labels.sum()
    given = (pseudo_labels + len(labels) * wanted) / (pseudo_labels.sum() + len(labels))
    there = wanted > 0
    return float((wanted[there] * np.log(wanted[there] / given[there])).sum())


def _counts(labeled: LabeledImages) -> Floats:
    """(K,) objects of each class."""
    labels = np.concatenate([np.zeros(0, np.int64), *labeled.labels])
    return np.bincount(labels, minlength=len(labeled.categories)).astype(np.float64)
