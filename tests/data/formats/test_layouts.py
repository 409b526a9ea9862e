"""Every format in its published layout: found by looking, read to the same boxes, classes and flags."""

import json

import numpy as np
import pytest

from denseteacher.data.formats import (
    AnnotationSource,
    labeled_images,
    read_annotations,
    read_labeled,
    with_categories,
)
from denseteacher.data.images import load_image
from denseteacher.data.records import Category
from denseteacher.errors import InputError
from support.published_datasets import (
    CLASSES,
    COCO_CATEGORIES,
    parts,
    save,
    scenes,
    voc_xml,
    write_coco_published,
    write_crowdhuman,
    write_voc,
    write_yolo,
    yolo_lines,
)

YOLO_LAYOUTS = ("yaml", "lists", "roboflow", "folders", "flat")


def write(folder, layout):
    """A data set; what a user would name, and its format."""
    if layout in YOLO_LAYOUTS:
        return write_yolo(folder, layout), "yolo"
    if layout == "voc":
        return write_voc(folder), "voc"
    if layout == "devkit":
        return write_voc(folder).parent, "voc"
    if layout == "above the devkit":
        write_voc(folder)
        return folder, "voc"
    if layout == "crowdhuman":
        return write_crowdhuman(folder), "crowdhuman"
    return write_coco_published(folder), "coco"


LAYOUTS = ("coco", "voc", "devkit", "above the devkit", "crowdhuman", *YOLO_LAYOUTS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_is_found_by_looking_and_has_the_same_boxes(tmp_path, layout):
    path, format = write(tmp_path, layout)
    for role, part in zip(("labeled", "validation"), parts(scenes()), strict=True):
        if role == "validation" and layout in ("folders", "flat"):
            continue  # they have no parts
        annotations = read_annotations(path, role=role)
        assert annotations.format == format
        assert_scenes(annotations, part, one_class=layout == "crowdhuman")
    if layout != "above the devkit":
        assert read_annotations(AnnotationSource(path, format=format)).content == read_annotations(path).content


def assert_scenes(annotations, part, *, one_class=False):
    """In order of ids, whatever those are, the images are the scenes, and the objects that count their boxes."""
    assert [(record.width, record.height) for record in annotations.records] == [scene.size for scene in part]
    names = {category.id: category.name for category in annotations.categories}
    for record, scene in zip(annotations.records, part, strict=True):
        own = [one for one in annotations.content["annotations"] if one["image_id"] == record.id]
        own = [one for one in own if not one["iscrowd"]]
        boxes = np.array([one["bbox"] for one in own]).reshape(-1, 4)
        # six digits of a share are a ten-thousandth of a pixel here
        assert np.abs(boxes - np.array(scene.boxes).reshape(-1, 4)).max(initial=0) < 1e-3
        expected = ["person" if one_class else CLASSES[label] for label in scene.labels]
        assert [names[one["category_id"]] for one in own] == expected
        assert np.abs(load_image(record).permute(1, 2, 0).numpy() - scene.pixels.astype(float)).mean() < 12


def test_labels_are_indices_into_the_classes_of_the_format(tmp_path):
    voc, yolo = read_labeled(write_voc(tmp_path / "voc")), read_labeled(write_yolo(tmp_path / "yolo"))
    coco = read_labeled(write_coco_published(tmp_path / "coco"))
    assert voc.categories == [Category(1, "car"), Category(2, "dog"), Category(3, "person")]
    assert yolo.categories == [Category(0, "person"), Category(1, "car"), Category(2, "dog")]
    assert coco.categories == [Category(id_, name) for id_, name in COCO_CATEGORIES.items()]
    for data in (voc, yolo, coco):
        names = [[data.categories[label].name for label in labels] for labels in data.labels]
        assert names == [[CLASSES[label] for label in scene.labels] for scene in parts(scenes())[0]]


def test_flags_difficult_objects_crowds_and_regions_to_ignore(tmp_path):
    train = parts(scenes())[0]
    voc = read_annotations(write_voc(tmp_path / "voc"))
    difficult = [bool(one["difficult"]) for one in voc.content["annotations"]]
    assert difficult == [hard for scene in train for hard in scene.difficult]
    assert sum(difficult) == 1
    assert all(one["iscrowd"] == 0 for one in voc.content["annotations"])
    assert sum(map(len, read_labeled(tmp_path / "voc").boxes)) == len(difficult)  # they are trained on

    people = read_annotations(write_crowdhuman(tmp_path / "crowdhuman"))
    ignored = [one["bbox"] for one in people.content["annotations"] if one["iscrowd"]]
    assert ignored == [[1, 1, 20, 10], [30, 2, 12, 18]]
    assert people.categories == [Category(1, "person")]
    assert sum(map(len, read_labeled(tmp_path / "crowdhuman").boxes)) == sum(len(scene.boxes) for scene in train)

    coco = read_annotations(write_coco_published(tmp_path / "coco"))
    assert [one["bbox"] for one in coco.content["annotations"] if one["iscrowd"]] == [[2, 3, 30, 30]]


def test_full_boxes_are_cut_to_the_image(tmp_path):
    folder = write_crowdhuman(tmp_path)
    first = json.loads((folder / "annotation_train.odgt").read_text().splitlines()[0])
    written = [one["fbox"] for one in first["gtboxes"] if one["fbox"][0] < 0]
    assert written == [[-7, 5, 27, 25]]
    read = [one["bbox"] for one in read_annotations(folder).content["annotations"]]
    assert [0, 5, 20, 25] in read
    assert min(box[0] for box in read) == 0


def test_parts_are_chosen_by_role_by_name_or_by_file(tmp_path):
    voc, yolo = write_voc(tmp_path / "voc"), write_yolo(tmp_path / "yolo")
    crowdhuman, coco = write_crowdhuman(tmp_path / "crowdhuman"), write_coco_published(tmp_path / "coco")

    def count(path, *, role="labeled", **options):
        return len(read_annotations(AnnotationSource(path, **options), role=role).records)

    assert (count(voc), count(voc, role="validation")) == (8, 4)
    assert [count(voc, subset=name) for name in ("train", "val", "trainval", "test")] == [4, 4, 8, 4]
    assert count(voc / "ImageSets" / "Main" / "val.txt") == 4
    assert count(voc / "ImageSets" / "Main" / "dog_trainval.txt") == 8  # a class's own set names all images
    assert [count(yolo, subset=name) for name in ("train", "val")] == [8, 4]
    assert count(yolo.parent, subset="val") == 4
    assert [count(crowdhuman, subset=name) for name in ("train", "val")] == [8, 4]
    assert [count(coco, subset=name) for name in ("train", "val2017")] == [8, 4]
    assert count(coco / "annotations") == count(coco / "annotations" / "instances_train2017.json") == 8
    # what else is published beside the instances is not asked
    for name in ("captions_train2017", "person_keypoints_train2017", "image_info_test2017"):
        (coco / "annotations" / f"{name}.json").write_text("{}")
    assert (count(coco), count(coco, role="validation")) == (8, 4)
    assert count(write_voc(tmp_path / "later", 2012), subset="train") == 6


def test_a_devkit_of_two_years_needs_a_name(tmp_path):
    first = write_voc(tmp_path)
    second = write_voc(tmp_path, 2012)
    with pytest.raises(InputError, match="holds VOC2007 and VOC2012: name one of them"):
        read_annotations(first.parent)
    assert len(read_annotations(second).records) == 12


def test_voc_as_tools_write_it(tmp_path):
    """XML beside the images, sizes of nought, names with blanks, classes of one's own and CVAT's list of them."""
    made = scenes(4)
    for scene in made:
        name = f"my photo {scene.number}"
        text = voc_xml(scene).replace(">person<", ">worker<").replace(f"{scene.number:06d}.jpg", f"{name}.jpg")
        text = text.replace(f"<width>{scene.size[0]}<", "<width>0<")
        (tmp_path / f"{name}.xml").write_text(text)
        save(scene, tmp_path / f"{name}.jpg")
    annotations = read_annotations(tmp_path)
    assert [(record.width, record.height) for record in annotations.records] == [scene.size for scene in made]
    assert [category.name for category in annotations.categories] == ["dog", "worker"]
    (tmp_path / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nworker:1,2,3::\nvan:::\ndog:::\ncar:::\n"
    )
    assert [category.name for category in read_annotations(tmp_path).categories] == ["worker", "van", "dog", "car"]
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text('my photo 1\n"my photo 2"\n')
    assert [record.path.stem for record in read_annotations(tmp_path).records] == ["my photo 1", "my photo 2"]


def test_yolo_outlines_become_the_boxes_around_them(tmp_path):
    path = write_yolo(tmp_path, "folders")
    (path / "labels" / "000001.txt").write_text("2 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75\n1 .1 .2 .3 .2 .3 .4\n")
    first = [one for one in read_annotations(path).content["annotations"] if one["image_id"] == 1]
    width, height = scenes()[0].size
    expected = [[0.25 * width, 0.25 * height, 0.5 * width, 0.5 * height], [0.1 * width, 0.2 * height] * 2]
    expected[1][2:] = [0.2 * width, 0.2 * height]
    assert np.allclose([one["bbox"] for one in first], expected)


def test_yolo_names_by_number_are_sorted_as_numbers(tmp_path):
    path = write_yolo(tmp_path)
    names = {str(number): f"class {number}" for number in range(12)}
    path.write_text(json.dumps({"train": "images/train", "names": names}))
    assert [category.name for category in read_annotations(path).categories] == [f"class {n}" for n in range(12)]


def test_yolo_images_may_lie_elsewhere(tmp_path, monkeypatch):
    """Text files beside images in a folder called images; a link; images given; a path of another machine."""
    train = parts(scenes())[0]
    flat = write_yolo(tmp_path / "images", "flat")
    assert_scenes(read_annotations(flat), train)

    path = write_yolo(tmp_path / "linked")
    (path.parent / "images" / "train").rename(tmp_path / "disk")
    (path.parent / "images" / "train").symlink_to(tmp_path / "disk")
    path.write_text(path.read_text().replace("path: .", "path: /home/nobody/scenes"))
    assert_scenes(read_annotations(path), train)
    monkeypatch.chdir(tmp_path)
    assert_scenes(read_annotations(path.relative_to(tmp_path)), train)

    apart = write_yolo(tmp_path / "apart", "folders")
    (apart / "images").rename(tmp_path / "pictures")
    assert_scenes(read_annotations(AnnotationSource(apart, tmp_path / "pictures")), train)
    unnamed = read_annotations(AnnotationSource(apart / "labels", tmp_path / "pictures"))
    names = [category.name for category in unnamed.categories]
    assert names == ["0", "1", "2"]  # no file says what they are called


def test_darknet_names_beside_its_folder(tmp_path):
    flat = write_yolo(tmp_path / "obj_train_data", "flat")
    (flat / "classes.txt").rename(tmp_path / "obj.names")
    assert_scenes(read_annotations(flat), parts(scenes())[0])


@pytest.mark.parametrize("layout", ["voc", "crowdhuman", "coco", "yaml", "lists", "folders"])
def test_files_as_windows_writes_them(tmp_path, layout):
    """A byte order mark and carriage returns in every text file change nothing."""
    path, _ = write(tmp_path / "plain", layout)
    before = read_annotations(path).content
    for file in tmp_path.rglob("*.*"):
        if file.is_file() and file.suffix != ".jpg":
            file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert read_annotations(path).content == before


def test_images_without_a_text_file_or_with_an_empty_one_have_no_objects(tmp_path):
    path = write_yolo(tmp_path, "flat")
    (path / "000001.txt").write_text("\n")
    data = read_labeled(path)
    assert [len(boxes) for boxes in data.boxes][:3] == [0, len(scenes()[1].boxes), 0]


def test_classes_are_matched_by_name_across_formats(tmp_path):
    """A YOLO data set gets the ids of a VOC detector; what the detector does not know is refused."""
    voc = read_annotations(write_voc(tmp_path / "voc"))
    yolo = read_annotations(write_yolo(tmp_path / "yolo"))
    mapped = with_categories(yolo, voc.categories)
    assert {one["category_id"] for one in mapped.content["annotations"]} == {1, 2, 3}
    assert_scenes(mapped, parts(scenes())[0])
    with pytest.raises(InputError, match=r"VOC2007 has .* the detector or training data.*: dog"):
        with_categories(voc, yolo.categories[:2])


def test_faults_are_reported_and_reading_goes_on(tmp_path):
    """What ``check`` builds on: a report that does not raise gets every fault, and the rest is read."""
    path = write_voc(tmp_path / "voc")
    (path / "Annotations" / "000001.xml").write_text("<annotation>")
    (path / "JPEGImages" / "000002.jpg").unlink()
    faults = []
    annotations = read_annotations(path, on_fault=faults.extend)
    assert [fault.kind for fault in faults] == ["unreadable annotation file", "missing image file"]
    assert len(annotations.records) == 6

    path = write_yolo(tmp_path / "yolo", "folders")
    (path / "labels" / "000001.txt").write_text(f"{yolo_lines(scenes()[0])}9 .5 .5 .1 .1\n0 x\n")
    faults.clear()
    assert len(read_annotations(path, on_fault=faults.extend).records) == 8
    assert [fault.kind for fault in faults] == ["unknown category", "box of no four numbers"]


def test_a_data_set_of_which_nothing_is_sound_is_read_as_no_images(tmp_path):
    path = write_yolo(tmp_path, "folders")
    for file in (path / "images").iterdir():
        file.write_text("no image")
    faults = []
    data = labeled_images(read_annotations(path, on_fault=faults.extend))
    assert len(faults) == 8
    assert (data.images, data.boxes, data.labels) == ([], [], [])
