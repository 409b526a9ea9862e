"""Whatever stands in a file of annotations, reading it gives a data set or one sentence; seeded, a few seconds."""

import copy
import csv
import io
import json
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from PIL import Image

from denseteacher.data.formats import AnnotationSource, Notes, labeled_images, read_annotations, read_image_info
from denseteacher.errors import InputError

QUICK = settings(
    max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 70),
    st.sampled_from([10**400, -(10**400), 2**63, 1e308, -1e308, 0.5, 3.0, 1e15]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    st.sampled_from(["", "0", "1", "3.0", "nan", "inf", "\ud800", "a\0b", "x" * 300, "\x1b[31m", "=1+1", "[/red]"]),
    st.sampled_from(["../a.png", "/etc/passwd", "A.PNG", "a", "~/a.png", "%61.png", "%ff.png", "?d=a.png"]),
    st.sampled_from(["/data/upload/1/ab12-a.png", "http://h/a.png?x=1", "C:\\a.png", "file:///a.png", "a/"]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)

SOUND = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 64, "height": 48},
        {"id": 2, "file_name": "b.png", "width": 64, "height": 48},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 12], "area": 120, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0},
        {"id": 3, "image_id": 2, "category_id": 2, "segmentation": [[5, 5, 20, 5, 20, 20]], "iscrowd": 1},
        {"id": 4, "image_id": 2, "category_id": 2, "segmentation": {"size": [48, 64], "counts": [5, 9, 3000]}},
    ],
    "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 48)).save(folder / name)
    return folder


def places(value, path=()):
    """All places in nested lists and dicts."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def put(content, path, new):
    content = copy.deepcopy(content)
    if not path:
        return new
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return content


changes = st.lists(st.tuples(st.integers(0, 10**6), values), min_size=1, max_size=3)


def changed(content, wanted):
    for number, new in wanted:
        found = list(places(content))
        content = put(content, found[number % len(found)], new)
    return content


def outcome(read):
    """What the reader gives, or None where it says one sentence."""
    try:
        return read()
    except InputError as error:
        sentence = str(error)
    assert sentence.strip()
    assert len(sentence) < 2000
    return None


def use(path, format):
    """Reads as training does, with every fault refused, and as the check does, with every fault passed over."""
    for on_fault in (Notes(), lambda faults: None):
        annotations = outcome(
            lambda on_fault=on_fault: read_annotations(AnnotationSource(path, format=format), on_fault=on_fault)
        )
        if annotations is not None:
            data = outcome(lambda annotations=annotations: labeled_images(annotations, bad_boxes="fix"))
            pairs = [] if data is None else zip(data.boxes, data.labels, strict=True)
            assert all(boxes.shape == (len(labels), 4) for boxes, labels in pairs)
            assert all(one.get("iscrowd") in (0, 1) for one in annotations.content["annotations"])
            assert all(annotations.images in record.path.parents for record in annotations.records)


@seed(14)
@QUICK
@given(changes)
def test_coco(folder, wanted):
    path = folder / "labels.json"
    path.write_text(json.dumps(changed(SOUND, wanted)))
    use(path, "coco")
    outcome(lambda: read_image_info(path))


@pytest.mark.parametrize(
    "new",
    [None, True, "x", "0", "", "\ud800", 10**400, 2**63, 1e308, -3, [], [1], {}, {"a": [1]}],
    ids=lambda one: ascii(one)[:20],
)
def test_coco_with_one_thing_at_any_place(folder, new):
    path = folder / "places.json"
    for place in places(SOUND):
        path.write_text(json.dumps(put(SOUND, place, new)))
        use(path, "coco")


@seed(15)
@QUICK
@given(changes)
def test_labelme(folder, wanted):
    content = {
        "version": "5", "imagePath": "a.png", "imageHeight": 48, "imageWidth": 64, "imageData": None,
        "shapes": [
            {"label": "dog", "points": [[1, 2], [10, 12]], "shape_type": "rectangle"},
            {"label": "cat", "points": [[1, 2], [10, 12], [3, 9]], "shape_type": "polygon"},
            {"label": "cat", "points": [[10, 12], [13, 15]], "shape_type": "circle"},
        ],
    }  # fmt: skip
    path = folder / "a.json"
    path.write_text(json.dumps(changed(content, wanted)))
    use(path, "labelme")


texts = st.one_of(
    scalars.filter(lambda one: not isinstance(one, str)).map(str),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8),
    st.sampled_from(["nan", "inf", "1e400", "0x10", "1_0", "٣", "-1", " 7 ", "9" * 400, "a.png", "1,2;3,4"]),
)


@seed(16)
@QUICK
@given(st.lists(st.tuples(st.integers(0, 30), texts), min_size=1, max_size=4), st.integers(0, 2000))
def test_cvat(folder, wanted, cut):
    given = [
        "a.png",
        "64",
        "48",
        "dog",
        "1",
        "2",
        "30",
        "40",
        "0",
        "1,2;30,2;30,40",
        "9",
        "8",
        "4",
        "3",
        "1",
        "2",
        "20",
        "10",
    ]
    for place, text in wanted:
        given[place % len(given)] = text
    name, width, height, label, x1, y1, x2, y2, turn, points, *rest = map(quoteattr, given)
    content = (
        f"<annotations><image id='0' name={name} width={width} height={height}>"
        f"<box label={label} xtl={x1} ytl={y1} xbr={x2} ybr={y2} rotation={turn}/><polygon label='a' points={points}/>"
        f"<ellipse label='b' cx={rest[0]} cy={rest[1]} rx={rest[2]} ry={rest[3]} rotation={turn}/>"
        f"<mask label='c' left={rest[4]} top={rest[5]} width={rest[6]} height={rest[7]}/></image></annotations>"
    )
    path = folder / "x.xml"
    path.write_text(content[:cut] if cut < 100 else content, encoding="utf-8")
    use(path, "cvat")


@seed(17)
@QUICK
@given(st.lists(st.lists(texts, max_size=9), max_size=4), st.booleans(), st.binary(max_size=3))
def test_csv(folder, rows, heading, noise):
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerows([["image", "xmin", "ymin", "xmax", "ymax", "label"]] if heading else [])
    writer.writerows([["a.png", 1, 2, 30, 40, "dog"], *rows])
    path = folder / "x.csv"
    path.write_bytes(buffer.getvalue().encode() + noise)
    use(path, "csv")


SUFFIX = {"coco": "json", "labelme": "json", "cvat": "xml", "csv": "csv"}


@seed(18)
@settings(QUICK, max_examples=60)
@given(st.sampled_from(["coco", "labelme", "cvat", "csv"]), st.binary(max_size=60))
def test_bytes_of_any_kind(folder, format, content):
    path = folder / f"any.{SUFFIX[format]}"
    path.write_bytes(content)
    use(path, format)
