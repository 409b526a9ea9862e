"""Whether a teacher's scores are what they claim: of things scored 0.7, seven in ten should be right."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from denseteacher.analysis.outputs import DetectorOutputs, known_locations, match_boxes, share
from denseteacher.evaluation.matching import IGNORED
from denseteacher.ops.assignment import IGNORED as UNTRAINED

BINS = 10


class Reliability(NamedTuple):
    """Sums over what is scored, a bin of scores each; bins are of equal width."""

    counts: Tensor
    """(BINS,) fp64."""
    scores: Tensor
    """(BINS,) sum of scores."""
    right: Tensor
    """(BINS,) how many are right."""

    @property
    def error(self) -> float | None:
        """Expected calibration error: mean distance of a bin's score from its share that is right, by count."""
        return share(float((self.scores - self.right).abs().sum()), float(self.counts.sum()))

    @property
    def curve(self) -> list[dict[str, float | None]]:
        """Mean score and share that is right of each bin."""
        rows = zip(self.counts.tolist(), self.scores.tolist(), self.right.tolist(), strict=True)
        return [
            {"count": int(count), "score": share(score, count), "right": share(right, count)}
            for count, score, right in rows
        ]


def reliability(scores: Tensor, right: Tensor) -> Reliability:
    """Sorts (n,) scores in [0, 1] into bins, with whether each is right."""
    scores, right = scores.double().cpu(), right.double().cpu()
    which = (scores * BINS).long().clamp(max=BINS - 1)
    return Reliability(*(torch.bincount(which, one, BINS) for one in (torch.ones_like(scores), scores, right)))


def calibrate(outputs: DetectorOutputs) -> dict[str, Reliability]:
    """Reliability of locations and of detections.

    A location's highest class score is right where the assigner gives it an object of that class; a detection's
    score, from the detector's score floor on, where it is an object's.
    """
    locations, detections = [], []
    floor = outputs.predictor.card.detector.score_floor
    for batch in outputs:
        truth = outputs.assign(batch, batch.objects)
        counted = known_locations(batch, truth) & (truth.labels != UNTRAINED)
        score, label = outputs.detector.class_logits(batch.output).sigmoid().max(-1)
        locations.append(reliability(score[counted], (label == truth.labels)[counted]))
        found = outputs.pseudo_boxes(batch, floor)
        hits = match_boxes(found, batch.objects, batch.ignored)
        known = hits != IGNORED
        detections.append(reliability(found.scores.cpu()[known], (hits >= 0)[known]))
    return {"locations": _sum(locations), "detections": _sum(detections)}


def describe(found: dict[str, Reliability]) -> dict[str, Any]:
    """Error and curve of each."""
    return {name: {"ece": one.error, "bins": one.curve} for name, one in found.items()}


def _sum(parts: list[Reliability]) -> Reliability:
    return Reliability(*(torch.stack(column).sum(0) for column in zip(*parts, strict=True)))
