"""Label Studio tasks with predictions."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from denseteacher.data.records import LabeledImages
from denseteacher.data.writers.entries import Entry, Scores, entries, refer


def write_label_studio(data: LabeledImages, scores: Scores, folder: Path) -> str:
    """Writes ``tasks.json``, predictions with scores, and ``label_config.xml``, the labeling interface for them.

    Label Studio imports the file in its own interface. It serves local images below a document root that is not
    itself the folder of a storage, so the root is the folder above that of the images.
    """
    placed = refer(data.images, folder)
    names = [category.name for category in data.categories]
    tasks = [
        {
            "data": {"image": f"/data/local-files/?d={_quoted(f'{placed.folder.name}/{entry.name}')}"},
            "predictions": [_prediction(entry, names)],
        }
        for entry in entries(data, scores, placed)
    ]
    (folder / "tasks.json").write_text(json.dumps(tasks), encoding="utf-8")
    (folder / "label_config.xml").write_text(_interface(names), encoding="utf-8")
    return (
        "Label Studio: start it with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and "
        f"LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT={placed.folder.parent}, paste label_config.xml as labeling interface, "
        f"add {placed.folder} as local storage, import tasks.json."
    )


def _quoted(name: str) -> str:
    return quote(name, errors="surrogateescape")  # names that are no UTF-8


def _prediction(entry: Entry, names: list[str]) -> dict[str, Any]:
    width, height = entry.record.width, entry.record.height
    results: list[dict[str, Any]] = []
    for (left, top, right, bottom), label, score in zip(entry.boxes, entry.labels, entry.scores, strict=True):
        percent = {
            "x": left / width * 100,
            "y": top / height * 100,
            "width": (right - left) / width * 100,
            "height": (bottom - top) / height * 100,
        }
        results.append(
            {
                "id": f"box{len(results)}",
                "type": "rectanglelabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {**percent, "rotation": 0, "rectanglelabels": [names[label]]},
                "score": score,
            }
        )
    mean = sum(entry.scores) / len(entry.scores) if entry.scores else 0.0
    return {"model_version": "denseteacher", "score": mean, "result": results}


def _interface(names: list[str]) -> str:
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    labels = ElementTree.SubElement(view, "RectangleLabels", name="label", toName="image")
    for name in names:
        ElementTree.SubElement(labels, "Label", value=name)
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode")
