"""A trained detector as one file: safetensors weights whose header holds all that is needed to use them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from denseteacher.config import Config
from denseteacher.detectors import DetectorConfig
from denseteacher.detectors.pyramid import IMAGENET_MEAN, IMAGENET_STD, PyramidDetector
from denseteacher.errors import InputError
from denseteacher.files import write_bytes

DETECTOR_FILE = "detector.safetensors"
"""What the file of a run's detector is called: who is given a folder looks for it there."""
_HEADER_KEY = "denseteacher"


class DetectorCard(Config):
    """What a detector file says about itself."""

    detector: DetectorConfig
    categories: tuple[tuple[int, str], ...]
    """(id, name) of each class, by class index."""
    short_side: int
    """Pixels that the shorter side of an image is resized to."""
    max_side: int
    trained: dict[str, str | int | float] = Field(default_factory=dict)
    """Where it comes from: recipe, step, teacher or student, AP."""

    @model_validator(mode="before")
    @classmethod
    def _keep_what_it_was_trained_with(cls, content: Any) -> Any:
        if isinstance(content, dict) and isinstance(content.get("detector"), dict):
            return content | {"detector": with_old_statistics(content["detector"])}
        return content


def with_old_statistics(detector: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a detector that was described before ``mean`` and ``std`` were among them.

    Whatever the backbone, it was trained with ImageNet's.
    """
    return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, **detector}


def save_detector(path: Path, weights: Mapping[str, Tensor], card: DetectorCard) -> None:
    """Writes a detector file, whole or not at all.

    Raises:
        RunError: If the disk refuses.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in weights.items()}
    write_bytes(path, save(tensors, metadata={_HEADER_KEY: card.model_dump_json()}))


def load_detector(path: Path, *, score_floor: float | None = None) -> tuple[PyramidDetector, DetectorCard]:
    """Reads a detector file.

    Args:
        path: The file.
        score_floor: Overrides the detector's own.

    Returns:
        The detector in eval mode on the CPU, and its card.

    Raises:
        InputError: If the file is missing or no detector of this package, or the floor is not a score.
    """
    if score_floor is not None and not 0 <= score_floor < 1:
        raise InputError(f"a score floor is at least 0 and below 1, not {score_floor:g}")
    if not path.is_file():
        raise InputError(f"there is no detector file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get(_HEADER_KEY)
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is not a mapping)
        if header is None:
            raise InputError(f"{path} holds weights but no detector description: denseteacher did not write it")
        card = DetectorCard.model_validate(json.loads(header))
    except (SafetensorError, ValidationError, ValueError) as error:
        raise InputError(f"{path} is not a detector file of denseteacher, or is damaged") from error
    changes = {"pretrained": False} | ({} if score_floor is None else {"score_floor": score_floor})
    card = card.model_copy(update={"detector": card.detector.model_copy(update=changes)})
    detector = card.detector.build(len(card.categories))
    load_weights(detector, weights, source=str(path))
    return detector.eval(), card


def load_weights(module: nn.Module, weights: Mapping[str, Any], *, source: str) -> None:
    """Loads a state dict, all or nothing.

    Raises:
        InputError: If it belongs to another architecture.
    """
    own = module.state_dict()
    unlike = [key for key in own if key not in weights or weights[key].shape != own[key].shape]
    unlike += [key for key in weights if key not in own]
    if unlike:
        raise InputError(
            f"{source} holds another architecture: {len(unlike)} tensors do not fit, the first is {unlike[0]!r}; "
            "use the recipe (detector, number of classes) it was trained with"
        )
    module.load_state_dict(dict(weights))
