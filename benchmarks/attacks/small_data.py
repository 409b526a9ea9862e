"""Two small images and their boxes in every format that is read, of which attacks damage copies."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (64, 48)
"""Width and height."""
NAMES = ("a.png", "b.png")
CLASSES = ("person", "dog")
BOXES = {"a.png": [("person", (4, 5, 24, 40))], "b.png": [("dog", (10, 8, 40, 30)), ("person", (30, 20, 60, 45))]}
"""Class and xyxy corners."""


def write_images(folder: Path, count: int = 2, *, seed: int = 0) -> Path:
    """Images with colored rectangles, the first two with those of ``BOXES``; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        name = NAMES[number] if number < len(NAMES) else f"{number}.png"
        pixels = rng.integers(90, 130, (SIZE[1], SIZE[0], 3)).astype(np.uint8)
        for label, (x1, y1, x2, y2) in BOXES.get(name, BOXES["b.png"]):
            pixels[y1:y2, x1:x2] = (220, 40, 40) if label == "person" else (40, 40, 220)
        Image.fromarray(pixels).save(folder / name)
    return folder


def write_coco(folder: Path, count: int = 2) -> Path:
    """``labels.json`` beside its images; those after the first two have the boxes of the second."""
    write_images(folder, count)
    names = [*NAMES, *(f"{number}.png" for number in range(2, count))]
    images = [
        {"id": number, "file_name": name, "width": SIZE[0], "height": SIZE[1]} for number, name in enumerate(names, 1)
    ]
    objects = [
        (image, name, box) for image, file in enumerate(names, 1) for name, box in BOXES.get(file, BOXES["b.png"])
    ]
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": 1 + CLASSES.index(name),
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
            "area": (x2 - x1) * (y2 - y1),
            "iscrowd": 0,
        }
        for number, (image, name, (x1, y1, x2, y2)) in enumerate(objects, 1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "labels.json").write_text(json.dumps(content))
    return folder / "labels.json"


def write_voc(folder: Path) -> Path:
    """``JPEGImages``, ``Annotations`` and ``ImageSets``."""
    write_images(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    (folder / "ImageSets" / "Main").mkdir(parents=True)
    (folder / "ImageSets" / "Main" / "trainval.txt").write_text("a\nb\n")
    for file, objects in BOXES.items():
        drawn = "".join(
            f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
            f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>\n"
            for name, (x1, y1, x2, y2) in objects
        )
        size = f"<size><width>{SIZE[0]}</width><height>{SIZE[1]}</height><depth>3</depth></size>"
        text = f"<annotation>\n<filename>{file}</filename>\n{size}\n{drawn}</annotation>\n"
        (folder / "Annotations" / f"{Path(file).stem}.xml").write_text(text)
    return folder


def write_yolo(folder: Path) -> Path:
    """``data.yaml``, ``train.txt``, ``images`` and ``labels``."""
    write_images(folder / "images")
    (folder / "labels").mkdir()
    for file, objects in BOXES.items():
        lines = [
            f"{CLASSES.index(name)} {(x1 + x2) / 2 / SIZE[0]} {(y1 + y2) / 2 / SIZE[1]} "
            f"{(x2 - x1) / SIZE[0]} {(y2 - y1) / SIZE[1]}\n"
            for name, (x1, y1, x2, y2) in objects
        ]
        (folder / "labels" / f"{Path(file).stem}.txt").write_text("".join(lines))
    (folder / "train.txt").write_text("images/a.png\nimages/b.png\n")
    names = "".join(f"  {number}: {name}\n" for number, name in enumerate(CLASSES))
    (folder / "data.yaml").write_text(f"path: .\ntrain: train.txt\nval: images\nnc: 2\nnames:\n{names}")
    return folder / "data.yaml"


def write_darknet(folder: Path) -> Path:
    """CVAT's "YOLO 1.1": ``obj.data``, ``obj.names``, ``train.txt`` and ``obj_train_data``."""
    write_yolo(folder / "made")
    data = folder / "obj_train_data"
    data.mkdir()
    for file in [*folder.glob("made/images/*"), *folder.glob("made/labels/*")]:
        file.rename(data / file.name)
    for file in sorted(folder.rglob("made/**/*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (folder / "made").rmdir()
    (folder / "obj.names").write_text("".join(f"{name}\n" for name in CLASSES))
    (folder / "train.txt").write_text("data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    text = "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
    (folder / "obj.data").write_text(text)
    return folder / "obj.data"


def write_cvat(folder: Path) -> Path:
    """``annotations.xml`` and ``images``."""
    write_images(folder / "images")
    images = []
    for number, (file, objects) in enumerate(BOXES.items()):
        drawn = "".join(
            f'<box label="{name}" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" occluded="0" rotation="0.0"/>\n'
            f'<polygon label="{name}" points="{x1},{y1};{x2},{y1};{x2},{y2}"/>\n'
            for name, (x1, y1, x2, y2) in objects
        )
        images.append(f'<image id="{number}" name="{file}" width="{SIZE[0]}" height="{SIZE[1]}">\n{drawn}</image>\n')
    labels = "".join(f"<label><name>{name}</name></label>" for name in CLASSES)
    head = f"<version>1.1</version><meta><task><labels>{labels}</labels></task></meta>"
    (folder / "annotations.xml").write_text(f"<annotations>{head}\n{''.join(images)}</annotations>\n")
    return folder / "annotations.xml"


def write_labelme(folder: Path) -> Path:
    """A JSON file beside each image."""
    write_images(folder)
    for file, objects in BOXES.items():
        shapes = [
            {"label": name, "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle", "flags": {}, "group_id": None}
            for name, (x1, y1, x2, y2) in objects
        ]
        content = {"version": "5.0", "flags": {}, "shapes": shapes, "imagePath": file, "imageData": None}
        content |= {"imageHeight": SIZE[1], "imageWidth": SIZE[0]}
        (folder / file).with_suffix(".json").write_text(json.dumps(content))
    return folder


def write_csv(folder: Path) -> Path:
    """``labels.csv`` beside its images."""
    write_images(folder)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"])
    writer.writerows([file, *SIZE, name, *box] for file, objects in BOXES.items() for name, box in objects)
    (folder / "labels.csv").write_text(out.getvalue())
    return folder / "labels.csv"


def write_crowdhuman(folder: Path) -> Path:
    """``annotation_train.odgt`` and ``Images``."""
    write_images(folder / "Images")
    lines = []
    for file, objects in BOXES.items():
        people = [
            {"tag": "person", "fbox": [x1, y1, x2 - x1, y2 - y1], "vbox": [x1, y1, 5, 5], "extra": {"ignore": 0}}
            for _, (x1, y1, x2, y2) in objects
        ]
        lines.append(json.dumps({"ID": Path(file).stem, "gtboxes": people}) + "\n")
    (folder / "annotation_train.odgt").write_text("".join(lines))
    return folder / "annotation_train.odgt"


def write_list(folder: Path) -> Path:
    """``list.txt`` of unlabeled images."""
    write_images(folder / "images")
    (folder / "list.txt").write_text('# images\nimages/a.png\n"images/b.png"\nimages\\a.png\n')
    return folder / "list.txt"


FORMATS: dict[str, Callable[[Path], Path]] = {
    "COCO": write_coco,
    "VOC": write_voc,
    "YOLO": write_yolo,
    "YOLO 1.1": write_darknet,
    "CVAT": write_cvat,
    "LabelMe": write_labelme,
    "CSV": write_csv,
    "CrowdHuman": write_crowdhuman,
    "list": write_list,
}
"""Writers; each returns what a user would name."""
