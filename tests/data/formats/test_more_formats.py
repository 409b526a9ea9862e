"""CVAT's XML, LabelMe's folder and CSV tables: each form of each is read as the same boxes, or is one sentence."""

import json
from xml.sax.saxutils import quoteattr

import pytest
from PIL import Image

from denseteacher.data.formats import AnnotationSource, Notes, labeled_images, read_annotations
from denseteacher.errors import InputError

WANTED = {
    "a.png": [("dog", [10, 12, 40, 30])],
    "sub/b.png": [("cat", [1, 2, 21, 12]), ("dog", [30, 5, 50, 45])],
    "c.png": [],
}
"""Labels and xyxy corners."""


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in WANTED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60)).save(folder / name)
    return folder


def read(path, images=None, **options):
    notes = Notes()
    annotations = read_annotations(AnnotationSource(path, images, **options), on_fault=notes)
    data = labeled_images(annotations)
    found = {}
    for image, boxes, labels in zip(data.images, data.boxes, data.labels, strict=True):
        assert (image.width, image.height) == (80, 60)
        pairs = [(data.categories[label].name, box) for label, box in zip(labels, boxes.tolist(), strict=True)]
        found[image.path.relative_to(annotations.images).as_posix()] = pairs
    return found, annotations.format, notes.sentences


def cvat(shape=None, *, sizes=True, names=lambda name: name, labels=("cat", "dog")):
    lines = []
    for number, (name, objects) in enumerate(WANTED.items()):
        size = 'width="80" height="60"' if sizes else ""
        drawn = "".join((shape or cvat_box)(label, *corners) for label, corners in objects)
        lines.append(f"<image id=\"{number}\" name={quoteattr(names(name))} {size}>{drawn}<tag label='x'/></image>")
    listed = "".join(f"<label><name>{label}</name></label>" for label in labels)
    meta = f"<meta><task><labels>{listed}</labels></task></meta>"
    return (
        f"<?xml version='1.0' encoding='utf-8'?><annotations><version>1.1</version>{meta}{''.join(lines)}</annotations>"
    )


def cvat_box(label, x1, y1, x2, y2):
    return f'<box label="{label}" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" occluded="0"/>'


def cvat_turned(label, x1, y1, x2, y2):
    """The same, drawn upright and turned by 90 degrees."""
    x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, y2 - y1, x2 - x1
    return cvat_box(label, x - w / 2, y - h / 2, x + w / 2, y + h / 2).replace("/>", ' rotation="90.0"/>')


def cvat_polygon(label, x1, y1, x2, y2):
    return f'<polygon label="{label}" points="{x1},{y1};{x2},{y1};{x2},{y2}"/>'


def cvat_ellipse(label, x1, y1, x2, y2):
    center, radii = ((x1 + x2) / 2, (y1 + y2) / 2), ((x2 - x1) / 2, (y2 - y1) / 2)
    return f'<ellipse label="{label}" cx="{center[0]}" cy="{center[1]}" rx="{radii[0]}" ry="{radii[1]}"/>'


def cvat_mask(label, x1, y1, x2, y2):
    return f'<mask label="{label}" left="{x1}" top="{y1}" width="{x2 - x1}" height="{y2 - y1}" rle="1, 2"/>'


CVAT = {
    "boxes": cvat(),
    "turned boxes": cvat(cvat_turned),
    "polygons": cvat(cvat_polygon),
    "ellipses": cvat(cvat_ellipse),
    "masks": cvat(cvat_mask),
    "no sizes": cvat(sizes=False),
    "no labels in the head": cvat(labels=()),
    "names of another machine": cvat(names=lambda name: f"/home/me/{name}"),
    "names of Windows": cvat(names=lambda name: name.replace("/", "\\")),
    "points too": cvat(lambda *one: cvat_box(*one) + '<points label="dog" points="1,1"/>'),
}


@pytest.mark.parametrize("named", ["file", "folder", "other"])
@pytest.mark.parametrize("case", CVAT)
def test_cvat(case, named, images, tmp_path):
    file = tmp_path / ("annotations.xml" if named != "other" else "export.xml")
    file.write_text(CVAT[case])
    found, format, said = read(tmp_path if named == "folder" else file)
    assert format == "cvat"
    for name, objects in WANTED.items():
        assert [label for label, _ in found[name]] == [label for label, _ in objects]
        for (_, box), (_, wanted) in zip(found[name], objects, strict=True):
            assert box == pytest.approx(wanted, abs=1e-4)
    assert len(said) == (case in ("no sizes", "names of another machine", "points too"))


def labelme(name, objects, **changes):
    shapes = [
        {"label": label, "points": [[x1, y1], [x2, y2]], "shape_type": "rectangle", "group_id": None, "flags": {}}
        for label, (x1, y1, x2, y2) in objects
    ]
    content = {"version": "5.0", "flags": {}, "shapes": shapes, "imagePath": name, "imageData": None}
    return content | {"imageHeight": 60, "imageWidth": 80} | changes


def polygons(content):
    for shape in content["shapes"]:
        (x1, y1), (x2, y2) = shape["points"]
        shape.update(points=[[x1, y1], [x2, y1], [x2, y2], [x1, y2]], shape_type="polygon")


def circle(content):
    for shape in content["shapes"]:
        if shape["label"] == "dog":
            (x1, y1), (x2, y2) = shape["points"]
            shape.update(points=[[(x1 + x2) / 2, (y1 + y2) / 2], [(x1 + x2) / 2, y2]], shape_type="circle")


LABELME = {
    "rectangles": lambda content: None,
    "drawn from the lower right": lambda content: [shape["points"].reverse() for shape in content["shapes"]],
    "polygons": polygons,
    "old files without a shape type": lambda content: (
        polygons(content) or [s.pop("shape_type") for s in content["shapes"]]
    ),
    "no sizes": lambda content: [content.pop(key) for key in ("imageHeight", "imageWidth")],
    "of Windows": lambda content: content.update(imagePath=f"..\\x\\{content['imagePath']}"),
    "absolute": lambda content: content.update(imagePath=f"/home/me/{content['imagePath']}"),
    "points too": lambda content: content["shapes"].append({"label": "dog", "points": [[1, 1]], "shape_type": "point"}),
}


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize("case", LABELME)
def test_labelme(case, beside, images, tmp_path):
    folder = images if beside else tmp_path / "labels"
    for name, objects in WANTED.items():
        content = labelme(name.rpartition("/")[2], objects)
        LABELME[case](content)
        file = (folder / name).with_suffix(".json")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    found, format, _ = read(folder, None if beside else images)
    assert (found, format) == (WANTED, "labelme")


def test_circles_of_labelme_have_their_box_around_them(images):
    content = labelme("a.png", [("dog", [20, 10, 40, 30])])
    circle(content)
    (images / "a.json").write_text(json.dumps(content))
    assert read(images / "a.json")[0] == {"a.png": [("dog", [20, 10, 40, 30])]}


def rows(order, *, delimiter=",", heading=None, end="\n"):
    lines = [] if heading is None else [delimiter.join(heading)]
    for name, objects in WANTED.items():
        for label, (x1, y1, x2, y2) in objects:
            values = {
                "image": name,
                "label": label,
                "xmin": x1,
                "ymin": y1,
                "xmax": x2,
                "ymax": y2,
                "width": 80,
                "height": 60,
            }
            lines.append(delimiter.join(str(values[key]) for key in order))
        if not objects:
            lines.append(delimiter.join([name if key == "image" else "" for key in order]))
    return end.join(lines) + end


PLAIN = ("image", "xmin", "ymin", "xmax", "ymax", "label")
TENSORFLOW = ("image", "width", "height", "label", "xmin", "ymin", "xmax", "ymax")
TABLES = {
    "plain": rows(PLAIN, heading=PLAIN),
    "TensorFlow's": rows(TENSORFLOW, heading=("filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax")),
    "without a heading": rows(PLAIN),
    "TensorFlow's without a heading": rows(TENSORFLOW),
    "other order and names": rows(("label", *PLAIN[:5]), heading=("Class", "Image_Path", "x1", "y1", "x2", "y2")),
    "semicolons and CRLF": rows(PLAIN, heading=PLAIN, delimiter=";", end="\r\n"),
    "tabs": rows(PLAIN, heading=PLAIN, delimiter="\t"),
    "byte order mark": "\ufeff" + rows(PLAIN, heading=PLAIN),
    "absolute paths": rows(PLAIN, heading=PLAIN).replace("\na.png", "\n/content/a.png"),
    "blank lines": rows(PLAIN, heading=PLAIN).replace("\n", "\n\n"),
}


@pytest.mark.parametrize("case", TABLES)
def test_csv(case, images, tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text(TABLES[case], encoding="utf-8", newline="")
    assert read(file)[:2] == (WANTED, "csv")
    assert read(tmp_path)[1] == "csv"


@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_csv_in_another_encoding(encoding, images, tmp_path):
    file = tmp_path / "labels.csv"
    file.write_bytes(rows(PLAIN, heading=PLAIN).replace("dog", "chien dressé").encode(encoding))
    assert {label for objects in read(file)[0].values() for label, _ in objects} == {"cat", "chien dressé"}


REFUSED = {
    "an XML cut off": ("x.xml", cvat()[:200], r"x\.xml can't be read as XML"),
    "an XML with entities": ("x.xml", "<!DOCTYPE a [<!ENTITY b 'c'>]><annotations>&b;</annotations>", "document type"),
    "VOC's XML alone": ("x.xml", "<annotation></annotation>", r"one image in VOC's format: name the folder"),
    "another XML": ("x.xml", "<html></html>", r"its root is 'html'"),
    "an XML of no images": ("x.xml", "<annotations></annotations>", "lists no images"),
    "tracks of a video": ("x.xml", "<annotations><track id='0'/></annotations>", "tracks of a video.*COCO 1.0"),
    "an unknown encoding": ("x.xml", "<?xml version='1.0' encoding='foo'?><annotations/>", r"can't be read as XML"),
    "text in a corner": ("x.xml", cvat().replace('xtl="10"', 'xtl="left"'), r"box 1 of a\.png needs numbers"),
    "corners swapped": ("x.xml", cvat().replace('xtl="10"', 'xtl="70"'), r"box 1 of a\.png has the box .* no area"),
    "no label": ("x.xml", cvat().replace('<box label="dog"', "<box"), r"box 1 of a\.png has no label"),
    "missing images": ("x.xml", cvat().replace("c.png", "gone.png"), r"'gone\.png' is not in"),
    "an empty table": ("x.csv", "", r"x\.csv is empty"),
    "a table of something else": ("x.csv", "a,b\n1,2\n", r"should name the columns image, xmin"),
    "a table without labels": ("x.csv", "image,xmin,ymin,xmax,ymax\na.png,1,2,3,4\n", r"lacks label"),
    "shares": ("x.csv", "image,xmin,ymin,xmax,ymax,label\na.png,.1,.2,.3,.4,dog\n", r"look like shares"),
    "words in a table": ("x.csv", "image,xmin,ymin,xmax,ymax,label\na.png,a,2,3,4,dog\n", r"line 2 needs numbers"),
    "a table that is not a text": ("x.csv", b"\x81\x8d\x8f\x00", r"x\.csv"),
    "LabelMe of no objects": ("x.json", json.dumps(labelme("a.png", [])), r"names no classes"),
    "LabelMe with words": (
        "x.json",
        json.dumps(labelme("a.png", [("dog", ("a", 1, 2, 3))])),
        r"shape 1 needs numbers of pixels",
    ),
    "LabelMe without its image": ("x.json", json.dumps(labelme("gone.png", [("dog", (1, 2, 3, 4))])), r"'gone\.png'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_none_of_them_is_one_sentence(case, images, tmp_path):
    name, content, says = REFUSED[case]
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=says) as caught:
        read(path, format={".xml": "cvat", ".csv": "csv", ".json": "labelme"}[path.suffix])
    assert "\n" not in str(caught.value)
