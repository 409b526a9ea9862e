"""Small data sets in the exact layout that the real ones are published in, all of the same painted scenes.

``scenes(12)`` are the pictures; of them every writer takes the first two thirds for training and the rest for
validation (VOC: ``trainval`` and ``test``; COCO: ``train2017`` and ``val2017``), so that whatever format is read,
the boxes are equal.
"""

import io
import json
import tarfile
from typing import NamedTuple

import numpy as np
from PIL import Image

from conftest import paint
from denseteacher.data.formats import VOC_CLASSES

CLASSES = ("person", "car", "dog")
"""What the three colors are called; VOC and COCO have classes of these names."""
COCO_CATEGORIES = {
    1: "person", 2: "bicycle", 3: "car", 4: "motorcycle", 5: "airplane", 6: "bus", 7: "train", 8: "truck", 9: "boat",
    10: "traffic light", 11: "fire hydrant", 13: "stop sign", 14: "parking meter", 15: "bench", 16: "bird", 17: "cat",
    18: "dog", 19: "horse", 20: "sheep", 21: "cow", 22: "elephant", 23: "bear", 24: "zebra", 25: "giraffe",
    27: "backpack", 28: "umbrella", 31: "handbag", 32: "tie", 33: "suitcase", 34: "frisbee", 35: "skis",
    36: "snowboard", 37: "sports ball", 38: "kite", 39: "baseball bat", 40: "baseball glove", 41: "skateboard",
    42: "surfboard", 43: "tennis racket", 44: "bottle", 46: "wine glass", 47: "cup", 48: "fork", 49: "knife",
    50: "spoon", 51: "bowl", 52: "banana", 53: "apple", 54: "sandwich", 55: "orange", 56: "broccoli", 57: "carrot",
    58: "hot dog", 59: "pizza", 60: "donut", 61: "cake", 62: "chair", 63: "couch", 64: "potted plant", 65: "bed",
    67: "dining table", 70: "toilet", 72: "tv", 73: "laptop", 74: "mouse", 75: "remote", 76: "keyboard",
    77: "cell phone", 78: "microwave", 79: "oven", 80: "toaster", 81: "sink", 82: "refrigerator", 84: "book",
    85: "clock", 86: "vase", 87: "scissors", 88: "teddy bear", 89: "hair drier", 90: "toothbrush",
}  # fmt: skip
"""COCO's 80 classes by id, as published."""
COCO_ID = {name: id_ for id_, name in COCO_CATEGORIES.items()}


class Scene(NamedTuple):
    number: int
    """From 1."""
    pixels: np.ndarray
    boxes: list
    """x, y, width, height in whole pixels."""
    labels: list
    """Indices into ``CLASSES``."""

    @property
    def size(self):
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def difficult(self):
        """Which objects VOC calls difficult: the first one of every fifth scene."""
        return [self.number % 5 == 0 and index == 0 for index in range(len(self.boxes))]


def scenes(count=12, *, seed=0):
    """Pictures of three sizes; the third has no object, every fourth one has an object at the left edge."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(1, count + 1):
        width, height = [(80, 64), (64, 88), (96, 60)][number % 3]
        pixels, found = paint(rng, width, height, 0 if number == 3 else 1 + number % 3)
        if number % 4 == 1:
            pixels[5:30, 0:20] = (220, 40, 40)
            found.append(([0, 5, 20, 25], 0))
        made.append(Scene(number, pixels, [box for box, _ in found], [label for _, label in found]))
    return made


def parts(made):
    """The scenes for training and those for validation."""
    cut = len(made) - len(made) // 3
    return made[:cut], made[cut:]


def save(scene, file):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(scene.pixels).save(file, quality=95)


# Pascal VOC


def write_voc(folder, year=2007, *, count=12, seed=0):
    """``VOCdevkit/VOC2007``; as published, 2012 has no ``test``. Returns that folder."""
    root = folder / "VOCdevkit" / f"VOC{year}"
    made = scenes(count, seed=seed)
    trainval, test = parts(made) if year == 2007 else (made, [])
    half = (len(trainval) + 1) // 2
    sets = {"train": trainval[:half], "val": trainval[half:], "trainval": trainval, "test": test}
    for place in ("Annotations", "ImageSets/Main", "ImageSets/Layout", "JPEGImages"):
        (root / place).mkdir(parents=True)
    for scene in made:
        name = voc_name(scene, year)
        save(scene, root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(voc_xml(scene, year))
    for set_name, chosen in sets.items():
        if chosen:
            lines = [voc_name(scene, year) for scene in chosen]
            (root / "ImageSets" / "Main" / f"{set_name}.txt").write_text("".join(f"{line}\n" for line in lines))
            for class_name in VOC_CLASSES:
                text = "".join(f"{voc_name(scene, year)} {_voc_sign(scene, class_name)}\n" for scene in chosen)
                (root / "ImageSets" / "Main" / f"{class_name}_{set_name}.txt").write_text(text)
    return root


def voc_name(scene, year=2007):
    """``000005``, in 2012 ``2008_000005``."""
    return f"{scene.number:06d}" if year == 2007 else f"2008_{scene.number:06d}"


def _voc_sign(scene, class_name):
    """1: there; 0: only difficult ones; -1: not there."""
    own = [hard for label, hard in zip(scene.labels, scene.difficult, strict=True) if CLASSES[label] == class_name]
    return "-1" if not own else " 0" if all(own) else " 1"


def voc_xml(scene, year=2007):
    """An annotation file: 1-based pixels, of which the last belongs to the box; people have parts."""
    objects = "".join(
        f"""\t<object>
\t\t<name>{CLASSES[label]}</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>{int(x == 0)}</truncated>
\t\t<difficult>{int(hard)}</difficult>
\t\t<bndbox>
\t\t\t<xmin>{x + 1}</xmin>
\t\t\t<ymin>{y + 1}</ymin>
\t\t\t<xmax>{x + w}</xmax>
\t\t\t<ymax>{y + h}</ymax>
\t\t</bndbox>
{_voc_head(x, y) if label == 0 else ""}\t</object>
"""
        for (x, y, w, h), label, hard in zip(scene.boxes, scene.labels, scene.difficult, strict=True)
    )
    width, height = scene.size
    return f"""<annotation>
\t<folder>VOC{year}</folder>
\t<filename>{voc_name(scene, year)}.jpg</filename>
\t<source>
\t\t<database>The VOC{year} Database</database>
\t\t<annotation>PASCAL VOC{year}</annotation>
\t\t<image>flickr</image>
\t</source>
\t<size>
\t\t<width>{width}</width>
\t\t<height>{height}</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
{objects}</annotation>
"""


def _voc_head(x, y):
    return f"""\t\t<part>
\t\t\t<name>head</name>
\t\t\t<bndbox>
\t\t\t\t<xmin>{x + 3}</xmin>
\t\t\t\t<ymin>{y + 1}</ymin>
\t\t\t\t<xmax>{x + 8}</xmax>
\t\t\t\t<ymax>{y + 6}</ymax>
\t\t\t</bndbox>
\t\t</part>
"""


# YOLO


def write_yolo(folder, layout="yaml", *, count=12, seed=0):
    """A YOLO data set; returns what a user would name.

    Args:
        folder: Where to.
        layout: ``yaml`` as Ultralytics, ``lists`` as its COCO with ``train.txt``, ``roboflow`` as Roboflow's export;
            ``folders`` as Label Studio's export (``images``, ``labels``, ``classes.txt``) and ``flat`` as LabelImg's
            (text files beside the images), which have no parts: only the training scenes.
        count: Scenes.
        seed: Of the scenes.
    """
    train, val = parts(scenes(count, seed=seed))
    if layout in ("folders", "flat"):
        images, labels = (folder / "images", folder / "labels") if layout == "folders" else (folder, folder)
        _write_yolo_part(images, labels, train)
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
        return folder
    places = {"train": "train", "val": "valid" if layout == "roboflow" else "val"}
    for (key, place), part in zip(places.items(), (train, val), strict=True):
        halves = ("{1}/{0}" if layout == "roboflow" else "{0}/{1}").format
        _write_yolo_part(folder / halves("images", place), folder / halves("labels", place), part)
        if layout == "lists":
            lines = [f"./images/{place}/{scene.number:06d}.jpg\n" for scene in part]
            (folder / f"{key}.txt").write_text("".join(lines))
    (folder / "data.yaml").write_text(_YAML[layout])
    return folder if layout == "roboflow" else folder / "data.yaml"


_NAMES = "names:\n" + "".join(f"  {number}: {name}\n" for number, name in enumerate(CLASSES))
_YAML = {
    "yaml": f"path: .\ntrain: images/train  # scenes\nval: images/val\ntest:\n\n{_NAMES}",
    "lists": f"path: .\ntrain: train.txt\nval: val.txt\n\n{_NAMES}",
    "roboflow": f"""train: ../train/images
val: ../valid/images
test: ../test/images

nc: {len(CLASSES)}
names: {list(CLASSES)}

roboflow:
  workspace: scenes
  project: scenes
  version: 1
""",
}


def _write_yolo_part(images, labels, part):
    labels.mkdir(parents=True, exist_ok=True)
    for scene in part:
        save(scene, images / f"{scene.number:06d}.jpg")
        if scene.boxes:  # as most tools do, none for an image without objects
            (labels / f"{scene.number:06d}.txt").write_text(yolo_lines(scene))


def yolo_lines(scene):
    """Class, center and size as shares."""
    width, height = scene.size
    return "".join(
        f"{label} {(x + w / 2) / width:.6f} {(y + h / 2) / height:.6f} {w / width:.6f} {h / height:.6f}\n"
        for (x, y, w, h), label in zip(scene.boxes, scene.labels, strict=True)
    )


# CrowdHuman


def write_crowdhuman(folder, *, count=12, seed=0):
    """``annotation_train.odgt``, ``annotation_val.odgt`` and ``Images``; returns the folder.

    Every object is a person. Boxes at the left edge begin 7 pixels before it, as full boxes of people who stand half
    outside do. The first scene of each part has a mask (no person) and a person to ignore besides.
    """
    for name, part in zip(("train", "val"), parts(scenes(count, seed=seed)), strict=True):
        lines = []
        for scene in part:
            save(scene, folder / "Images" / f"{crowdhuman_id(scene)}.jpg")
            people = [_crowdhuman_person(index, box) for index, box in enumerate(scene.boxes)]
            extra = _CROWDHUMAN_IGNORED if scene is part[0] else []
            lines.append(json.dumps({"ID": crowdhuman_id(scene), "gtboxes": [*people, *extra]}))
        (folder / f"annotation_{name}.odgt").write_text("\n".join(lines) + "\n")
    return folder


def crowdhuman_id(scene):
    """Published ids have a comma."""
    return f"{273000 + scene.number},c9db000d{scene.number:07x}"


def _crowdhuman_person(index, box):
    x, y, w, h = box
    outside = 7 if x == 0 else 0
    return {
        "tag": "person",
        "hbox": [x + 2, y, 6, 6],
        "head_attr": {"ignore": 0, "occ": 0, "unsure": 0},
        "fbox": [x - outside, y, w + outside, h],
        "vbox": [x, y, w, h],
        "extra": {"box_id": index, "occ": 0},
    }


_CROWDHUMAN_IGNORED = [
    {"tag": "mask", "fbox": [1, 1, 20, 10], "vbox": [1, 1, 20, 10], "hbox": [1, 1, 5, 5], "head_attr": {"ignore": 1},
     "extra": {"ignore": 1}},
    {"tag": "person", "fbox": [30, 2, 12, 18], "vbox": [30, 2, 12, 18], "hbox": [32, 2, 4, 4],
     "head_attr": {"ignore": 1, "occ": 1, "unsure": 1}, "extra": {"box_id": 8, "occ": 1, "ignore": 1}},
]  # fmt: skip


# COCO


def write_coco_published(folder, *, count=12, seed=0, unlabeled=6):
    """``annotations``, ``train2017``, ``val2017`` and ``unlabeled2017``; returns the folder.

    The first scene of each part has a crowd region besides. Image ids are not in order, as those published.
    """
    train, val = parts(scenes(count, seed=seed))
    (folder / "annotations").mkdir(parents=True)
    for name, part, kind in (
        ("train2017", train, "instances"),
        ("val2017", val, "instances"),
        ("unlabeled2017", scenes(unlabeled, seed=seed + 100), "image_info"),
    ):
        content = _coco_content(part) if kind == "instances" else {"images": [_coco_image(scene) for scene in part]}
        (folder / "annotations" / f"{kind}_{name}.json").write_text(
            json.dumps({"info": {"year": 2017}, "licenses": [], **content})
        )
        for scene in part:
            save(scene, folder / name / _coco_image(scene)["file_name"])
    return folder


def coco_id(scene):
    """Rises with the number within a part of one data set."""
    return 9 + 37 * scene.number


def _coco_image(scene):
    width, height = scene.size
    return {
        "license": 3,
        "file_name": f"{coco_id(scene):012d}.jpg",
        "coco_url": f"http://images.cocodataset.org/train2017/{coco_id(scene):012d}.jpg",
        "height": height,
        "width": width,
        "date_captured": "2013-11-14 11:18:45",
        "id": coco_id(scene),
    }


def _coco_content(part):
    annotations = [
        {
            "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
            "area": w * h,
            "iscrowd": 0,
            "image_id": coco_id(scene),
            "bbox": [x, y, w, h],
            "category_id": COCO_ID[CLASSES[label]],
            "id": 1000 * scene.number + index,
        }
        for scene in part
        for index, ((x, y, w, h), label) in enumerate(zip(scene.boxes, scene.labels, strict=True))
    ]
    crowd = {
        "segmentation": {"counts": [0, 4, 60], "size": [8, 8]},
        "area": 900,
        "iscrowd": 1,
        "image_id": coco_id(part[0]),
        "bbox": [2, 3, 30, 30],
        "category_id": COCO_ID["person"],
        "id": 900100000001 + part[0].number,
    }
    return {
        "images": [_coco_image(scene) for scene in reversed(part)],
        "annotations": [*annotations, crowd],
        "categories": [{"supercategory": "thing", "id": id_, "name": name} for id_, name in COCO_CATEGORIES.items()],
    }


# Unlabeled images


def write_tar_shards(folder, *, shards=2, count=6, seed=100):
    """``shard-000000.tar`` and so on: images, each with a JSON of the same name beside it; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    made = scenes(count, seed=seed)
    for shard in range(shards):
        with tarfile.open(folder / f"shard-{shard:06d}.tar", "w") as archive:
            for scene in made[shard::shards]:
                content = io.BytesIO()
                Image.fromarray(scene.pixels).save(content, "png")
                for suffix, data in (("png", content.getvalue()), ("json", b'{"url": "x"}')):
                    member = tarfile.TarInfo(f"{scene.number:06d}.{suffix}")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
    return folder


def write_unlabeled(folder, *, count=6, seed=100):
    """A folder of images; returns it."""
    for scene in scenes(count, seed=seed):
        save(scene, folder / f"{scene.number:06d}.png")
    return folder
