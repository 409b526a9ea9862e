"""The metrics that a recipe or a user asks for, as one table of names and values."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

from denseteacher.errors import InputError
from denseteacher.evaluation.arrays import class_means, class_names
from denseteacher.evaluation.coco_map import Backend, coco_map
from denseteacher.evaluation.miss_rate import log_average_miss_rate
from denseteacher.evaluation.voc_map import voc_map

Metric = Literal["coco", "voc", "crowdhuman"]


class Metrics(NamedTuple):
    """What an evaluation measured, in percent; nan where there is no object that a value could be about."""

    values: dict[str, float]
    """Metrics of COCO (``AP``, ``AP50``, ...), whatever else was asked for; of VOC ``VOC07 AP50``, ``VOC AP50``;
    of CrowdHuman ``mMR``, ``CrowdHuman AP`` and ``CrowdHuman recall``. Means over the classes that have objects."""
    per_class: dict[str, dict[str, float]]
    """Metrics by class name: ``AP`` and ``AP50``, and VOC's and CrowdHuman's where they were asked for."""
    backend: Backend
    """The library that computed COCO's."""


def measure(
    ground_truth: dict[str, Any], results: Sequence[dict[str, Any]], metrics: Sequence[str] = ("coco",)
) -> Metrics:
    """Compares detections with a ground truth.

    Args:
        ground_truth: Content of a COCO file.
        results: COCO result entries.
        metrics: What to measure besides COCO's metrics: ``Metric`` names.

    Raises:
        InputError: If a result is of an unknown image or not finite; for CrowdHuman, if an image has no size.
    """
    coco = coco_map(ground_truth, results)
    values = dict(coco.values)
    per_class = {name: {"AP": ap, "AP50": coco.per_class_50[name]} for name, ap in coco.per_class.items()}
    others = []
    if "voc" in metrics:
        others.append(voc_map(ground_truth, results).per_class)
    if "crowdhuman" in metrics:
        others.append(_crowdhuman(ground_truth, results))
    for rows in others:
        values |= class_means(rows)
        per_class = {name: row | rows[name] for name, row in per_class.items()}
    return Metrics(values, per_class, coco.backend)


def _crowdhuman(ground_truth: dict[str, Any], results: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """CrowdHuman's metrics by class, of which it has one."""
    rows = {}
    for id_, name in class_names(ground_truth).items():
        found = log_average_miss_rate(ground_truth | {"categories": [{"id": id_, "name": name}]}, results)
        rows[name] = {"mMR": found.mMR, "CrowdHuman AP": found.AP, "CrowdHuman recall": found.recall}
    return rows


def check_metrics(metrics: Sequence[str]) -> None:
    """Finds out before any detection whether there are such metrics.

    Raises:
        InputError: If not.
    """
    known = get_args(Metric)
    unknown = next((name for name in metrics if name not in known), None)
    if unknown is not None:
        raise InputError(f"there is no metric {unknown!r}: use {', '.join(known)}")


def fitting_metrics(ground_truth: Mapping[str, Any], format: str | None = None) -> tuple[Metric, ...]:
    """COCO's metrics, VOC's where objects are said to be difficult or not, CrowdHuman's for its own format."""
    difficult = any("difficult" in annotation for annotation in ground_truth["annotations"])
    voc: tuple[Metric, ...] = ("voc",) if difficult else ()
    crowdhuman: tuple[Metric, ...] = ("crowdhuman",) if format == "crowdhuman" else ()
    return ("coco", *voc, *crowdhuman)
