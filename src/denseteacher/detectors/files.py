"""A trained detector as one file: safetensors weights whose header holds all that is needed to use them."""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator
from safetensors.torch import save
from torch import Tensor, nn

from denseteacher.config import Config, MaxSide, ShortSide
from denseteacher.detectors import DetectorConfig
from denseteacher.detectors.older_options import with_old_statistics
from denseteacher.detectors.pyramid import PyramidDetector
from denseteacher.detectors.weight_files import content_hash, open_weights, require_finite, require_fitting
from denseteacher.errors import InputError
from denseteacher.files import parse_json, write_bytes

Id = Annotated[int, Field(ge=-(2**63), lt=2**63)]

DETECTOR_FILE = "detector.safetensors"
"""What the file of a run's detector is called: who is given a folder looks for it there."""
_HEADER_KEY = "denseteacher"
_HASH_KEY = "sha256"


_Score = Annotated[float, Field(ge=0, le=1)]


class BestScores(Config):
    """Score thresholds with the highest F1 on a detector's validation images, at IoU 0.5."""

    overall: _Score
    """Threshold of all classes together."""
    classes: tuple[_Score | None, ...]
    """Threshold of each class, by class index; None where no object of it was found."""

    @property
    def by_class(self) -> list[float]:
        """Threshold of each class, by class index; the one of all classes where it has none of its own."""
        return [self.overall if one is None else one for one in self.classes]


class DetectorCard(Config):
    """What a detector file says about itself."""

    detector: DetectorConfig
    categories: tuple[tuple[Id, str], ...] = Field(min_length=1)
    """(id, name) of each class, by class index."""
    short_side: ShortSide
    """Pixels that the shorter side of an image is resized to."""
    max_side: MaxSide
    trained: dict[str, str | int | float] = Field(default_factory=dict)
    """Where it comes from: recipe, step, teacher or student, AP."""
    best_scores: BestScores | None = None
    """Where to cut its detections; None where it was not evaluated at the end of its run, or by a version before."""

    @model_validator(mode="after")
    def _has_a_score_for_each_class(self) -> Self:
        if self.best_scores is not None and len(self.best_scores.classes) != len(self.categories):
            raise ValueError(f"best_scores are of {len(self.best_scores.classes)} classes, not {len(self.categories)}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _keep_what_it_was_trained_with(cls, content: Any) -> Any:
        if isinstance(content, dict) and isinstance(content.get("detector"), dict):
            return content | {"detector": with_old_statistics(content["detector"])}
        return content


def save_detector(path: Path, weights: Mapping[str, Tensor], card: DetectorCard) -> None:
    """Writes a detector file, whole or not at all.

    Raises:
        RunError: If the disk refuses.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    description = card.model_dump(mode="json")
    # one entry: safetensors writes several in an order that changes from call to call
    header = json.dumps(description | {_HASH_KEY: content_hash(description, tensors)}, ensure_ascii=False)
    write_bytes(path, save(tensors, metadata={_HEADER_KEY: header}))


def add_best_scores(path: Path, scores: BestScores) -> None:
    """Writes into a detector file where its detections are best cut; all else in it stays.

    Raises:
        InputError: If it is not a detector file, or is damaged.
        RunError: If the disk refuses.
    """
    with open_weights(path) as file:
        description, stated = _described(path, file.metadata)
        weights = file.read()
    _require_hash(path, stated, description, weights)
    card = _card(path, description | {"best_scores": scores.model_dump()})
    save_detector(path, weights, card)


def load_detector(path: Path, *, score_floor: float | None = None) -> tuple[PyramidDetector, DetectorCard]:
    """Reads a detector file: data, whoever wrote it. Nothing else is opened or asked for.

    Args:
        path: The file.
        score_floor: Overrides the detector's own.

    Returns:
        The detector in eval mode on the CPU, and its card.

    Raises:
        InputError: If the file is missing, damaged or no detector of this package, its tensors are not those of the
            detector that it describes, one of them is not finite, or the floor is not a score.
    """
    if score_floor is not None and not 0 <= score_floor < 1:
        raise InputError(f"a score floor is at least 0 and below 1, not {score_floor:g}")
    if not path.is_file():
        raise InputError(f"there is no detector file {path}")
    changes: dict[str, Any] = {"pretrained": False} | ({} if score_floor is None else {"score_floor": score_floor})
    with open_weights(path) as file:
        description, stated = _described(path, file.metadata)
        card = _card(path, description)
        config = card.detector.model_copy(update=changes)
        require_fitting(lambda: config.build(len(card.categories)), file.kinds, source=str(path))
        weights = file.read()
    _require_hash(path, stated, description, weights)
    require_finite(weights, source=str(path))
    detector = config.build(len(card.categories))
    load_weights(detector, weights, source=str(path))
    return detector.eval(), card.model_copy(update={"detector": config})


def _described(path: Path, metadata: Mapping[str, str]) -> tuple[dict[str, Any], Any]:
    """What a file says about itself, and the hash that it states; None where it states none."""
    if _HEADER_KEY not in metadata:
        raise InputError(f"{path} holds weights but no detector description: denseteacher did not write it")
    try:
        description = parse_json(metadata[_HEADER_KEY])
    except ValueError as error:
        raise InputError(f"{path} is not a detector file of denseteacher, or is damaged: {error}") from error
    if not isinstance(description, dict):
        raise InputError(
            f"{path} is not a detector file of denseteacher, or is damaged: its description is not a mapping"
        )
    return description, description.pop(_HASH_KEY, None)


def _require_hash(path: Path, stated: Any, description: dict[str, Any], weights: Mapping[str, Tensor]) -> None:
    if stated is None:
        warnings.warn(f"{path} was written before detector files had a hash: damage can't be noticed", stacklevel=3)
    elif stated != content_hash(description, weights):
        raise InputError(f"{path} is damaged: its content is not what its hash describes; use another copy")


def _card(path: Path, description: dict[str, Any]) -> DetectorCard:
    try:
        return DetectorCard.model_validate(description)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(one) for one in first["loc"])[:100]
        raise InputError(
            f"{path} is not a detector file of this denseteacher, or is damaged: {where!r}: {first['msg']}"
        ) from error


def load_weights(module: nn.Module, weights: Mapping[str, Any], *, source: str) -> None:
    """Loads a state dict, all or nothing.

    Raises:
        InputError: If it belongs to another architecture.
    """
    own = module.state_dict()
    given: Mapping[str, Any] = weights if isinstance(weights, Mapping) else {}
    unlike = [key for key, value in own.items() if not _is_like(given.get(key), value)]
    unlike += [key for key in given if key not in own]
    if unlike:
        raise InputError(
            f"{source} holds another architecture: {len(unlike)} tensors do not fit, the first is {unlike[0]!r}; "
            "use the recipe (detector, number of classes) it was trained with"
        )
    module.load_state_dict(dict(given))


def _is_like(given: Any, own: Tensor) -> bool:
    if not isinstance(given, Tensor) or given.layout is not own.layout or given.shape != own.shape:
        return False
    return given.is_floating_point() == own.is_floating_point()
