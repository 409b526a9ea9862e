"""COCO JSON of detections."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from denseteacher.data.formats.files import find_image_folder
from denseteacher.data.records import LabeledImages
from denseteacher.data.writers.entries import PlacedImages, Scores, entries, refer
from denseteacher.errors import InputError


def write_coco(data: LabeledImages, scores: Scores, folder: Path) -> str:
    """Writes ``annotations.json``, with the scores in a field ``score``.

    Names are relative to the folder that all images lie in, to which ``images`` beside the file is a symbolic link
    where the readers would not find it otherwise. CVAT imports the file as "COCO 1.0" into a task of the same images;
    Label Studio's converter, FiftyOne and Roboflow read it too.
    """
    placed = refer(data.images, folder)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for entry in entries(data, scores, placed):
        record = entry.record
        images.append({"id": record.id, "file_name": str(entry.name), "width": record.width, "height": record.height})
        for (left, top, right, bottom), label, score in zip(entry.boxes, entry.labels, entry.scores, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": record.id,
                    "category_id": data.categories[label].id,
                    "bbox": [round(value, 2) for value in (left, top, right - left, bottom - top)],
                    "area": round((right - left) * (bottom - top), 2),
                    "iscrowd": 0,
                    "score": round(score, 4),
                }
            )
    categories = [{"id": category.id, "name": category.name} for category in data.categories]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file = folder / "annotations.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    option = "" if _finds_images(file, placed) else f" (--images {shlex.quote(str(placed.folder))} for denseteacher)"
    return f"The images are in {placed.folder}{option}. CVAT: import {file} as COCO 1.0."


def _finds_images(file: Path, placed: PlacedImages) -> bool:
    """Whether the reader finds the images without being told their folder; links that beside the file if it must."""
    names = [str(name) for name in placed.names]
    if _found_in(file, names) == placed.folder.resolve():
        return True
    try:
        (file.parent / "images").symlink_to(placed.folder, target_is_directory=True)
    except OSError:  # there is one already, or the file system has no links
        return False
    return _found_in(file, names) == placed.folder.resolve()


def _found_in(file: Path, names: Sequence[str]) -> Path | None:
    try:
        return find_image_folder(file, None, names).resolve()
    except InputError:
        return None
