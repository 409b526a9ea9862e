"""YOLO data sets as people bring them: what has one reading is read that way and said, the rest is one sentence."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from denseteacher.data.formats import AnnotationSource, read_annotations
from denseteacher.errors import InputError
from support.published_datasets import CLASSES, parts, save, scenes, write_yolo, yolo_lines

LABEL = "labels/train/000001.txt"


def read(path, images=None, **options):
    """The data set, and the kinds of what was read in another way than it stands there; a fault is none here."""
    told = []
    annotations = read_annotations(AnnotationSource(Path(path), images), on_fault=told.extend, **options)
    assert [fault.message for fault in told if not fault.harmless] == []
    return annotations, {fault.kind for fault in told}


def assert_scenes(annotations, made=None, *, names=CLASSES):
    made = parts(scenes())[0] if made is None else made
    called = {category.id: category.name for category in annotations.categories}
    assert [(record.width, record.height) for record in annotations.records] == [scene.size for scene in made]
    for record, scene in zip(annotations.records, made, strict=True):
        own = [one for one in annotations.content["annotations"] if one["image_id"] == record.id]
        boxes = np.array([one["bbox"] for one in own]).reshape(-1, 4)
        assert np.abs(boxes - np.array(scene.boxes).reshape(-1, 4)).max(initial=0) < 1e-3
        assert [called[one["category_id"]] for one in own] == [names[label] for label in scene.labels]


def edit(file, *changes):
    text = file.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)


def yaml_like(*changes, layout="yaml"):
    def make(folder):
        path = write_yolo(folder, layout)
        edit(folder / "data.yaml", *changes)
        return path

    return make


def cvat_yolo(folder):
    """CVAT's "YOLO 1.1" with saved images; everything is said to lie in ``data``."""
    train, val = parts(scenes())
    for part, scenes_of in (("train", train), ("valid", val)):
        lines = []
        for scene in scenes_of:
            name = f"obj_{part}_data/{scene.number:06d}"
            save(scene, folder / f"{name}.jpg")
            (folder / f"{name}.txt").write_text(yolo_lines(scene))
            lines.append(f"data/{name}.jpg\n")
        (folder / f"{part}.txt").write_text("".join(lines))
    (folder / "obj.names").write_text("".join(f"{name}\n" for name in CLASSES))
    (folder / "obj.data").write_text(
        "classes = 3\ntrain = data/train.txt\nvalid = data/valid.txt\nnames = data/obj.names\nbackup = backup/\n"
    )
    return folder


def cvat_file(folder):
    return cvat_yolo(folder) / "obj.data"


def darknet(folder):
    """Darknet's own names of these files."""
    cvat_yolo(folder)
    (folder / "obj.names").rename(folder / "scenes.names")
    edit(folder / "obj.data", ("data/obj.names", "data/scenes.names"))
    (folder / "obj.data").rename(folder / "scenes.data")
    return folder


def cvat_ultralytics(folder):
    """CVAT's "Ultralytics YOLO Detection": a list of ``data/images/train/...``."""
    write_yolo(folder, "lists")
    for key in ("train", "val"):
        edit(folder / f"{key}.txt", ("./images", "data/images"))
    return folder


def listed(change):
    def make(folder):
        path = write_yolo(folder, "lists")
        file = folder / "train.txt"
        file.write_text("".join(f"{change(line, folder)}\n" for line in file.read_text().splitlines()))
        return path

    return make


def labels(change, layout="yaml", names=None):
    """Each line of the text files in another form; a change gets the numbers of a line as texts."""

    def make(folder):
        path = write_yolo(folder, layout)
        for file in folder.rglob("0*.txt"):
            file.write_text("".join(f"{change(*line.split())}\n" for line in file.read_text().splitlines()))
        if names is not None:
            edit(folder / "data.yaml", names)
        return path

    return make


def corners(label, x, y, w, h):
    """The corners of a box, as a rotated box is written."""
    x, y, w, h = map(float, (x, y, w, h))
    points = [(x - w / 2, y - h / 2), (x + w / 2, y - h / 2), (x + w / 2, y + h / 2), (x - w / 2, y + h / 2)]
    return " ".join([label, *(f"{number:.8f}" for point in points for number in point)])


def pose(points, each):
    """A box and keypoints, of which one lies outside of the box."""
    numbers = " ".join(["0.99 0.01 2"[: 9 if each == 2 else None]] * points)
    return lambda *line: f"{' '.join(line)} {numbers}"


def parts_of_folders(folder):
    """``train/images`` and ``train/labels``, no YAML."""
    path = write_yolo(folder, "roboflow")
    (folder / "data.yaml").unlink()
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    return path


def renamed(**names):
    def make(folder):
        path = write_yolo(folder, "folders")
        for old, new in names.items():
            (folder / old).rename(folder / new)
        return path

    return make


def two_yamls(folder):
    """A second YAML with class names, which is about no part of the data."""
    path = write_yolo(folder)
    (folder / "model.yaml").write_text("nc: 80\nnames: [a, b]\nbackbone: []\n")
    path.rename(folder / "scenes.yaml")
    return folder


def two_yamls_of_which_one_is_data(folder):
    path = write_yolo(folder)
    shutil.copy(path, folder / "backup.yaml")
    return folder


def encoded(encoding, *, file=LABEL):
    def make(folder):
        path = write_yolo(folder)
        (folder / file).write_bytes((folder / file).read_text().encode(encoding))
        return path

    return make


MOVED = {"place on another machine"}
BY_NAME = {"image found by its name"}
READ = {
    "CVAT's YOLO 1.1": (cvat_yolo, MOVED | BY_NAME),
    "its obj.data": (cvat_file, MOVED | BY_NAME),
    "Darknet": (darknet, MOVED | BY_NAME),
    "CVAT's Ultralytics": (cvat_ultralytics, BY_NAME),
    "train of Colab": (yaml_like(("train: images/train", "train: /content/drive/My Drive/set/images/train")), MOVED),
    "train of Windows": (yaml_like(("train: images/train", r"train: D:\sets\images\train")), MOVED),
    "path of Kaggle": (yaml_like(("path: .", "path: /kaggle/input/scenes")), set()),
    "path of the whole disk": (yaml_like(("path: .", "path: /")), set()),
    "path and train of Colab": (
        yaml_like(("path: .", "path: /content"), ("train: images", "train: /content/images")),
        MOVED,
    ),
    "nc as text": (yaml_like(("names:", 'nc: "3"\nnames:')), set()),
    "nc as a float": (yaml_like(("names:", "nc: 3.0\nnames:")), set()),
    "empty nc": (yaml_like(("names:", "nc:\nnames:")), set()),
    "aliases": (yaml_like(("train: images/train", "train: &a images/train\nother: *a")), set()),
    "UTF-16 YAML": (encoded("utf-16", file="data.yaml"), set()),
    "UTF-16 labels": (encoded("utf-16"), set()),
    "list in quotes": (listed(lambda line, _: f'"{line}"'), set()),
    "list of Windows": (listed(lambda line, _: line.replace("/", "\\")), set()),
    "list of another machine": (listed(lambda line, _: f"/content/set/{line[2:]}"), BY_NAME),
    "list of absolute paths": (listed(lambda line, folder: str(folder / line)), set()),
    "list of another case": (listed(lambda line, _: line.upper()), BY_NAME),
    "list without suffixes": (listed(lambda line, _: line.removesuffix(".jpg")), BY_NAME),
    "confidences": (labels(lambda *line: f"{' '.join(line)} 0.93"), {"line of six numbers"}),
    "tracks": (labels(lambda *line: f"{' '.join(line)} 17"), {"line of six numbers"}),
    "rotated boxes": (labels(corners), set()),
    "poses of three": (labels(pose(17, 3), names=("names:", "kpt_shape: [17, 3]\nnames:")), {"keypoints"}),
    "poses of two": (labels(pose(4, 2), names=("names:", "kpt_shape: [4, 2]\nnames:")), {"keypoints"}),
    "train/images and train/labels": (parts_of_folders, set()),
    "capital folders": (renamed(images="Images", labels="Labels"), set()),
    "VOC's folder of images": (
        lambda folder: renamed(images="JPEGImages")(folder) and yaml_of(folder, "JPEGImages"),
        set(),
    ),
    "a second YAML about no data": (two_yamls, set()),
    "a copy beside data.yaml": (two_yamls_of_which_one_is_data, set()),
}


def yaml_of(folder, place):
    (folder / "classes.txt").unlink()
    (folder / "data.yaml").write_text(f"train: {place}\nnames: {list(CLASSES)}\n")
    return folder


@pytest.mark.parametrize("case", READ)
def test_what_has_one_reading_is_read_and_said(tmp_path, case):
    make, kinds = READ[case]
    path = make(tmp_path / "data")
    annotations, told = read(path)
    assert_scenes(annotations)
    assert told == kinds


def test_both_parts_of_cvats_export(tmp_path):
    annotations, _ = read(cvat_yolo(tmp_path), role="validation")
    assert_scenes(annotations, parts(scenes())[1])


@pytest.mark.parametrize("make", [cvat_yolo, cvat_ultralytics, write_yolo])
def test_images_that_the_export_does_not_hold_are_given(tmp_path, make):
    """CVAT exports without images; the same images lie in a folder of their own."""
    path = make(tmp_path / "data")
    for scene in scenes():
        save(scene, tmp_path / "pictures" / f"{scene.number:06d}.jpg")
    for image in (tmp_path / "data").rglob("*.jpg"):
        image.unlink()
    if make is write_yolo:
        path.write_text(path.read_text().replace("images/train", "."))
        path = tmp_path / "data" / "data.yaml"
        (tmp_path / "data" / "labels" / "train").rename(tmp_path / "labels")
        shutil.rmtree(tmp_path / "data" / "labels")
        (tmp_path / "labels").rename(tmp_path / "data" / "labels")
        for scene in parts(scenes())[1]:
            (tmp_path / "pictures" / f"{scene.number:06d}.jpg").unlink()
    annotations, _ = read(path, tmp_path / "pictures")
    assert_scenes(annotations)


NAMES = {
    "yes and no": ("[yes, no, on]", ["yes", "no", "on"]),
    "null": ("[null, ~, off]", ["null", "~", "off"]),
    "numbers": ("[007, 1e3, 1_000]", ["007", "1e3", "1_000"]),
    "dates and times": ("[2001-01-01, 1:30, 2001-99-99]", ["2001-01-01", "1:30", "2001-99-99"]),
    "by number": ("{0: yes, 1: no, 2: true}", ["yes", "no", "true"]),
    "signs": ("['#', =, '*']", ["#", "=", "*"]),
}


@pytest.mark.parametrize("case", NAMES)
def test_class_names_are_as_they_are_written(tmp_path, case):
    written, names = NAMES[case]
    path = write_yolo(tmp_path)
    path.write_text(f"train: images/train\nnames: {written}\n")
    annotations, _ = read(path)
    assert_scenes(annotations, names=names)


@pytest.mark.parametrize(("encoding", "name"), [("gbk", "行人"), ("cp1252", "véhicule"), ("utf-8", "véhicule")])
def test_class_names_in_the_encodings_of_windows(tmp_path, encoding, name):
    path = write_yolo(tmp_path, "folders")
    (path / "classes.txt").write_bytes("\n".join([name, "car", "dog"]).encode(encoding))
    annotations, _ = read(path)
    assert_scenes(annotations, names=[name, "car", "dog"])


def test_classes_that_no_file_names_are_said_to_be_numbers(tmp_path):
    path = write_yolo(tmp_path, "folders")
    (path / "classes.txt").unlink()
    _, told = read(path)
    assert told == {"classes without names"}


def bomb(depth=9):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]" for n in range(depth)]
    return "\n".join(lines) + "\ntrain: *a9\nnames: *a9\n"


def yaml_text(text):
    def make(folder):
        path = write_yolo(folder)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return make


def two_sets(folder):
    path = write_yolo(folder)
    shutil.copy(path, folder / "first.yaml")
    path.rename(folder / "second.yaml")
    return folder


def a_pipe(name):
    def make(folder):
        path = write_yolo(folder)
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)
        return path

    return make


def dangling(folder):
    path = write_yolo(folder)
    (folder / LABEL).unlink()
    (folder / LABEL).symlink_to(folder / "not fetched")
    return path


def line(text):
    def make(folder):
        path = write_yolo(folder)
        (folder / LABEL).write_text(text)
        return path

    return make


def outside(name):
    """A folder beside the data set."""

    def make(folder):
        path = write_yolo(folder)
        save(scenes()[0], folder.parent / "other" / "000001.jpg")
        edit(path, ("train: images/train", f"train: {name.format(folder.parent)}"))
        return path

    return make


def flat_class(number):
    def make(folder):
        path = write_yolo(folder, "flat")
        (folder / "classes.txt").unlink()
        (folder / "000001.txt").write_text(f"{number} .5 .5 .1 .1\n")
        return path

    return make


REFUSED = {
    "alias bomb": (yaml_text(bomb()), r"data\.yaml can't be read as YAML: it has more than 100,000 values"),
    "alias in itself": (yaml_text("train: &a [*a]\nnames: [a]"), r"stands inside of what it names"),
    "deep nesting": (yaml_text(f"train: {'[' * 5000}\nnames: [a]"), r"nested more than 40 levels deep"),
    "tabs": (yaml_text("train: images/train\nnames:\n\t0: a\n"), r"data\.yaml .*: line 3 has a tab where YAML needs"),
    "key twice": (yaml_text("train: a\ntrain: b\nnames: [a]"), r"the key 'train' stands twice"),
    "large": (yaml_text("names: [a]\ntrain: x\n" + "#" * 2_000_000), r"data\.yaml has more than 1,000,000 bytes"),
    "bytes": (yaml_text(b"names: [a\0]"), r"data\.yaml can't be read as YAML"),
    "code": (yaml_text("names: !!python/object/apply:os.system [true]"), r"data\.yaml can't be read as YAML: line 1"),
    "the whole disk": (outside("/"), r"data\.yaml names '/', which is /, outside of its folder .* --images /"),
    "a folder beside": (outside("../other"), r"names '\.\./other', which is .*, outside of its folder"),
    "an absolute folder": (outside("{}/other"), r"names '.*/other', .*outside of its folder .* --images .*/other"),
    "a long place": (outside("x" * 5000), r"neither a folder nor a list"),
    "nc of words": (yaml_like(("names:", "nc: three\nnames:")), r"'nc' is 'three', where the number of classes"),
    "nc of others": (yaml_like(("names:", 'nc: "4"\nnames:')), r"'nc' is 4, but 'names' has 3 class names"),
    "kpt_shape of words": (yaml_like(("names:", "kpt_shape: pose\nnames:")), r"'kpt_shape' is pose, where"),
    "nested names": (yaml_like(("0: person", "0: [person]")), r"'names' must be a list of class names"),
    "two sets in a folder": (two_sets, r"holds 2 YAML files with class names \(first\.yaml, second\.yaml\)"),
    "text file that is a pipe": (a_pipe(LABEL), r"000001\.txt can't be read as text \(.* is a pipe"),
    "image that is a pipe": (a_pipe("images/train/000001.jpg"), r"000001\.jpg is a pipe, a device or a socket"),
    "YAML that is a pipe": (a_pipe("data.yaml"), r"data\.yaml is a pipe, a device or a socket"),
    "text file not fetched": (dangling, r"000001\.txt can't be read as text \(there is no file"),
    "poses of no shape": (labels(pose(17, 3)), r"line 1: .* if these are keypoints, 'kpt_shape'"),
    "400 digits": (line(f"{'9' * 400} .5 .5 .1 .1"), r"line 1: .* has to be a class number"),
    "huge class": (line("1e300 .5 .5 .1 .1"), r"unknown class 1e\+300; known: 0 to 2"),
    "huge class without names": (flat_class(10**9), r"has the unknown class 1e\+09"),
    "pixels below": (line("0 -300 .5 .1 .1"), r"numbers above 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_reading_is_one_sentence(tmp_path, case):
    make, says = REFUSED[case]
    path = make(tmp_path / "data")
    with pytest.raises(InputError, match=says) as caught:
        read_annotations(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 6000


def test_a_place_elsewhere_is_read_once_images_names_it(tmp_path):
    made = write_yolo(tmp_path / "elsewhere", "folders")
    path = tmp_path / "set" / "data.yaml"
    path.parent.mkdir()
    path.write_text(f"path: ../elsewhere\ntrain: images\nnames: {list(CLASSES)}\n")
    with pytest.raises(InputError, match=r"--images .*elsewhere"):
        read_annotations(path)
    annotations, _ = read(path, made)
    assert_scenes(annotations)


def test_links_in_the_folder_are_followed(tmp_path):
    """As DVC's checkouts (each file is a link) and Hugging Face's caches (folders of links) are."""
    path = write_yolo(tmp_path / "data")
    (tmp_path / "cache").mkdir()
    for number, file in enumerate([*path.parent.rglob("*.jpg"), *path.parent.rglob("0*.txt")]):
        moved = file.rename(tmp_path / "cache" / f"blob{number}")
        file.symlink_to(moved)
    (path.parent / "images").rename(tmp_path / "pictures")
    (path.parent / "images").symlink_to(tmp_path / "pictures")
    (path.parent / "images" / "train" / "again").symlink_to(path.parent / "images")  # a circle
    annotations, _ = read(path)
    assert_scenes(annotations)
