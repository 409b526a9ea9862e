"""What an exported detector says of itself: imports neither torch nor pydantic."""

import json
import warnings
from collections.abc import Callable
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from denseteacher.errors import InputError
from denseteacher.files import parse_json

METADATA_KEY = "denseteacher"
"""Key of the entry in an ONNX file's metadata that holds an ``OnnxCard`` as JSON."""
_HASH_KEY = "sha256"
_SHOWN = 80  # characters of a value


class OnnxCard(NamedTuple):
    """What an exported file says about itself."""

    version: str
    """Version of denseteacher that wrote it."""
    categories: list[tuple[int, str]]
    """(id, name) of each class, by class index."""
    short_side: int
    """Pixels that the shorter side of an image is resized to."""
    max_side: int
    multiple: int
    """Height and width of the canvas are multiples of this."""
    score_floor: float
    """Class scores at or below are not detections."""
    nms: bool
    """Whether it gives detections, or boxes and scores at every location."""
    trained: dict[str, str | int | float]
    """Source of the detector: recipe, step, teacher or student, AP."""
    best_scores: list[float] | None = None
    """Score above which each class has its highest F1 on the validation images, by class index; None where that is not
    known."""


def write_card(card: OnnxCard, network: str) -> str:
    """The card for a file's metadata, with the hash of the network that it belongs to."""
    return json.dumps({**card._asdict(), _HASH_KEY: network})


def read_card(path: str | Path, entry: str, network: str | None) -> OnnxCard:
    """The card in a file's metadata; a file from before there were hashes is taken with a note.

    Args:
        path: The file, for messages.
        entry: Entry of the metadata.
        network: Hash of the network; None takes any.

    Raises:
        InputError: If the network is another one than was exported, a field is missing, one too much, or of a value
            that an export does not have.
    """
    try:
        content = parse_json(entry)
        stated = content.pop(_HASH_KEY, None)
        card = OnnxCard(**content)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path} was exported by another version of denseteacher: export the detector anew") from error
    wrong = [field for field, is_right in _RULES.items() if not is_right(getattr(card, field))]
    if wrong:
        value = repr(getattr(card, wrong[0]))
        shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
        raise InputError(
            f"{path} says of itself that {wrong[0]} is {shown}, which no export has: it is damaged or was changed, "
            "export the detector anew"
        )
    if network is None:
        return _with_pairs(card)
    if stated is None:
        warnings.warn(f"{path} was exported before ONNX files had a hash: damage can't be noticed", stacklevel=3)
    elif stated != network:
        raise InputError(
            f"{path} is damaged, or was changed after its export: export the detector anew, or load it with "
            "changed=True if it was you who quantized or simplified it"
        )
    return _with_pairs(card)


def _with_pairs(card: OnnxCard) -> OnnxCard:
    return card._replace(categories=[(id_, name) for id_, name in card.categories])


def _is_whole(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _are_categories(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(
            isinstance(one, list)
            and len(one) == 2
            and _is_whole(one[0], -(2**63), 2**63 - 1)
            and isinstance(one[1], str)
            for one in value
        )
    )


def _is_source(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(one, str) or _is_whole(one, -(2**63), 2**63 - 1) or (isinstance(one, float) and isfinite(one))
        for one in value.values()
    )


def _are_scores(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and all(isinstance(one, int | float) and 0 <= one <= 1 for one in value)
    )


_RULES: dict[str, Callable[[Any], bool]] = {
    "version": lambda value: isinstance(value, str),
    "categories": _are_categories,
    "short_side": lambda value: _is_whole(value, 1, 8192),
    "max_side": lambda value: _is_whole(value, 1, 1_000_000),
    "multiple": lambda value: _is_whole(value, 1, 1024),
    "score_floor": lambda value: isinstance(value, int | float) and 0 <= value < 1,
    "nms": lambda value: isinstance(value, bool),
    "trained": _is_source,
    "best_scores": _are_scores,
}
"""What each field of a card can be; pydantic is not imported here."""
