"""Prediction over files, folders and patterns."""

import glob
import os
from collections.abc import Sequence
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from denseteacher.data.choices import Precision
from denseteacher.data.formats.faults import Fault, refuse
from denseteacher.data.formats.files import images_below, is_file
from denseteacher.data.formats.unlabeled import listed_images
from denseteacher.data.images import decode_image, image_size
from denseteacher.errors import InputError
from denseteacher.evaluation.evaluator import coco_results
from denseteacher.files import refusal_explained, refuse_irregular, write_json
from denseteacher.inference.predictor import Predictor, predict_readable
from denseteacher.visualization.boxes import draw_detections

_LISTS = (".txt", ".lst")


class PredictionOutcome(NamedTuple):
    """What a prediction run did."""

    images: int
    detections: int
    unreadable: list[str]
    """One sentence for each file that is not a readable image."""
    drawn_above: dict[str, float]
    """Score above which detections were drawn, by class name."""


def predict_files(
    detector: str | Path,
    paths: Sequence[str | Path],
    output: str | Path,
    *,
    score: float | Literal["auto"] = 0.5,
    precision: Precision = "fp32",
    compile: bool = False,
) -> PredictionOutcome:
    """Detects objects in files.

    Writes ``predictions.json`` (COCO results), ``images.json`` (COCO image info, which says what file an
    ``image_id`` is) and a picture with boxes for each image below ``pictures``.

    Args:
        detector: Detector file or run folder.
        paths: Image files, folders (searched with all below them), glob patterns, or text lists with a path a line.
        output: Folder to write to.
        score: Detections with a higher score are drawn; ``auto`` takes each class's best score (``BestScores``).
        precision: See ``Predictor.load``.
        compile: See ``Predictor.load``.

    Raises:
        InputError: If there are no images, ``output`` holds predictions already, or ``auto`` is asked of a detector
            file without best scores.
        RunError: If the disk refuses.
    """
    output = Path(output)
    predictor = Predictor.load(Path(detector), precision=precision, compile=compile)
    floors = score_floors(Path(detector), predictor, score)
    results, infos, unreadable = [], [], list[str]()
    files = find_images([str(path) for path in paths], unreadable)
    if (output / "predictions.json").exists():
        raise InputError(f"{output} holds predictions already: choose another --output; nothing was changed")
    found = predict_readable(predictor, files, decode_image, image_size, unreadable)
    with refusal_explained(output):
        (output / "pictures").mkdir(parents=True, exist_ok=True)
        for position, array, detections in found:
            number, file = position + 1, files[position]
            height, width = array.shape[:2]
            infos.append({"id": number, "file_name": str(file), "width": width, "height": height})
            results.extend(coco_results(number, detections, predictor.categories))
            picture = draw_detections(Image.fromarray(array), detections, predictor.class_names, score_floor=floors)
            picture.save(output / "pictures" / f"{number:06d}_{file.stem[:100]}.jpg", quality=92)
    infos.sort(key=itemgetter("id"))
    results.sort(key=itemgetter("image_id"))
    categories = [{"id": category.id, "name": category.name} for category in predictor.categories]
    write_json(output / "images.json", {"images": infos, "categories": categories})
    write_json(output / "predictions.json", results)
    above = dict(zip(predictor.class_names, floors.tolist(), strict=True))
    return PredictionOutcome(len(infos), len(results), unreadable, above)


def score_floors(detector: Path, predictor: Predictor, score: float | Literal["auto"]) -> Tensor:
    """(K,) score above which detections of each class are shown.

    Args:
        detector: Where the detector is from, for messages.
        predictor: The detector.
        score: One for all classes; ``auto``: those with the highest F1.

    Raises:
        InputError: If ``auto`` is asked of a detector that has no best scores.
    """
    if score != "auto":
        return torch.full((len(predictor.class_names),), float(score))
    best = predictor.card.best_scores
    if best is None:
        raise InputError(
            f"{detector} has no best scores for --score auto: a run with --val writes them at its end, if it finds an "
            "object; give a number, as --score 0.5"
        )
    return torch.tensor(best.by_class)


def find_images(patterns: list[str], missing: list[str] | None = None) -> list[Path]:
    """Image files named by paths, folders, glob patterns and text lists, each once, in order.

    Args:
        patterns: Any number of them.
        missing: Gets a sentence for each file of a list that is not there; without it such a list is refused.

    Raises:
        InputError: If a path does not exist, or nothing is found.
    """

    def pass_over(faults: Sequence[Fault]) -> None:
        if missing is None:
            refuse(faults)
        else:
            missing.extend(fault.message for fault in faults if not fault.harmless)

    files: dict[Path, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        refuse_irregular(path)
        if is_file(path):
            found = listed_images(path, on_fault=pass_over) if path.suffix.lower() in _LISTS else [path]
        elif os.path.isdir(path):  # noqa: PTH112 (Path.is_dir raises for names of more than 255 bytes)
            found = images_below(path)
        else:
            # glob and not Path.glob, which refuses absolute patterns
            found = sorted(Path(match) for match in glob.iglob(pattern, recursive=True) if is_file(Path(match)))
        if not found:
            raise InputError(
                f"there are no images at {pattern}: give image files, folders, glob patterns or text lists of images"
            )
        files.update(dict.fromkeys(found))
    return list(files)
