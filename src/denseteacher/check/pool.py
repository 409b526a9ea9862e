"""Whether the unlabeled images are like the labeled ones, by the features of the recipe's backbone.

Training on a pool of other images can be worse than training without: Unbiased Teacher fell below its own supervised
baseline on a contaminated one (see docs/sources.md, Contaminated pools).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import timm
import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor
from torch.nn.functional import normalize
from torchvision.transforms.v2.functional import resize

from denseteacher.check.findings import Finding, finding
from denseteacher.data.images import load_image
from denseteacher.data.records import ImageRecord
from denseteacher.detectors import PyramidConfig
from denseteacher.detectors.backbone import PyramidBackbone
from denseteacher.errors import InputError
from denseteacher.evaluation.arrays import Bools, Floats

_MOST = 200  # images of each kind
_SIDE = 224  # px; whole images, squeezed
_BATCH = 16
_PERMUTATIONS = 199
_SIGNIFICANT = 0.01
_FAR = 1.1  # times the distance between labeled images from which on a whole pool is called unlike them
_FEWEST = 5  # labeled images between which there are distances to speak of
_SHOWN = 8
_TINY = 1e-6

Network = Callable[[Tensor], Tensor]


class StrangeImage(NamedTuple):
    """An unlabeled image."""

    record: ImageRecord
    distance: float
    """Distance to its nearest labeled image, over the mean of that distance among labeled images."""


class PoolComparison(NamedTuple):
    """How far unlabeled images are from labeled ones."""

    labeled: int
    """Labeled images that were looked at; 0 where the comparison was left out."""
    unlabeled: int
    ratio: float | None
    """Mean distance of an unlabeled image to its nearest labeled one, over that of a labeled image to its nearest
    other one: 1 where both are drawn from the same."""
    p_value: float | None
    """Share of random exchanges of labeled and unlabeled images after which the two are as far apart, by their energy
    distance (Szekely and Rizzo, 2013)."""
    strange: int
    """Unlabeled images that are farther from the labeled ones than any of these is from the others."""
    strange_p_value: float | None
    """Share of random exchanges after which there are as many."""
    farthest: list[StrangeImage]
    """Unlabeled images by falling distance, the first few."""
    skipped: str = ""
    """Why nothing was compared."""

    @property
    def is_far(self) -> bool:
        """Whether the pool as a whole is unlike the labeled images."""
        return self.ratio is not None and self.ratio > _FAR and _is_significant(self.p_value)

    @property
    def sentence(self) -> str:
        """What was found, in a sentence."""
        if self.ratio is None:
            return f"Unlabeled images were not compared with labeled ones: {self.skipped}."
        lie = "lies" if self.strange == 1 else "lie"
        return (
            f"Unlabeled images are {self.ratio:.2f} times as far from the nearest labeled image as labeled ones from "
            f"each other (features of the backbone, {self.labeled} and {self.unlabeled} images, p = {self.p_value:.3f})"
            f"; {self.strange} of them {lie} farther off than any labeled one."
        )

    def findings(self) -> list[Finding]:
        """A warning where the pool, or a part of it, is unlike the labels."""
        if not self.is_far and not _is_significant(self.strange_p_value):
            return []
        examples = [f"{one.record.name}: {one.distance:.1f} times as far" for one in self.farthest]
        meaning = (
            "the teacher can label badly what no label is like: look at them (--html), and leave out what is alien"
        )
        kind, count = "unlabeled image unlike all labeled ones", self.strange
        if self.is_far:
            kind, count = "unlabeled images that are unlike the labeled ones", self.unlabeled
        return [replace(one, count=count) for one in finding("warning", kind, "unlabeled", examples, meaning)]

    def content(self) -> dict[str, object]:
        """Everything, for a JSON file."""
        farthest = [{"file": one.record.name, "distance": one.distance} for one in self.farthest]
        return self._asdict() | {"farthest": farthest}


def compare_pool(
    config: PyramidConfig, labeled: Sequence[ImageRecord], unlabeled: Sequence[ImageRecord], *, fetch: bool = False
) -> PoolComparison:
    """Compares images that can be read, evenly spread over both lists.

    Args:
        config: Its backbone and the weights of that.
        labeled: Labeled images.
        unlabeled: Unlabeled ones.
        fetch: Fetch the weights where they are not on this machine.
    """
    if len(labeled) < _FEWEST:
        return _skipped(f"{len(labeled)} labeled images are too few")
    pretrained: bool | str | None = config.pretrained
    if pretrained is False:
        return _skipped("detector.pretrained is false, and a backbone that was never trained sees little")
    if pretrained is True and not fetch:
        pretrained = _cached_weights(config.backbone)
    if pretrained is None:
        return _skipped(
            f"the weights of {config.backbone} are not on this machine; --pool fetches them, "
            "--set detector.pretrained=FILE names a file"
        )
    try:
        network = _network(config, pretrained)
    except InputError as error:
        return _skipped(str(error))
    _, own = image_features(network, spread(labeled, _MOST))
    records, others = image_features(network, spread(unlabeled, _MOST))
    if len(own) < _FEWEST or not len(others):
        return _skipped("too few images can be read")
    return compare_features(own, others, records)


def compare_features(own: Floats, others: Floats, records: Sequence[ImageRecord]) -> PoolComparison:
    """Compares features of images.

    Args:
        own: (n, C) features of the labeled images, n at least 2.
        others: (m, C) features of the unlabeled images, m at least 1.
        records: The m unlabeled images.
    """
    both = np.concatenate([own, others])
    distances = np.sqrt(np.maximum(2 - 2 * both @ both.T, 0))
    is_own = np.arange(len(both)) < len(own)
    random = np.random.default_rng(0)
    exchanged = [_measure(distances, random.permutation(is_own)) for _ in range(_PERMUTATIONS)]
    found = _measure(distances, is_own)
    _, to_own = _nearest(distances, is_own)
    order = np.argsort(-to_own, kind="stable")[:_SHOWN].tolist()
    return PoolComparison(
        len(own),
        len(others),
        ratio=float(to_own.mean()) / found.unit,
        p_value=_p_value(found.energy, [one.energy for one in exchanged]),
        strange=found.strange,
        strange_p_value=_p_value(found.strange, [one.strange for one in exchanged]),
        farthest=[StrangeImage(records[place], float(to_own[place]) / found.unit) for place in order],
    )


class _Measured(NamedTuple):
    unit: float
    """Mean distance of a labeled image to its nearest other one."""
    energy: float
    """Energy distance of labeled and unlabeled images."""
    strange: int
    """Unlabeled images farther from the labeled ones than any of these from the others."""


def _measure(distances: Floats, is_own: Bools) -> _Measured:
    """Measures how far apart two kinds of n + m images are.

    Args:
        distances: (n + m, n + m) between all of them.
        is_own: (n + m,) which are of the first kind.
    """
    among, to_own = _nearest(distances, is_own)
    one, other = is_own / is_own.sum(), ~is_own / (~is_own).sum()
    difference: Floats = one - other
    energy = -float(difference @ distances @ difference)
    return _Measured(max(float(among.mean()), _TINY), energy, int((to_own > among.max()).sum()))


def _nearest(distances: Floats, is_own: Bools) -> tuple[Floats, Floats]:
    """Distance to the nearest labeled image, of the labeled ones (another than itself) and of the others."""
    own = distances[np.ix_(is_own, is_own)]
    np.fill_diagonal(own, np.inf)
    return own.min(1), distances[np.ix_(~is_own, is_own)].min(1)


def _p_value(found: float, exchanged: Sequence[float]) -> float:
    return (1 + sum(one >= found for one in exchanged)) / (1 + len(exchanged))


def _is_significant(p_value: float | None) -> bool:
    return p_value is not None and p_value <= _SIGNIFICANT


def _skipped(reason: str) -> PoolComparison:
    return PoolComparison(0, 0, None, None, 0, None, [], reason)


def spread(images: Sequence[ImageRecord], most: int) -> list[ImageRecord]:
    """So many images that stand for all, evenly spread; all of them where they are fewer."""
    count = min(most, len(images))
    return [images[place * len(images) // count] for place in range(count)]


def _cached_weights(backbone: str) -> str | None:
    """The file of timm's weights where it was fetched before; nothing is asked for over the network."""
    cfg = timm.get_pretrained_cfg(backbone, allow_unregistered=True) if timm.is_model(backbone) else None
    if cfg is None or not cfg.hf_hub_id:
        return None
    found = (try_to_load_from_cache(cfg.hf_hub_id, name) for name in ("model.safetensors", "pytorch_model.bin"))
    return next((path for path in found if isinstance(path, str)), None)


def _network(config: PyramidConfig, pretrained: bool | str) -> Network:
    backbone = PyramidBackbone(config.backbone, pretrained=pretrained, levels=config.levels, channels=1).eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in backbone.pixel_statistics())
    return pooled_features(backbone, mean, std)


def pooled_features(backbone: PyramidBackbone, mean: Tensor, std: Tensor) -> Network:
    """Gives the (B, C) mean features of (B, 3, H, W) uint8 pixels, at length 1, on the CPU.

    Args:
        backbone: In eval mode.
        mean: What is subtracted from pixels, of shape (3, 1, 1) or (1, 3, 1, 1).
        std: What they are divided by after that.
    """

    @torch.no_grad()
    def features(pixels: Tensor) -> Tensor:
        last: Tensor = backbone.body((pixels.to(mean.device) - mean) / std)[-1]
        return normalize(last.mean((2, 3))).cpu()

    return features


def image_features(network: Network, images: Sequence[ImageRecord]) -> tuple[list[ImageRecord], Floats]:
    """The images that can be read, and their (n, C) features."""
    records, rows = list[ImageRecord](), list[Floats]()
    for start in range(0, len(images), _BATCH):
        read = [
            (record, pixels) for record in images[start : start + _BATCH] if (pixels := _pixels(record)) is not None
        ]
        if read:
            records += [record for record, _ in read]
            rows.append(network(torch.stack([pixels for _, pixels in read])).double().numpy())
    return records, np.concatenate(rows) if rows else np.zeros((0, 0))


def _pixels(record: ImageRecord) -> Tensor | None:
    """(3, S, S) pixels of a whole image; None where it can't be read, which is a finding of its own."""
    try:
        whole: Tensor = resize(load_image(record), [_SIDE, _SIDE], antialias=True)
    except InputError:
        return None
    return whole
