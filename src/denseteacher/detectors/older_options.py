"""Options of detectors as older recipes and detector files have them, in today's places."""

from collections.abc import Mapping
from typing import Any

from denseteacher.detectors.pyramid import IMAGENET_MEAN, IMAGENET_STD

_MOVED = {
    "center_radius": "assigner",
    "size_factor": "assigner",
    "foreground_iou": "assigner",
    "background_iou": "assigner",
    "initial_distance": "coding",
    "box_loss": "coding",
    "beta": "coding",
}


def with_moved_options(detector: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a detector in which those of its assigner and its box coding stand in these parts.

    They stood beside the others before detectors had parts, and still do in older recipes and detector files. What
    stands in a part already is left as it is.
    """
    options = {key: value for key, value in detector.items() if key not in _MOVED}
    for key, part in _MOVED.items():
        if key in detector:
            given = options.get(part, {})
            given = given if isinstance(given, Mapping) else given.model_dump()
            options[part] = {key: detector[key], **given}
    return options


def with_old_statistics(detector: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a detector that was described before ``mean`` and ``std`` were among them.

    Whatever the backbone, it was trained with ImageNet's.
    """
    return {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, **detector}
