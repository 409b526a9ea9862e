"""What labeling tools export goes back in as labels: files as CVAT and Label Studio write them, of three images.

Shapes of the files: Label Studio's "Task Format" and its converter; CVAT's "XML annotation format" and its pages on
COCO, YOLO 1.1 and PASCAL VOC.
"""

import json
import math
import shutil
from urllib.parse import quote

import pytest
from PIL import Image

from denseteacher.data.formats import AnnotationSource, Notes, labeled_images, read_annotations
from denseteacher.errors import InputError

SIZE = (80, 60)
WANTED = {
    "a.png": [("dog", [10, 12, 40, 30])],
    "sub dir/b ä.png": [("cat", [1, 2, 21, 12]), ("dog", [30, 5, 50, 45])],
    "c.png": [],
}
"""Labels and xyxy corners; names as people have them."""


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "photos"
    for name in WANTED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE).save(folder / name)
    return folder


def read(path, images=None):
    notes = Notes()
    annotations = read_annotations(AnnotationSource(path, images), on_fault=notes)
    data = labeled_images(annotations)
    found = {
        record.path.name: [
            (data.categories[label].name, box) for label, box in zip(labels, boxes.tolist(), strict=True)
        ]
        for record, boxes, labels in zip(data.images, data.boxes, data.labels, strict=True)
    }
    return found, annotations.format, notes.sentences


def assert_wanted(found, wanted=WANTED, *, tolerance=0.01, names=lambda name: name.rpartition("/")[2]):
    assert found.keys() == {names(name) for name in wanted}
    for name, objects in wanted.items():
        assert [label for label, _ in found[names(name)]] == [label for label, _ in objects]
        for (_, box), (_, corners) in zip(found[names(name)], objects, strict=True):
            assert box == pytest.approx(corners, abs=tolerance)


# Label Studio


def region(label, corners, **changes):
    x1, y1, x2, y2 = corners
    value = {"x": x1 / 0.8, "y": y1 / 0.6, "width": (x2 - x1) / 0.8, "height": (y2 - y1) / 0.6, "rotation": 0}
    return {
        "original_width": SIZE[0],
        "original_height": SIZE[1],
        "image_rotation": 0,
        "value": value | {"rectanglelabels": [label]},
        "id": "Dx_aB91ISN",
        "from_name": "label",
        "to_name": "image",
        "type": "rectanglelabels",
        "origin": "manual",
    } | changes


def annotation(results, **changes):
    return {
        "id": 11,
        "completed_by": 1,
        "result": results,
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": "2026-11-09T22:16:08.728353Z",
        "updated_at": "2026-11-09T22:16:08.728378Z",
        "draft_created_at": None,
        "lead_time": 4.288,
        "prediction": {},
        "result_count": len(results),
        "task": 1,
        "project": 3,
    } | changes


def task(number, place, annotations, **changes):
    return {
        "id": 100 + number,
        "annotations": annotations,
        "file_upload": place.rpartition("/")[2],
        "drafts": [],
        "predictions": [],
        "data": {"image": place},
        "meta": {},
        "created_at": "2026-11-09T21:52:49.513742Z",
        "inner_id": number,
        "total_annotations": len(annotations),
        "project": 3,
    } | changes


PLACES = {
    "local files": lambda name: f"/data/local-files/?d={quote('photos/' + name)}",
    "local files, slashes encoded": lambda name: f"/data/local-files/?d={quote('photos/' + name, safe='')}",
    "uploads": lambda name: f"/data/upload/3/1f3c9a2b-{quote(name.rpartition('/')[2])}",
    "a server's address": lambda name: f"https://example.org/some/{quote(name)}?token=a.b",
    "a bucket": lambda name: f"s3://bucket/photos/{name}",
    "Windows": lambda name: f"C:\\photos\\{name}".replace("/", "\\"),
}


def tasks(place=PLACES["local files"], draw=region):
    return [
        task(number, place(name), [annotation([draw(*one) for one in objects])])
        for number, (name, objects) in enumerate(WANTED.items(), 1)
    ]


def written(folder, content, name="project-3-at-2026-11-09-22-20-1f3c9a2b.json"):
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("where", PLACES)
def test_label_studio_json(where, images, tmp_path):
    found, format, _ = read(written(tmp_path, tasks(PLACES[where])), images)
    assert format == "label-studio"
    assert_wanted(found)


def polygon(label, corners):
    x1, y1, x2, y2 = corners
    points = [[x / 0.8, y / 0.6] for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2))]
    value = {"points": points, "closed": True, "polygonlabels": [label]}
    return region(label, corners, type="polygonlabels", value=value)


def ellipse(label, corners):
    x1, y1, x2, y2 = corners
    value = {"x": (x1 + x2) / 1.6, "y": (y1 + y2) / 1.2, "radiusX": (x2 - x1) / 1.6, "radiusY": (y2 - y1) / 1.2}
    return region(label, corners, type="ellipselabels", value=value | {"rotation": 0, "ellipselabels": [label]})


def quarter_turned(label, corners):
    """The same, drawn from its upper right corner and turned by 90 degrees about that."""
    x1, y1, x2, y2 = corners
    value = {"x": x2 / 0.8, "y": y1 / 0.6, "width": (y2 - y1) / 0.8, "height": (x2 - x1) / 0.6, "rotation": 90}
    return region(label, corners, value=value | {"rectanglelabels": [label]})


def unsized(label, corners):
    one = region(label, corners)
    return {key: value for key, value in one.items() if not key.startswith("original_")}


def separate_labels(label, corners):
    """``<Rectangle>`` and ``<Labels>`` as two tags of the interface."""
    value = region(label, corners)["value"]
    value["labels"] = value.pop("rectanglelabels")
    return region(label, corners, type="labels", value=value)


@pytest.mark.parametrize("draw", [polygon, ellipse, quarter_turned, unsized, separate_labels])
def test_label_studio_shapes(draw, images, tmp_path):
    found, _, _ = read(written(tmp_path, tasks(draw=draw)), images)
    assert_wanted(found)


def test_a_turned_rectangle_of_label_studio_is_the_box_around_it(images, tmp_path):
    x, y, w, h, degrees = 30.0, 10.0, 20.0, 10.0, 30.0
    value = {"x": x / 0.8, "y": y / 0.6, "width": w / 0.8, "height": h / 0.6, "rotation": degrees}
    drawn = region("dog", [0, 0, 1, 1], value=value | {"rectanglelabels": ["dog"]})
    path = written(tmp_path, [task(1, "/data/upload/3/ab12cd34-a.png", [annotation([drawn])])])
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [x - h * sine, y, x + w * cosine, y + w * sine + h * cosine]
    assert_wanted(read(path, images)[0], {"a.png": [("dog", corners)]})


def test_what_is_not_labeled_is_left_out(images, tmp_path):
    content = tasks()
    content[0]["annotations"] = [annotation([region("dog", [1, 1, 9, 9])], was_cancelled=True)]
    content[1]["annotations"] = []
    content[1]["predictions"] = [{"model_version": "denseteacher", "score": 0.5, "result": []}]
    content[2]["annotations"] = [annotation([region("cat", [1, 1, 9, 9])])]
    found, _, said = read(written(tmp_path, content), images)
    assert_wanted(found, {"c.png": [("cat", [1, 1, 9, 9])]})
    assert any("task 101" in one and "no submitted annotation and is left out (2 such in all)" in one for one in said)


def test_of_several_annotations_one_is_read(images, tmp_path):
    late = annotation([region("cat", [1, 1, 9, 9])], updated_at="2026-12-01T00:00:00.000000Z")
    early = annotation([region("dog", [2, 2, 9, 9])])
    canceled = late | {"was_cancelled": True, "updated_at": "2027-01-01T00:00:00.000000Z"}
    place = "/data/upload/3/ab12cd34-a.png"
    found, _, said = read(written(tmp_path, [task(1, place, [late, early, canceled])]), images)
    assert_wanted(found, {"a.png": [("cat", [1, 1, 9, 9])]})
    assert any("has 2 annotations" in one for one in said)
    truth = early | {"ground_truth": True}
    assert_wanted(
        read(written(tmp_path, [task(1, place, [late, truth])]), images)[0], {"a.png": [("dog", [2, 2, 9, 9])]}
    )


def test_choices_and_masks_beside_boxes(images, tmp_path):
    content = tasks()
    choice = {"value": {"choices": ["blurred"]}, "from_name": "quality", "to_name": "image", "type": "choices"}
    brush = region(
        "dog", [1, 1, 2, 2], type="brushlabels", value={"format": "rle", "rle": [0, 1], "brushlabels": ["dog"]}
    )
    relation = {"from_id": "a", "to_id": "b", "type": "relation", "direction": "right"}
    content[0]["annotations"][0]["result"] += [choice, brush, relation]
    found, _, said = read(written(tmp_path, content), images)
    assert_wanted(found)
    assert any("a brush has no box" in one for one in said)


def test_label_studio_json_min(images, tmp_path):
    content = []
    for number, (name, objects) in enumerate(WANTED.items(), 1):
        labels = [region(*one)["value"] | {"original_width": SIZE[0], "original_height": SIZE[1]} for one in objects]
        content.append({"image": PLACES["uploads"](name), "id": number} | ({"label": labels} if labels else {}))
        content[-1] |= {"annotator": 1, "annotation_id": number, "created_at": "2026-11-09T22:16:08Z", "lead_time": 3.5}
    found, format, _ = read(written(tmp_path, content), images)
    assert format == "label-studio"
    assert_wanted(found)


REFUSED = {
    "an image that was turned": (
        lambda content: content[0]["annotations"][0]["result"][0].update(image_rotation=90),
        r"task 101, region 1 was drawn on an image turned by 90 degrees",
    ),
    "a region without a label": (
        lambda content: content[0]["annotations"][0]["result"][0]["value"].pop("rectanglelabels"),
        r"task 101, region 1 has no label",
    ),
    "a box of text": (
        lambda content: content[0]["annotations"][0]["result"][0]["value"].update(x="left"),
        r"region 1 needs numbers of pixels",
    ),
    "no image": (lambda content: content[0].update(data={"text": "hello"}), r"task 101 names no image"),
    "the image of another task": (
        lambda content: content[0].update(data=content[2]["data"]),
        r"is another image already",
    ),
    "nobody has labeled": (
        lambda content: [one.update(annotations=[]) for one in content],
        r"has 3 tasks of Label Studio and none of them is labeled",
    ),
    "a task that is none": (lambda content: content.append(7), r"task 4 must be an object, not 7"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_label_studio_is_refused_in_one_sentence(case, images, tmp_path):
    content = tasks()
    change, sentence = REFUSED[case]
    change(content)
    with pytest.raises(InputError, match=sentence) as caught:
        read(written(tmp_path, content), images)
    assert "\n" not in str(caught.value)


def test_label_studio_coco(images, tmp_path):
    """``result.json`` and ``images``, whose names have the prefixes of uploads; or names of local files."""
    (tmp_path / "coco" / "images").mkdir(parents=True)
    listed, objects = [], []
    for number, (name, drawn) in enumerate(WANTED.items()):
        base = f"1f3c9a2b-{name.rpartition('/')[2]}"
        shutil.copy(images / name, tmp_path / "coco" / "images" / base)
        listed.append({"width": 80, "height": 60, "id": number, "file_name": f"images/{base}"})
        for label, (x1, y1, x2, y2) in drawn:
            one = {
                "id": len(objects),
                "image_id": number,
                "category_id": ["cat", "dog"].index(label),
                "segmentation": [],
            }
            one |= {"bbox": [x1, y1, x2 - x1, y2 - y1], "ignore": 0, "iscrowd": 0, "area": (x2 - x1) * (y2 - y1)}
            objects.append(one)
    content = {
        "images": listed,
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        "annotations": objects,
        "info": {"year": 2026, "version": "1.0", "description": "", "contributor": "Label Studio", "url": ""},
    }
    found, format, _ = read(written(tmp_path / "coco", content, "result.json"))
    assert format == "coco"
    assert_wanted(found, names=lambda name: f"1f3c9a2b-{name.rpartition('/')[2]}")
    for image, name in zip(listed, WANTED, strict=True):
        image["file_name"] = f"/data/local-files/?d={quote('photos/' + name)}"
    (tmp_path / "without").mkdir()
    assert_wanted(read(written(tmp_path / "without", content, "result.json"), images)[0])


def test_label_studio_yolo(images, tmp_path):
    folder = tmp_path / "yolo"
    for below in ("images", "labels"):
        (folder / below).mkdir(parents=True)
    (folder / "classes.txt").write_text("cat\ndog\n")
    (folder / "notes.json").write_text(
        json.dumps({"categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}], "info": {"year": 2026}})
    )
    for name, drawn in WANTED.items():
        base = f"1f3c9a2b-{name.rpartition('/')[2]}"
        shutil.copy(images / name, folder / "images" / base)
        (folder / "labels" / base).with_suffix(".txt").write_text(yolo_lines(drawn))
    found, format, _ = read(folder)
    assert format == "yolo"
    assert_wanted(found, names=lambda name: f"1f3c9a2b-{name.rpartition('/')[2]}")


def yolo_lines(drawn):
    return "".join(
        f"{['cat', 'dog'].index(label)} {(x1 + x2) / 160} {(y1 + y2) / 120} {(x2 - x1) / 80} {(y2 - y1) / 60}\n"
        for label, (x1, y1, x2, y2) in drawn
    )


# CVAT


def cvat_xml(rotation=0.0):
    lines = []
    for number, (name, drawn) in enumerate(WANTED.items()):
        turned = f' rotation="{rotation}"' if rotation and name == "a.png" else ""
        boxes = "".join(
            f'<box label="{label}" source="file" occluded="0"{turned} xtl="{x1:.2f}" ytl="{y1:.2f}" xbr="{x2:.2f}" '
            f'ybr="{y2:.2f}" z_order="0"></box>'
            for label, (x1, y1, x2, y2) in drawn
        )
        lines.append(f'<image id="{number}" name="{name}" width="80" height="60">{boxes}</image>')
    labels = "".join(f"<label><name>{one}</name><color>#fff</color><attributes/></label>" for one in ("cat", "dog"))
    meta = f"<meta><task><id>1</id><mode>annotation</mode><labels>{labels}</labels></task><dumped>2026</dumped></meta>"
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
    return f"{head}{meta}{''.join(lines)}</annotations>"


def cvat_coco(rotation=0.0):
    listed, objects = [], []
    for number, (name, drawn) in enumerate(WANTED.items(), 1):
        image = {"id": number, "width": 80, "height": 60, "file_name": name, "license": 0, "flickr_url": ""}
        listed.append(image | {"coco_url": "", "date_captured": 0})
        turned = rotation if name == "a.png" else 0.0
        for label, (x1, y1, x2, y2) in drawn:
            one = {"id": len(objects) + 1, "image_id": number, "category_id": 1 + ["cat", "dog"].index(label)}
            one |= {"segmentation": [], "area": (x2 - x1) * (y2 - y1), "bbox": [x1, y1, x2 - x1, y2 - y1]}
            objects.append(one | {"iscrowd": 0, "attributes": {"occluded": False, "rotation": turned}})
    categories = [{"id": 1, "name": "cat", "supercategory": ""}, {"id": 2, "name": "dog", "supercategory": ""}]
    info = {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""}
    licenses = [{"name": "", "id": 0, "url": ""}]
    return {"licenses": licenses, "info": info, "categories": categories, "images": listed, "annotations": objects}


def write_cvat(kind, folder, rotation=0.0):
    """What CVAT's archive holds without the images ("Save images" is off)."""
    if kind == "CVAT for images 1.1":
        (folder / "annotations.xml").write_text(cvat_xml(rotation), encoding="utf-8")
    elif kind == "COCO 1.0":
        (folder / "annotations").mkdir()
        written(folder / "annotations", cvat_coco(rotation), "instances_default.json")
    elif kind == "YOLO 1.1":
        (folder / "obj.names").write_text("cat\ndog\n")
        (folder / "obj.data").write_text(
            "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n"
        )
        (folder / "train.txt").write_text("".join(f"data/obj_train_data/{name}\n" for name in WANTED), encoding="utf-8")
        for name, drawn in WANTED.items():
            file = (folder / "obj_train_data" / name).with_suffix(".txt")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(yolo_lines(drawn))
    else:
        for name, drawn in WANTED.items():
            file = (folder / "Annotations" / name).with_suffix(".xml")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(voc_xml(name, drawn, rotation), encoding="utf-8")
        (folder / "ImageSets" / "Main").mkdir(parents=True)
        stems = [name.removesuffix(".png") for name in WANTED]
        lines = "".join(f'"{stem}"\n' if " " in stem else f"{stem}\n" for stem in stems)
        (folder / "ImageSets" / "Main" / "default.txt").write_text(lines, encoding="utf-8")
        (folder / "labelmap.txt").write_text("# label:color_rgb:parts:actions\ncat:128,0,0::\ndog:0,128,0::\n")


def voc_xml(name, drawn, rotation):
    turned = rotation if name == "a.png" else 0.0
    objects = "".join(
        f"<object><name>{label}</name><occluded>0</occluded><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox><attributes><attribute><name>rotation</name><value>{turned}</value></attribute>"
        "</attributes></object>"
        for label, (x1, y1, x2, y2) in drawn
    )
    size = "<size><width>80</width><height>60</height><depth></depth></size>"
    source = "<source><database>Unknown</database><annotation>Unknown</annotation><image>Unknown</image></source>"
    return f"<annotation><folder></folder><filename>{name}</filename>{source}{size}{objects}</annotation>"


CVAT = ["CVAT for images 1.1", "COCO 1.0", "YOLO 1.1", "PASCAL VOC 1.1"]


@pytest.mark.parametrize("kind", CVAT)
def test_cvat(kind, images, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    write_cvat(kind, folder)
    found, _, _ = read(folder, images)
    assert_wanted(found, tolerance=1.01 if kind == "PASCAL VOC 1.1" else 0.01)  # VOC counts pixels from 1


@pytest.mark.parametrize("kind", [kind for kind in CVAT if kind != "YOLO 1.1"])  # which does not say it
def test_turned_boxes_of_cvat_are_the_boxes_around_them(kind, images, tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    write_cvat(kind, folder, rotation=90.0)
    found, _, said = read(folder, images)
    x, y = 25, 21
    (_, box), *_ = found["a.png"]
    assert box == pytest.approx([x - 9, y - 15, x + 9, y + 15], abs=0.01 if kind != "PASCAL VOC 1.1" else 1.01)
    assert kind == "CVAT for images 1.1" or any(
        "turned by 90 degrees: the box around it is read" in one for one in said
    )
