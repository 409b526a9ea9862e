"""Starts a detector from another one: ``detector.init``."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor

from denseteacher.detectors.class_names import match_classes
from denseteacher.detectors.coco_weights import (
    coco_categories,
    coco_weights,
    fetch,
    has_coco_weights,
    trained_without_epsilon,
)
from denseteacher.detectors.composed import ComposedConfig
from denseteacher.detectors.files import DETECTOR_FILE, load_detector
from denseteacher.detectors.pyramid import PyramidConfig, PyramidDetector
from denseteacher.detectors.torchvision_weights import read_torchvision, with_epsilon
from denseteacher.detectors.weight_files import (
    kinds_of,
    read_state_dict,
    require_finite,
    require_fitting,
    state_dict_in,
)
from denseteacher.errors import InputError

_NORM_EPSILON = 1e-5
_SHOWN_CLASSES = 10


class InitialWeights(NamedTuple):
    """A detector to start from."""

    source: str
    """Source of the weights, in words."""
    file: Path
    config: ComposedConfig
    class_names: tuple[str, ...] | None
    """Class names by class index, empty where one is not used; None if they are not known."""
    weights: dict[str, Tensor]
    adopted: Mapping[str, Any] = MappingProxyType({})
    """Options that a recipe had otherwise and has from it now."""
    lacks: tuple[str, ...] = ()
    """Branches of the head that it can't fill."""


class TakenOver(NamedTuple):
    """What a detector has from another one."""

    source: str
    sha256: str
    """Digest of the file."""
    adopted: dict[str, Any]
    """Options that the recipe had otherwise."""
    classes: dict[str, str]
    """The other's name for each class whose rows were taken over."""
    fresh: tuple[str, ...]
    """Classes that start fresh."""
    names_known: bool
    """Whether the other's classes have names."""
    branches: tuple[str, ...] = ()
    """Branches of the head that start fresh, since the other lacks them."""

    def sentence(self) -> str:
        """A sentence for the reader of a run's output."""
        count = len(self.classes) + len(self.fresh)
        if not self.names_known:
            rows = f"the class branch, whose {count} classes start fresh, since the names of the file's are not known"
            text = f"starts from {self.source}: taken over is all but {rows}"
        else:
            text = f"starts from {self.source}: taken over is all, of the class branch {len(self.classes)} of {count} "
            text += f"classes{_in_brackets(self.classes)}"
            text += f", not {', '.join(self.fresh[:_SHOWN_CLASSES])}" if self.fresh else ""
            text += ", ..." if len(self.fresh) > _SHOWN_CLASSES else ""
        if self.branches:
            text += f"; the head's {' and '.join(self.branches)} start fresh"
        if self.adopted:
            text += f". Adopted from it: {', '.join(f'detector.{key}={value}' for key, value in self.adopted.items())}"
        return text


def find_initial(config: ComposedConfig) -> InitialWeights:
    """Reads what ``detector.init`` names: ``coco`` or a path.

    Args:
        config: Says which, and for ``coco`` of which architecture.

    Raises:
        InputError: If it can't be had, or is not a detector.
    """
    if config.init == "coco":
        weights = coco_weights(config)
        file, content = fetch(weights)
        found = _from_torchvision(file, state_dict_in(file, content), source=f"torchvision's {weights}")
        return _as_gfl(found, config)
    file = Path(config.init)
    if file.is_dir():
        file = file / DETECTOR_FILE
        if not file.is_file():
            raise InputError(f"{config.init} is not a folder of a finished run: there is no {DETECTOR_FILE} in it")
    if not file.is_file():
        raise InputError(
            f"there is no file or run folder {config.init}: give backbone, coco, auto, or the path of a torchvision "
            f".pth, a {DETECTOR_FILE} or a run folder"
        )
    if file.suffix == ".safetensors":
        detector, card = load_detector(file)
        names = tuple(name for _, name in card.categories)
        return InitialWeights(str(file), file, card.detector, names, detector.state_dict())
    return _as_gfl(_from_torchvision(file, read_state_dict(file), source=str(file)), config)


def take_over(detector: PyramidDetector, initial: InitialWeights, class_names: Sequence[str]) -> TakenOver:
    """Fills a new detector from another one; what has no class of the same name there stays as it is.

    Args:
        detector: As built: its class branch says the prior everywhere.
        initial: Initial weights of the same architecture.
        class_names: Class names of the detector, by class index.

    Raises:
        InputError: If the architectures differ.
    """
    matches = match_classes(class_names, initial.class_names or ())
    own = detector.state_dict()
    lacks = set(initial.lacks) | ({"quality"} if "head.quality.weight" not in initial.weights else set())
    branches = tuple(name for name in sorted(lacks) if any(key.startswith(tuple(_keys([name]))) for key in own))
    for key, value in own.items():
        other = initial.weights.get(key)
        if branches and key.startswith(tuple(_keys(branches))):
            continue
        if other is None and key.endswith("num_batches_tracked"):
            continue  # frozen batch norms don't count
        if other is None and key.startswith("backbone.finer."):
            continue  # detections need none
        rows = int(key.startswith("head.cls."))
        if other is None or other.shape[rows:] != value.shape[rows:]:
            raise InputError(f"{initial.source} has another architecture than this detector: {key!r} does not fit")
        if rows:
            _copy_rows(value, other, detector.anchors_per_location, matches)
        else:
            value.copy_(other)
    names = initial.class_names or ()
    return TakenOver(
        source=initial.source,
        sha256=_sha256(initial.file),
        adopted=dict(initial.adopted),
        classes={class_names[one]: names[other] for one, other in matches.items()},
        fresh=tuple(name for number, name in enumerate(class_names) if number not in matches),
        names_known=initial.class_names is not None,
        branches=branches,
    )


def starts_from_detector(config: ComposedConfig) -> bool:
    """Whether ``detector.init`` names a detector; ``auto`` does where there is one of the architecture."""
    return has_coco_weights(config) if config.init == "auto" else config.init != "backbone"


def _copy_rows(value: Tensor, other: Tensor, anchors: int, matches: Mapping[int, int]) -> None:
    """Copies the classes' rows of a convolution with ``anchors`` times as many rows as classes, anchor by anchor."""
    own, theirs = (tensor.view(anchors, -1, *tensor.shape[1:]) for tensor in (value, other))
    for one, another in matches.items():
        own[:, one].copy_(theirs[:, another])


def _from_torchvision(file: Path, tensors: Mapping[str, Tensor], *, source: str) -> InitialWeights:
    try:
        found = read_torchvision(tensors)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    if found is None:
        raise InputError(f"{file} is not an FCOS or RetinaNet of torchvision's")
    require_fitting(lambda: found.config.build(found.num_classes), kinds_of(found.weights), source=str(file))
    require_finite(found.weights, source=str(file))
    weights = found.weights
    if trained_without_epsilon(file):
        weights = with_epsilon(weights, trained=0.0, used=_NORM_EPSILON)
    categories = coco_categories()
    names = categories if found.num_classes == len(categories) else None
    return InitialWeights(source, file, found.config, names, weights)


def _as_gfl(initial: InitialWeights, config: ComposedConfig) -> InitialWeights:
    """An FCOS of torchvision's as a GFL where that is wanted: its backbone, pyramid, towers and class branch."""
    if config.name != "gfl" or initial.config.name != "fcos":
        return initial
    shared = {key: getattr(initial.config, key) for key in PyramidConfig.architecture if key != "name"}
    lacks = ("box", "scales", "quality")
    weights = {key: one for key, one in initial.weights.items() if not key.startswith(tuple(_keys(lacks)))}
    return initial._replace(config=config.model_copy(update=shared), weights=weights, lacks=lacks)


def _keys(branches: Collection[str]) -> list[str]:
    """How the tensors of branches of the head begin."""
    return [f"head.{name}" if name == "scales" else f"head.{name}." for name in branches]


def _in_brackets(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_SHOWN_CLASSES])
    return f" ({shown}{', ...' if len(names) > _SHOWN_CLASSES else ''})" if names else ""


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
