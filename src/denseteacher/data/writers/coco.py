"""COCO JSON of detections."""

import json
from pathlib import Path
from typing import Any

from denseteacher.data.records import LabeledImages
from denseteacher.data.writers.entries import Scores, entries, refer


def write_coco(data: LabeledImages, scores: Scores, folder: Path) -> str:
    """Writes ``annotations.json``, with the scores in a field ``score``.

    CVAT imports the file as "COCO 1.0" into a task of the same images; Label Studio's converter, FiftyOne and
    Roboflow read it too.
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
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return f"The images are in {placed.folder}. CVAT: import {folder / 'annotations.json'} as COCO 1.0."
