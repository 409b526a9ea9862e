"""COCO files as tools and people really write them: what can mean one thing only is read so, said and counted."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from conftest import write_coco
from denseteacher.data.formats import (
    AnnotationSource,
    Notes,
    labeled_images,
    read_annotations,
    read_image_info,
    read_labeled,
)
from denseteacher.data.formats.outlines import box_of_ellipse, box_of_segmentation, box_of_turned
from denseteacher.errors import InputError
from support import changed_json


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_coco(tmp_path_factory.mktemp("sound"), 6)


def read(path, images=None):
    """Boxes by image name, class names, and the sentences."""
    notes = Notes()
    data = labeled_images(read_annotations(AnnotationSource(path, images), on_fault=notes))
    boxes = {image.path.name: own.tolist() for image, own in zip(data.images, data.boxes, strict=True)}
    sizes = {image.path.name: (image.width, image.height) for image in data.images}
    return boxes, sizes, [category.name for category in data.categories], notes.sentences


def everywhere(kind, key, change):
    def apply(content):
        for one in content[kind]:
            one[key] = change(one[key])

    return apply


def all_ids(change):
    def apply(content):
        for kind in ("images", "categories"):
            everywhere(kind, "id", change)(content)
        for key in ("image_id", "category_id"):
            everywhere("annotations", key, change)(content)

    return apply


def outlined(make):
    def apply(content):
        for one in content["annotations"]:
            one["segmentation"] = make(one.pop("bbox"), content["images"])

    return apply


def polygon(box, _):
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def runs(box, _):
    mask = np.zeros((200, 200), np.uint8)
    x, y, w, h = box
    mask[y : y + h, x : x + w] = 1
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    return {"size": [200, 200], "counts": np.diff([0, *edges.tolist(), flat.size]).tolist()}


def compressed(box, images):
    from pycocotools import mask

    return {"size": [200, 200], "counts": mask.frPyObjects(runs(box, images), 200, 200)["counts"].decode()}


def drop(kind, *keys):
    def apply(content):
        for one in content[kind]:
            for key in keys:
                del one[key]

    return apply


READ = {
    "sizes missing": (drop("images", "width", "height"), "its file says how large it is (6 such in all)"),
    "sizes null": (everywhere("images", "width", lambda _: None), "its file says how large it is (6 such in all)"),
    "sizes 0": (everywhere("images", "height", lambda _: 0), "its file says how large it is"),
    "sizes negative": (everywhere("images", "height", lambda _: -3), "its file says how large it is"),
    "sizes that are lists": (everywhere("images", "height", lambda _: [1]), "its file says how large it is"),
    "sizes of 400 digits": (everywhere("images", "height", lambda _: 10**400), "its file says how large it is"),
    "sizes as text": (everywhere("images", "width", str), ""),
    "sizes as 64.0": (everywhere("images", "width", float), ""),
    "ids as text": (all_ids(str), ""),
    "ids as 3.0": (all_ids(float), ""),
    "ids that are names": (all_ids(lambda id_: f"a{id_}"), "image id 'a10' is not a number: they are numbered"),
    "ids of 400 digits": (all_ids(lambda id_: 10**400 + id_), "is not a number: they are numbered"),
    "image ids as text in annotations alone": (everywhere("annotations", "image_id", str), ""),
    "polygons without boxes": (outlined(polygon), "it is the box around its segmentation"),
    "masks without boxes": (outlined(runs), "it is the box around its segmentation"),
    "compressed masks without boxes": (outlined(compressed), "it is the box around its segmentation"),
    "boxes null beside polygons": (
        lambda c: [one.update(segmentation=polygon(one["bbox"], None), bbox=None) for one in c["annotations"]],
        "it is the box around its segmentation",
    ),
    "iscrowd as text": (everywhere("annotations", "iscrowd", str), "has the iscrowd '0', which is read as 0"),
    "iscrowd as bool": (everywhere("annotations", "iscrowd", bool), "has the iscrowd False, which is read as 0"),
    "iscrowd as a word": (everywhere("annotations", "iscrowd", lambda crowd: ["false", "true"][crowd]), "'false'"),
    "iscrowd as 0.0": (everywhere("annotations", "iscrowd", float), ""),
    "iscrowd null where it is 0": (everywhere("annotations", "iscrowd", lambda crowd: crowd or None), ""),
    "boxes as text": (everywhere("annotations", "bbox", lambda box: [*map(str, box)]), "is read as numbers"),
    "area as text": (everywhere("annotations", "area", str), ""),
    "area that is an object": (everywhere("annotations", "area", lambda _: {"a": 1}), ""),
    "annotation ids that are lists": (everywhere("annotations", "id", lambda id_: [id_]), ""),
    "a source of its own": (lambda c: [one.update(source={"x": 1}) for one in c["annotations"]], ""),
    "difficult that is a list": (lambda c: [one.update(difficult=[1]) for one in c["annotations"]], ""),
}


@pytest.mark.parametrize("case", READ)
def test_what_means_one_thing_is_read_so(case, sound, tmp_path):
    change, says = READ[case]
    path = changed_json(sound, tmp_path, change)
    expected, found = read(sound), read(path, sound.parent / "images")
    assert found[:3] == expected[:3]
    assert says in " ".join(found[3])
    assert bool(says) == bool(found[3])
    again = read_annotations(AnnotationSource(path, sound.parent / "images")).content["annotations"]
    assert sum(one["iscrowd"] for one in again) == 1
    assert all(type(one["iscrowd"]) is int and type(one["image_id"]) is int for one in again)


REFUSED = {
    "shares of the image": (
        everywhere("annotations", "bbox", lambda box: [value / 200 for value in box]),
        r"boxes lie between 0 and 1, .* look like shares of the image",
    ),
    "iscrowd of 7": (everywhere("annotations", "iscrowd", lambda _: 7), r"has the iscrowd 7, where 0 or 1 is needed"),
    "iscrowd that is a list": (everywhere("annotations", "iscrowd", lambda _: [0]), r"where 0 or 1 is needed"),
    "neither box nor outline": (drop("annotations", "bbox"), r"needs image_id, category_id and bbox"),
    "outline of three numbers": (
        lambda c: [one.update(bbox=None, segmentation=[[1, 2, 3]]) for one in c["annotations"]],
        r"has the bbox None, where \[x, y, width, height\]",
    ),
    "mask longer than its image": (
        lambda c: [one.update(bbox=[], segmentation={"size": [5, 5], "counts": [0, 99]}) for one in c["annotations"]],
        r"has the bbox \[\], where",
    ),
    "box of 400 digits": (
        lambda c: c["annotations"][0].update(bbox=[10**400, 2, 3, 4]),
        r"where \[x, y, width, height\] is needed",
    ),
    "words in a box": (lambda c: c["annotations"][0].update(bbox=["a", 2, 3, 4]), r"has the bbox \['a', 2, 3, 4\]"),
    "no name of a class": (
        lambda c: c["categories"][0].update(name="  "),
        r"class 2 has the name '  ': it needs a text",
    ),
    "a class named null": (lambda c: c["categories"][0].update(name=None), r"needs an id and a name"),
    "id that is a list": (lambda c: c["images"][0].update(id=[1]), r"an image needs an id and a file_name"),
    "no classes": (lambda c: c.update(categories=[]), r"lists no categories"),
    "a name of 300 bytes": (lambda c: c["images"][0].update(file_name="a" * 300 + ".png"), r"is not in .*images"),
    "a name of half a character": (lambda c: c["images"][0].update(file_name="\ud800.png"), r"is not in .*images"),
    "a name with NUL": (lambda c: c["images"][0].update(file_name="a\0.png"), r"leaves the image folder"),
    "two classes of one name": (
        lambda c: c["categories"][1].update(name="red"),
        r"stand for several category ids, the first 'red'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_means_nothing_is_one_sentence(case, sound, tmp_path):
    change, says = REFUSED[case]
    path = changed_json(sound, tmp_path, change)
    with pytest.raises(InputError, match=says) as caught:
        read_labeled(AnnotationSource(path, sound.parent / "images"), categories=read_annotations(sound).categories)
    assert str(caught.value).count("\n") == 0
    assert "changed.json" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"images": ' + "[" * 900 + "]" * 900 + "}", '{"images": [NaN]}', "{}"]
)
def test_a_json_that_is_hardly_one_is_one_sentence(text, tmp_path):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"x\.json"):
        read_annotations(AnnotationSource(path, format="coco"))


NAMES = {
    "absolute": "/home/somebody/data/{}",
    "of Windows": "C:\\data\\images\\{}",
    "relative to another place": "../../images/{}",
    "of a folder that is not here": "train/images/{}",
    "an address": "https://example.com/bucket/{}?token=1#x",
    "percent-encoded address": "s3://bucket/my%20images/{}",
    "an upload of Label Studio": "/data/upload/1/ab12-{}",
    "an upload beside the JSON": "images/4f5ab012-{}",
    "a local file of Label Studio": "/data/local-files/?d=images%2F{}",
    "in capitals": None,
    "without suffix": None,
}


@pytest.mark.parametrize("case", NAMES)
def test_names_of_another_machine_mean_the_only_file_of_that_name(case, sound, tmp_path):
    form = NAMES[case]
    change = {"in capitals": str.upper, "without suffix": lambda name: name.rpartition(".")[0]}.get(
        case, lambda name: form.format(name)
    )
    path = changed_json(sound, tmp_path, everywhere("images", "file_name", change))
    boxes, sizes, classes, said = read(path, sound.parent / "images")
    assert (boxes, sizes, classes) == read(sound)[:3]
    assert len(said) == 1
    assert "is taken for it (6 such in all)" in said[0]
    assert [image.path.parent.name for image in read_image_info(path, sound.parent / "images")] == ["images"] * 6


def test_percent_encoded_names_are_decoded(sound, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(sound.parent / "images", images)
    (images / "001.png").rename(images / "my picture é.png")
    path = changed_json(sound, tmp_path, lambda c: c["images"][0].update(file_name="my%20picture%20%C3%A9.png"))
    boxes, *_, said = read(path)
    assert "my picture é.png" in boxes
    assert "'my picture é.png' is" in said[0]


def test_a_name_that_several_files_have_is_refused_unless_its_folder_says_which(sound, tmp_path):
    images = tmp_path / "images"
    for folder in ("a", "b"):
        shutil.copytree(sound.parent / "images", images / folder)
    for prefix, matched in (("/somewhere/", None), ("/somewhere/b/", "b"), ("B:\\x\\a\\", "a")):
        path = changed_json(
            sound, tmp_path, everywhere("images", "file_name", lambda name, prefix=prefix: prefix + name)
        )
        if matched is None:
            with pytest.raises(InputError, match="give its folder with --images"):
                read(path, images)
        else:
            found = read_annotations(AnnotationSource(path, images), on_fault=Notes())
            assert {record.path.parent.name for record in found.records} == {matched}


def test_two_names_are_not_the_same_file(sound, tmp_path):
    """One of them is not here: guessing would give its boxes to another image."""
    path = changed_json(sound, tmp_path, lambda c: c["images"][1].update(file_name="/other/001.png"))
    with pytest.raises(
        InputError, match=r"'/other/001\.png' .*'001\.png', which it could be, is another image already"
    ):
        read(path, sound.parent / "images")


def test_nothing_outside_of_the_folder_is_opened(sound, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (64, 88)).save(secret)
    for name in (str(secret), "../secret.png", f"file://{secret}"):
        path = changed_json(sound, tmp_path, lambda c, name=name: c["images"][0].update(file_name=name))
        with pytest.raises(InputError, match="leaves the image folder"):
            read(path, sound.parent / "images")


def test_a_link_that_lies_in_the_folder_is_followed(tmp_path):
    path = write_coco(tmp_path / "set", 3)
    file = tmp_path / "set" / "images" / "001.png"
    file.rename(tmp_path / "blob")
    file.symlink_to(tmp_path / "blob")
    assert len(read(path)[0]) == 3


CLASS_NAMES = {
    "newline": ("a\nb", "a b"),
    "escape": ("a\x1b[31mb", "a [31mb"),
    "lone surrogate": ("a\ud800", "a\ufffd"),
    "spaces around": (" a ", "a"),
    "line separator": ("a\u2028b", "a b"),
    "very long": ("x" * 3000, "x" * 500),
    "number": (7, "7"),
}


@pytest.mark.parametrize("case", CLASS_NAMES)
def test_class_names_fit_in_a_line(case, sound, tmp_path):
    name, shown = CLASS_NAMES[case]
    path = changed_json(sound, tmp_path, lambda c: c["categories"][0].update(name=name))
    *_, classes, said = read(path, sound.parent / "images")
    assert classes[0] == shown
    assert ("is read as" in "".join(said)) == (case != "number")


@pytest.mark.parametrize("name", ["[/red]", "$\\frac$", "=1+1", "日本語", "naïve", "a\u200db", "{0}", "%s"])
def test_names_that_are_only_unusual_stay(name, sound, tmp_path):
    path = changed_json(sound, tmp_path, lambda c: c["categories"][0].update(name=name))
    assert read(path, sound.parent / "images")[2][0] == name


OTHERS = {
    "VIA": ({"a.png123": {"filename": "a.png", "regions": []}}, r"VIA .*Export Annotations \(COCO format\)"),
    "a VIA project": ({"_via_settings": {}, "_via_img_metadata": {}}, r"VIA .*COCO format"),
    "Supervisely": ({"description": "", "tags": [], "size": {}, "objects": []}, r"Supervisely.*Export to COCO"),
    "Supervisely's meta": ({"classes": [], "tags": []}, r"Supervisely.*Export to COCO"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_exports_of_other_tools_name_the_converter(case, tmp_path):
    content, says = OTHERS[case]
    path = tmp_path / "export.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=says):
        read_annotations(path)


def test_boxes_around_turned_shapes():
    """Corners turned one by one are the reference."""
    for degrees in (0, 30, 90, 137, -45):
        angle = np.deg2rad(degrees)
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        corners = np.array([[-20, -5], [20, -5], [20, 5], [-20, 5]]) @ turn.T + (50, 60)
        x, y, w, h = box_of_turned((50, 60), (40, 10), degrees)
        assert np.allclose([x, y, x + w, y + h], [*corners.min(0), *corners.max(0)])
        steps = np.linspace(0, 2 * np.pi, 20_001)
        edge = np.stack([20 * np.cos(steps), 5 * np.sin(steps)], 1) @ turn.T + (50, 60)
        x, y, w, h = box_of_ellipse((50, 60), (20, 5), degrees)
        assert np.allclose([x, y, x + w, y + h], [*edge.min(0), *edge.max(0)], atol=1e-4)


def test_boxes_of_masks_are_those_of_pycocotools():
    from pycocotools import mask

    rng = np.random.default_rng(0)
    for _ in range(50):
        height, width = rng.integers(1, 40, 2)
        pixels = np.asfortranarray(rng.random((height, width)) < rng.choice([0.02, 0.5, 0.98])).astype(np.uint8)
        encoded = mask.encode(pixels)
        found = box_of_segmentation({"size": [int(height), int(width)], "counts": encoded["counts"].decode()})
        assert found == (mask.toBbox(encoded).tolist() if pixels.any() else None)
