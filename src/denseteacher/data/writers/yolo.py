"""YOLO folders of detections."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import yaml

from denseteacher.data.records import LabeledImages
from denseteacher.data.writers.entries import Entry, Scores, copy, entries


def write_yolo(data: LabeledImages, scores: Scores, folder: Path) -> str:
    """Writes ``images`` (copies), ``labels``, and the names of the classes wherever one of the tools looks for them.

    Label Studio's converter wants ``classes.txt``, ``images`` and ``labels``, and looks into no folder below those;
    LabelImg ``classes.txt`` beside the text files; CVAT's "YOLO 1.1" ``obj.data``, ``obj.names`` and ``train.txt``;
    Ultralytics ``data.yaml``.
    """
    placed = copy(data.images, folder / "images", reserved="classes")
    (folder / "labels").mkdir()
    for entry in entries(data, scores, placed):
        file = folder / "labels" / entry.name.with_suffix(".txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{line}\n" for line in _lines(entry)), encoding="utf-8")
    names = [category.name for category in data.categories]
    for place in ("classes.txt", "labels/classes.txt", "obj.names"):
        (folder / place).write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    content = {"train": "images", "names": dict(enumerate(names))}
    (folder / "data.yaml").write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    (folder / "obj.data").write_text(f"classes = {len(names)}\ntrain = train.txt\nnames = obj.names\n")
    # text files are beside the images in this format; an archive without images may name those below labels
    (folder / "train.txt").write_text("".join(f"labels/{name}\n" for name in placed.names), encoding="utf-8")
    nested = any(len(name.parts) > 1 for name in placed.names)
    suffixes = ",".join(sorted({name.suffix for name in placed.names}))
    return (
        f"The images are copied to {placed.folder}. "
        f"Label Studio: label-studio-converter import yolo -i {shlex.quote(str(folder))} --image-ext {suffixes}"
        f"{' (it passes over folders below images)' if nested else ''}. "
        "CVAT: zip obj.data, obj.names, train.txt and labels, import the archive as YOLO 1.1. "
        "LabelImg: open images, with labels as save folder."
    )


def _lines(entry: Entry) -> Iterator[str]:
    """Class, center and size as shares of the image."""
    width, height = entry.record.width, entry.record.height
    for (left, top, right, bottom), label in zip(entry.boxes, entry.labels, strict=True):
        x, y = (left + right) / 2 / width, (top + bottom) / 2 / height
        yield f"{label} {x:.6f} {y:.6f} {(right - left) / width:.6f} {(bottom - top) / height:.6f}"
