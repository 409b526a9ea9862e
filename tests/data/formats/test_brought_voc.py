"""VOC data sets as people bring them: what has one reading is read that way and said, the rest is one sentence."""

import math
import os
import re
import shutil

import numpy as np
import pytest

from denseteacher.data.formats import VOC_CLASSES, read_annotations
from denseteacher.errors import InputError
from support.published_datasets import CLASSES, parts, save, scenes, voc_xml, write_voc

XML = "Annotations/000001.xml"
_BOX = re.compile(
    r"<bndbox>\s*<xmin>(\d+)</xmin>\s*<ymin>(\d+)</ymin>\s*<xmax>(\d+)</xmax>\s*<ymax>(\d+)</ymax>\s*</bndbox>"
)
TRAIN = parts(scenes())[0]


def read(path, **options):
    """The data set, and the kinds of what was read in another way than it stands there; a fault is none here."""
    told = []
    annotations = read_annotations(path, on_fault=told.extend, **options)
    assert [fault.message for fault in told if not fault.harmless] == []
    return annotations, {fault.kind for fault in told}


def assert_scenes(annotations, made, *, names=CLASSES):
    called = {category.id: category.name for category in annotations.categories}
    records = sorted(annotations.records, key=lambda record: record.path.name)
    assert [(record.width, record.height) for record in records] == [scene.size for scene in made]
    for record, scene in zip(records, made, strict=True):
        own = [one for one in annotations.content["annotations"] if one["image_id"] == record.id]
        boxes = np.array([one["bbox"] for one in own]).reshape(-1, 4)
        assert np.abs(boxes - np.array(scene.boxes).reshape(-1, 4)).max(initial=0) < 1e-6
        assert [called[one["category_id"]] for one in own] == [names[label] for label in scene.labels]


def plain(folder):
    """``Annotations`` and ``JPEGImages``, no image sets."""
    root = write_voc(folder)
    shutil.rmtree(root / "ImageSets")
    for scene in parts(scenes())[1]:
        (root / "Annotations" / f"{scene.number:06d}.xml").unlink()
        (root / "JPEGImages" / f"{scene.number:06d}.jpg").unlink()
    return root


def renamed(*pairs, make=plain):
    def write(folder):
        root = make(folder)
        for old, new in pairs:
            (root / old).rename(root / new)
        root.rename(folder / "mine")
        return folder / "mine"

    return write


def each_xml(change, make=plain):
    """Each XML file in another form; a change gets the text and the name."""

    def write(folder):
        root = make(folder)
        for file in (root / "Annotations").glob("*.xml"):
            text = change(file.read_text(), file.stem)
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return root

    return write


def each_image(change):
    def write(folder):
        root = plain(folder)
        for file in list((root / "JPEGImages").iterdir()):
            target = change(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.rename(target)
        return root

    return write


def each_line(change):
    """Each line of the image set in another form."""

    def write(folder):
        root = write_voc(folder)
        file = root / "ImageSets" / "Main" / "trainval.txt"
        file.write_text("".join(f"{change(line)}\n" for line in file.read_text().split()))
        return root

    return write


def sub_folders(folder):
    root = plain(folder)
    for number, file in enumerate(sorted((root / "Annotations").glob("*.xml"))):
        place = f"batch {number % 2}"
        for kind, suffix in (("Annotations", "xml"), ("JPEGImages", "jpg")):
            (root / kind / place).mkdir(exist_ok=True)
            (root / kind / f"{file.stem}.{suffix}").rename(root / kind / place / f"{file.stem}.{suffix}")
    return root


def roboflow(folder):
    """A folder for each part, with XML files and images in it."""
    for part, made in zip(("train", "valid"), parts(scenes()), strict=True):
        for scene in made:
            save(scene, folder / part / f"{scene.number:06d}.jpg")
            (folder / part / f"{scene.number:06d}.xml").write_text(voc_xml(scene))
    return folder


def sets_without_main(folder):
    root = write_voc(folder)
    for file in (root / "ImageSets" / "Main").glob("train*.txt"):
        file.rename(root / "ImageSets" / file.name)
    shutil.rmtree(root / "ImageSets" / "Main")
    return root


def renamed_images(stated):
    """XML files that name an image called otherwise than they."""

    def change(file):
        return file.with_name(f"photo {file.stem}.jpg")

    def write(folder):
        root = each_image(change)(folder)
        for file in (root / "Annotations").glob("*.xml"):
            text = file.read_text()
            file.write_text(text.replace(f"{file.stem}.jpg", stated.format(f"photo {file.stem}.jpg")))
        return root

    return write


def drawn(form):
    """Boxes as outlines without a bndbox; a form gets the box with its first and last pixels."""

    def change(text, _):
        without_parts = re.sub(r"<part>.*?</part>", "", text, flags=re.DOTALL)
        return _BOX.sub(lambda found: form(*map(int, found.groups())), without_parts)

    return each_xml(change)


def polygon(left, top, right, bottom):
    """Roboflow's and CVAT's: points of the plane, where a bndbox counts pixels from 1."""
    left, top = left - 1, top - 1
    points = [(left, top), (right, top), (right, bottom), (left, bottom)]
    return f"<polygon>{''.join(f'<x{n}>{x}</x{n}><y{n}>{y}</y{n}>' for n, (x, y) in enumerate(points, 1))}</polygon>"


def points(left, top, right, bottom):
    """LabelMe's old XML."""
    written = "".join(f"<pt><x>{x}</x><y>{y}</y></pt>" for x, y in ((left - 1, top - 1), (right, bottom)))
    return f"<polygon><username>me</username>{written}</polygon>"


def turned(left, top, right, bottom):
    """roLabelImg's, turned by a quarter."""
    width, height = right - left + 1, bottom - top + 1
    numbers = {"cx": left - 1 + width / 2, "cy": top - 1 + height / 2, "w": height, "h": width, "angle": math.pi / 2}
    return f"<robndbox>{''.join(f'<{key}>{value!r}</{key}>' for key, value in numbers.items())}</robndbox>"


def in_encoding(encoding, stated=None, name="person"):
    """Class names in an encoding of Windows, which the file states or not."""

    def change(text, _):
        head = f'<?xml version="1.0" encoding="{stated}"?>\n' if stated is not None else ""
        return (head + text.replace("<name>person<", f"<name>{name}<")).encode(encoding)

    return each_xml(change)


def truth_as_text(text, _):
    return text.replace("<width>", "<width> ").replace("<difficult>1<", "<difficult>True<")


BY_NAME, DRAWN, ENCODED = (
    {"image found by its name"},
    {"outline in place of a box"},
    {"annotation file of another encoding"},
)
READ = {
    "Images": (renamed(("JPEGImages", "Images")), set()),
    "lower-case folders": (renamed(("JPEGImages", "jpegimages"), ("Annotations", "annotations")), set()),
    "images and annotations": (renamed(("JPEGImages", "images"), ("Annotations", "annotations")), set()),
    "images and xmls": (renamed(("JPEGImages", "img"), ("Annotations", "xmls")), set()),
    "images and labels": (renamed(("JPEGImages", "images"), ("Annotations", "labels")), set()),
    "lower-case sets": (renamed(("ImageSets", "imagesets"), ("JPEGImages", "jpegimages"), make=write_voc), set()),
    "sets without Main": (sets_without_main, set()),
    ".Jpg": (each_image(lambda file: file.with_suffix(".Jpg")), set()),
    ".jPG": (each_image(lambda file: file.with_suffix(".jPG")), BY_NAME),
    "sub-folders": (sub_folders, set()),
    "sub-folders of images": (each_image(lambda file: file.parent / "deep" / "er" / file.name), BY_NAME),
    "a folder for each part": (roboflow, set()),
    "filename": (renamed_images("{}"), set()),
    "filename with folders": (renamed_images("images/set 1/{}"), BY_NAME),
    "filename of Windows": (renamed_images(r"C:\Users\me\{}"), BY_NAME),
    "filename without suffix": (lambda folder: _without_suffix(renamed_images("{}")(folder)), BY_NAME),
    "sets with suffixes": (each_line("{}.jpg".format), set()),
    "sets of XML files": (each_line("{}.xml".format), set()),
    "sets of paths": (each_line("./JPEGImages/{}.jpg".format), set()),
    "sets in quotes": (each_line('"{}"'.format), set()),
    "polygons": (drawn(polygon), DRAWN),
    "points": (drawn(points), DRAWN),
    "turned boxes": (drawn(turned), DRAWN),
    "GBK that is stated": (in_encoding("gbk", "GBK", "行人"), set()),
    "GBK that is not stated": (in_encoding("gbk", None, "行人"), ENCODED),
    "GBK that is stated to be UTF-8": (in_encoding("gbk", "utf-8", "行人"), ENCODED),
    "Latin-1 that is stated": (in_encoding("latin-1", "ISO-8859-1", "véhicule"), set()),
    "Latin-1 that is not stated": (in_encoding("latin-1", None, "véhicule"), ENCODED),
    "UTF-8 stated to be UTF-16": (in_encoding("utf-8", "utf-16", "véhicule"), ENCODED),
    "UTF-16": (in_encoding("utf-16", "utf-16", "véhicule"), set()),
    "an encoding that is none": (in_encoding("utf-8", "foo"), ENCODED),
    "an encoding of no text": (in_encoding("utf-8", "zlib"), ENCODED),
    "size as text": (each_xml(truth_as_text), set()),
    "size of 400 digits": (each_xml(lambda text, _: text.replace("<width>", f"<width>{'9' * 400}")), set()),
    "size of words": (each_xml(lambda text, _: text.replace("<width>", "<width>about ")), set()),
    "no size": (each_xml(lambda text, _: re.sub(r"<size>.*?</size>", "", text, flags=re.DOTALL)), set()),
    "files of a Mac": (lambda folder: _mac(plain(folder)), set()),
}


def _without_suffix(root):
    for file in (root / "Annotations").glob("*.xml"):
        file.write_text(file.read_text().replace(".jpg<", "<"))
    return root


def _mac(root):
    (root / "Annotations" / "._000001.xml").write_bytes(b"\0\5\x16\7")
    (root / "JPEGImages" / "._000001.jpg").write_bytes(b"\0\5\x16\7")
    return root


@pytest.mark.parametrize("case", READ)
def test_what_has_one_reading_is_read_and_said(tmp_path, case):
    make, kinds = READ[case]
    annotations, told = read(make(tmp_path / "data"))
    words = {category.name for category in annotations.categories}
    names = [next(iter(words - {"car", "dog"})), "car", "dog"]
    assert_scenes(annotations, TRAIN, names=names)
    assert names[0] in ("person", "行人", "véhicule")
    assert told == kinds


def test_parts_of_folders_by_role(tmp_path):
    annotations, _ = read(roboflow(tmp_path), role="validation")
    assert_scenes(annotations, parts(scenes())[1])


def test_classes_are_those_that_occur_in_vocs_order(tmp_path):
    """Two of VOC's twenty are two; in the published data all occur, in the order that everybody numbers them in."""
    annotations, _ = read(plain(tmp_path / "some"))
    assert [category.name for category in annotations.categories] == ["car", "dog", "person"]
    assert sorted(VOC_CLASSES) == list(VOC_CLASSES)
    root = plain(tmp_path / "all")
    for number, name in enumerate(reversed(VOC_CLASSES), 1):
        text = voc_xml(scenes(1)[0]).replace(">car<", f">{name}<").replace(">dog<", f">{name}<")
        text = re.sub(r"<name>person<", f"<name>{name}<", text)
        (root / "Annotations" / f"{number:06d}.xml").write_text(text)
        save(scenes(1)[0], root / "JPEGImages" / f"{number:06d}.jpg")
    found = read_annotations(root).categories
    assert [(category.id, category.name) for category in found] == list(enumerate(VOC_CLASSES, 1))


def share(text, _):
    return _BOX.sub("<bndbox><xmin>.1</xmin><ymin>.2</ymin><xmax>.5</xmax><ymax>.75</ymax></bndbox>", text)


def in_xml(*changes):
    def write(folder):
        root = plain(folder)
        text = (root / XML).read_text()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (root / XML).write_text(text)
        return root

    return write


def whole_xml(text):
    def write(folder):
        root = plain(folder)
        (root / XML).write_bytes(text if isinstance(text, bytes) else text.encode())
        return root

    return write


def a_pipe(name):
    def write(folder):
        root = write_voc(folder)
        (root / name).unlink()
        os.mkfifo(root / name)
        return root

    return write


def image_set(text):
    def write(folder):
        root = write_voc(folder)
        (root / "ImageSets" / "Main" / "trainval.txt").write_bytes(text)
        return root

    return write


ENTITIES = '<!DOCTYPE a [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9)
)
REFUSED = {
    "shares": (each_xml(share), r"these look like shares of the image"),
    "400 digits": (in_xml(("<xmin>", f"<xmin>{'9' * 400}")), r"000001\.xml, object 1 needs a bndbox"),
    "5,000 digits": (in_xml(("<xmin>", f"<xmin>{'9' * 5000}")), r"000001\.xml, object 1 needs a bndbox"),
    "another XML": (whole_xml("<mapper><map/></mapper>"), r"000001\.xml is not an annotation file of VOC: .*<mapper>"),
    "deep nesting": (whole_xml("<annotation>" * 200_000), r"000001\.xml can't be read as XML"),
    "entities": (whole_xml(f"{ENTITIES}]><annotation>&j;</annotation>"), r"000001\.xml can't be read as XML"),
    "a file from outside": (
        whole_xml('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'),
        r"000001\.xml can't be read as XML",
    ),
    "bytes": (whole_xml(b"\0\1\2"), r"000001\.xml can't be read as XML"),
    "XML that is a pipe": (a_pipe(XML), r"000001\.xml is a pipe"),
    "image that is a pipe": (a_pipe("JPEGImages/000001.jpg"), r"there is no image 000001"),
    "set that is a pipe": (a_pipe("ImageSets/Main/trainval.txt"), r"trainval\.txt can't be read .* is a pipe"),
    "long name": (image_set(b"x" * 5000), r"there is no annotation file"),
    "name with a nought": (image_set(b"a\0b"), r"trainval\.txt can't be read as an image set"),
    "name that leaves": (image_set(b"../../000001"), r"'\.\./\.\./000001', which leaves the image folder"),
    "absolute name": (image_set(b"/etc/passwd"), r"'/etc/passwd', which leaves the image folder"),
    "name of Windows": (image_set(b"C:\\x\\000001"), r"which leaves the image folder"),
    "an image of two files": (
        in_xml(),
        r"000013\.xml: its image photo\.jpg is that of .*000012\.xml too",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_reading_is_one_sentence(tmp_path, case):
    make, says = REFUSED[case]
    root = make(tmp_path / "data")
    if case == "an image of two files":
        save(scenes()[0], root / "JPEGImages" / "photo.jpg")
        for number in (12, 13):
            (root / "Annotations" / f"{number:06d}.xml").write_text(
                voc_xml(scenes()[0]).replace("000001.jpg", "photo.jpg")
            )
    with pytest.raises(InputError, match=says) as caught:
        read_annotations(root)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 6000


def test_links_in_the_folder_are_followed(tmp_path):
    root = plain(tmp_path / "data")
    (tmp_path / "cache").mkdir()
    for number, file in enumerate([*root.rglob("*.jpg"), *root.rglob("*.xml")]):
        file.symlink_to(file.rename(tmp_path / "cache" / f"blob{number}"))
    (root / "JPEGImages").rename(tmp_path / "pictures")
    (root / "JPEGImages").symlink_to(tmp_path / "pictures")
    annotations, _ = read(root)
    assert_scenes(annotations, TRAIN)
