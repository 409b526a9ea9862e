"""Which images to label next: a score from doubts and rare classes, and a choice of images that differ."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from denseteacher.data.records import ImageRecord
from denseteacher.evaluation.arrays import Floats
from denseteacher.structures import Detections


class Choice(NamedTuple):
    """An image that was chosen."""

    place: int
    """Place among the candidates."""
    distance: float
    """Distance of its features to those of the nearest image that was labeled or chosen before it, from 0 to 2; 2 where
    there is none."""


class RareObject(NamedTuple):
    """The detection that makes an image rare."""

    rarity: float
    """Score times the rarity of its class."""
    label: int
    """Class index."""
    score: float


FARTHEST = 2.0
"""Largest distance of two features of length 1."""


def shares_below(values: Floats) -> Floats:
    """(n,) share of the other images that have a lower value than each."""
    lower = np.searchsorted(np.sort(values), values, side="left")
    shares: Floats = lower / max(len(values) - 1, 1)
    return shares


def class_rarity(labeled: Floats, found: Floats) -> Floats:
    """(K,) how much rarer each class is among the labels than it should be; 0 where it is not.

    It should be as frequent as in the middle between what the pool's detections say and equal shares: metrics count
    classes alike. The rarity is the logarithm of that share over the share among the labels. One object a class is
    added to both counts.

    Args:
        labeled: (K,) labeled objects of each class.
        found: (K,) objects in the pool, the sum of the scores of the detections.
    """
    classes = len(labeled)
    of_labels, of_pool = ((counts + 1) / (counts.sum() + classes) for counts in (labeled, found))
    rarity: Floats = np.log((of_pool + 1 / classes) / 2 / of_labels).clip(min=0)
    return rarity


def rarest_object(detections: Detections, rarity: Floats) -> RareObject | None:
    """The detection with the largest product of score and rarity of its class; None without detections.

    Args:
        detections: Those of an image.
        rarity: (K,) of the classes.
    """
    if not len(detections.scores):
        return None
    scores, labels = detections.scores.double().numpy(), detections.labels.numpy()
    place = int(np.argmax(scores * rarity[labels]))
    return RareObject(float(scores[place] * rarity[labels[place]]), int(labels[place]), float(scores[place]))


def found_objects(detections: Sequence[Detections], classes: int) -> Floats:
    """(K,) sum of the scores of the detections of each class."""
    labels = np.concatenate([np.zeros(0, np.int64), *(one.labels.numpy() for one in detections)])
    scores = np.concatenate([np.zeros(0), *(one.scores.double().numpy() for one in detections)])
    return np.bincount(labels, scores, minlength=classes).astype(np.float64)


def choose(scores: Floats, features: Floats, known: Floats, count: int) -> list[Choice]:
    """Chooses images greedily: each time the largest product of score and distance to the nearest known or chosen one.

    With equal scores that is the greedy choice of k centers (Sener and Savarese, 2018). An image like one that is
    labeled or chosen has hardly a distance, so that it comes behind all others.

    Args:
        scores: (n,) not below 0.
        features: (n, C) of length 1.
        known: (m, C) of length 1, of the labeled images; m may be 0.
        count: How many to choose; all where there are not as many.
    """
    nearest = np.full(len(scores), FARTHEST)
    if len(known):
        nearest = _distance((features @ known.T).max(1))
    left, chosen = np.ones(len(scores), bool), list[Choice]()
    for _ in range(min(count, len(scores))):
        place = int(np.argmax(np.where(left, scores * nearest, -1.0)))
        chosen.append(Choice(place, float(nearest[place])))
        left[place] = False
        nearest = np.minimum(nearest, _distance(features @ features[place]))
    return chosen


def _distance(cosines: Floats) -> Floats:
    """Distances of features of length 1 by their products."""
    distances: Floats = np.sqrt(np.maximum(2 - 2 * cosines, 0))
    return distances


class Reason(NamedTuple):
    """A part of an image's score."""

    part: str
    """``student``, ``mirror``, ``entropy`` or ``rarity``."""
    value: float
    share: float
    """Share of the other images of the pool with a lower value."""
    text: str
    """The part in words."""


class Pick(NamedTuple):
    """A suggested image."""

    record: ImageRecord
    score: float
    """Mean of the shares of its reasons."""
    distance: float
    """See ``Choice``."""
    reasons: list[Reason]
    """The strongest first."""
    draft: Detections
    """Boxes to correct."""

    @property
    def novelty(self) -> str:
        """The distance in words."""
        if self.distance == FARTHEST:
            return "the first: there is nothing that it could be like"
        return f"{self.distance:.2f} from the nearest image that is labeled or picked before it (0: the same)"

    def content(self) -> dict[str, object]:
        """All that is known of it, for a JSON file."""
        boxes, scores, labels = (field.tolist() for field in self.draft)
        return {
            "file": str(self.record.path.absolute()),
            "score": self.score,
            "distance": self.distance,
            "reasons": [one._asdict() for one in self.reasons],
            "novelty": self.novelty,
            "draft": {"boxes": boxes, "scores": scores, "labels": labels},
        }


_TEXTS = {
    "student": "teacher and student differ by {value:.2f}",
    "mirror": "the image and its mirror image differ by {value:.2f}",
    "entropy": "the scores are undecided by {value:.2f} bits a location",
    "rarity": "{name!r} may be in it (score {score:.2f}), a class that labels are short of",
}


def reasons_of(
    values: Mapping[str, float], shares: Mapping[str, float], rare: RareObject | None, names: Sequence[str]
) -> list[Reason]:
    """The parts of an image's score in words, the strongest first; without a rare object that part is left out.

    Args:
        values: Value of each part.
        shares: Share of the other images below it.
        rare: The rarest object of the image.
        names: By class index.
    """
    reasons = []
    for part, value in values.items():
        if part == "rarity" and (rare is None or not value):
            continue
        words = {} if rare is None else {"name": names[rare.label], "score": rare.score}
        text = f"{_TEXTS[part].format(value=value, **words)}: more than in {shares[part]:.0%} of the pool"
        reasons.append(Reason(part, value, shares[part], text))
    return sorted(reasons, key=lambda reason: -reason.share)
