"""Pascal VOC folders of detections."""

from pathlib import Path
from xml.etree import ElementTree

from denseteacher.data.records import LabeledImages
from denseteacher.data.writers.entries import Entry, Scores, copy, entries


def write_voc(data: LabeledImages, scores: Scores, folder: Path) -> str:
    """Writes ``JPEGImages`` (copies), ``Annotations``, ``ImageSets/Main/train.txt`` and ``labelmap.txt``.

    CVAT's "PASCAL VOC 1.1" takes all but the images; LabelImg opens the folders.
    """
    placed = copy(data.images, folder / "JPEGImages")
    names = [category.name for category in data.categories]
    for entry in entries(data, scores, placed):
        file = folder / "Annotations" / entry.name.with_suffix(".xml")
        file.parent.mkdir(parents=True, exist_ok=True)
        tree = ElementTree.ElementTree(_element(entry, names))
        ElementTree.indent(tree, "\t")
        tree.write(file, encoding="utf-8")
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    lines = [_quoted(str(name.with_suffix(""))) for name in placed.names]
    (folder / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / "labelmap.txt").write_text("".join(f"{name}:::\n" for name in names), encoding="utf-8")
    return (
        f"The images are copied to {placed.folder}. CVAT: zip Annotations, ImageSets and labelmap.txt, import the "
        "archive as PASCAL VOC 1.1. LabelImg: open JPEGImages, with Annotations as save folder."
    )


def _quoted(name: str) -> str:
    """A second word of a line would say whether a class is there."""
    return f'"{name}"' if len(name.split()) > 1 else name


def _element(entry: Entry, names: list[str]) -> ElementTree.Element:
    root = ElementTree.Element("annotation")
    _add(root, folder="JPEGImages", filename=entry.name.name)
    _add(ElementTree.SubElement(root, "size"), width=entry.record.width, height=entry.record.height, depth=3)
    _add(root, segmented=0)
    for box, label in zip(entry.boxes, entry.labels, strict=True):
        # 1-based pixels of which the last belongs to the box, which has at least one
        left, top, right, bottom = round(box[0]) + 1, round(box[1]) + 1, round(box[2]), round(box[3])
        element = ElementTree.SubElement(root, "object")
        _add(element, name=names[label], pose="Unspecified", truncated=0, difficult=0)
        corners = ElementTree.SubElement(element, "bndbox")
        _add(corners, xmin=left, ymin=top, xmax=max(left, right), ymax=max(top, bottom))
    return root


def _add(element: ElementTree.Element, **values: str | int) -> None:
    for key, value in values.items():
        ElementTree.SubElement(element, key).text = str(value)
