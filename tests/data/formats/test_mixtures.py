"""COCO20cls, and the splits of STAC and by class, against rules worked out independently."""

import json

import numpy as np
import pytest

from denseteacher.data.coco20cls import COCO_NAME_OF_VOC, only_voc_classes
from denseteacher.data.config import DataConfig, UnlabeledSource
from denseteacher.data.formats import VOC_CLASSES, read_annotations, read_labeled
from denseteacher.data.open import draw_split, open_data
from denseteacher.data.records import Category, ImageRecord, LabeledImages
from denseteacher.data.splits import stac_split, stratified_split
from denseteacher.errors import InputError
from support.published_datasets import COCO_ID, coco_id, parts, scenes, write_coco_published, write_voc, write_yolo


def with_other_objects(coco):
    """train2017 in which scene 1 has a crowd of zebras too, and scene 2 a toaster; scene 3 has nothing."""
    path = coco / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    for number, name, crowd in ((1, "zebra", 1), (2, "toaster", 0), (4, "tv", 0), (5, "couch", 0)):
        one = {"id": 77_000 + number, "image_id": 9 + 37 * number, "category_id": COCO_ID[name]}
        content["annotations"].append({**one, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": crowd})
    path.write_text(json.dumps(content))
    return path


def test_coco20cls_takes_images_of_the_twenty_classes_only(tmp_path):
    path = with_other_objects(write_coco_published(tmp_path))
    chosen = only_voc_classes(read_annotations(path))
    # of scenes 1 to 8: 1 has a zebra, 2 a toaster, 3 nothing; tv and couch are VOC's tvmonitor and sofa
    assert [record.id for record in chosen] == [9 + 37 * number for number in (4, 5, 6, 7, 8)]


def test_coco20cls_names_are_voc_s():
    # STAC's map (docs/sources.md, VOC and COCO20cls): COCO id to VOC's number
    numbers = {1: 15, 2: 2, 3: 7, 4: 14, 5: 1, 6: 6, 7: 19, 9: 4, 16: 3, 17: 8, 18: 12, 19: 13, 20: 17, 21: 10, 44: 5}
    numbers |= {62: 9, 63: 18, 64: 16, 67: 11, 72: 20}
    ours = {COCO_ID[coco]: VOC_CLASSES.index(voc) + 1 for voc, coco in COCO_NAME_OF_VOC.items()}
    assert ours == numbers


def test_coco20cls_beside_another_source_is_counted(tmp_path):
    path = with_other_objects(write_coco_published(tmp_path / "coco"))
    labeled, later = write_voc(tmp_path), write_voc(tmp_path, 2012)
    data = open_data(DataConfig(labeled=labeled, unlabeled=(later, UnlabeledSource(path=path, only="voc"))))
    assert len(data.unlabeled) == 12 + 5
    assert [record.id for record in data.unlabeled] == list(range(1, 18))
    assert data.notes == ("COCO20cls: 5 images; the list that is known has 19,592",)
    with pytest.raises(InputError, match=r"has no category 'airplane': COCO20cls is chosen from COCO's annotations"):
        only_voc_classes(read_annotations(write_yolo(tmp_path / "yolo")))


@pytest.mark.parametrize(("percent", "fold"), [(1, 1), (5, 3), (10, 10), (100, 2)])
def test_stac_draws_positions_with_replacement(percent, fold):
    ids = [int(id_) for id_ in np.random.default_rng(5).permutation(900) * 3 + 7]
    np.random.seed(fold)
    drawn = np.random.choice(range(len(ids)), size=int(percent / 100 * len(ids)))
    split = stac_split(ids, percent, fold)
    assert split.labeled_ids == sorted({ids[position] for position in drawn})
    assert sorted(split.labeled_ids + split.unlabeled_ids) == sorted(ids)
    if percent == 100:
        assert len(split.labeled_ids) < len(ids)


def test_stac_counts_positions_in_the_order_of_the_file(tmp_path):
    path = write_coco_published(tmp_path) / "annotations" / "instances_train2017.json"
    listed = [image["id"] for image in json.loads(path.read_text())["images"]]
    np.random.seed(4)
    expected = sorted({listed[position] for position in np.random.choice(range(8), size=4)})
    annotations = read_annotations(path)
    assert draw_split(annotations, "stac", percent=50, fold=4).labeled_ids == expected
    assert draw_split(annotations, "stac", percent=50, fold=5).labeled_ids != expected
    with pytest.raises(InputError, match=r"raise data\.percent"):
        draw_split(annotations, "stac", percent=1)
    with pytest.raises(InputError, match="needs a percentage"):
        draw_split(annotations, "stac", count=4)


def unequal(images=2000, seed=0):
    """Objects of six classes, each three times rarer than the one before; a tenth of the images has none."""
    rng = np.random.default_rng(seed)
    share = 3.0 ** -np.arange(6)
    labels = [
        rng.choice(6, rng.integers(1, 6), p=share / share.sum()) if rng.random() > 0.1 else np.zeros(0, np.int64)
        for _ in range(images)
    ]
    ids = rng.permutation(images * 3)[:images]
    records = [ImageRecord(int(id_), None, 1, 1) for id_ in ids]
    boxes = [np.zeros((len(one), 4), np.float32) for one in labels]
    return LabeledImages(records, boxes, labels, [Category(number, str(number)) for number in range(6)])


@pytest.mark.parametrize("percent", [2, 5, 10, 30])
def test_stratified_splits_give_each_class_its_share(percent):
    data = unequal()
    split = stratified_split(data, percent=percent)
    assert len(split.labeled_ids) == int(percent / 100 * 2000)
    assert sorted(split.labeled_ids + split.unlabeled_ids) == sorted(record.id for record in data.images)
    chosen = set(split.labeled_ids)
    total, labeled = np.zeros(6), np.zeros(6)
    for record, labels in zip(data.images, data.labels, strict=True):
        counts = np.bincount(labels, minlength=6)
        total += counts
        labeled += counts * (record.id in chosen)
    # an object too many or too few, and a tenth for what images with several classes make impossible
    assert (np.abs(labeled - total * percent / 100) <= 1 + 0.1 * total * percent / 100).all(), (labeled, total)


def test_stratified_splits_are_seeded():
    data = unequal(300)
    first = stratified_split(data, count=30)
    assert stratified_split(data, count=30).digest == first.digest
    assert stratified_split(data, count=30, fold=2).digest != first.digest
    assert stratified_split(data, count=30, seed=1).digest != first.digest
    assert len(stratified_split(data, count=300).labeled_ids) == 300
    assert len(stratified_split(data, count=1).labeled_ids) == 1


def test_a_stratified_split_has_rare_classes_where_a_seeded_one_may_not(tmp_path):
    labels = [np.array([int(number >= 198)]) for number in range(200)]
    records = [ImageRecord(number, None, 1, 1) for number in range(200)]
    boxes = [np.zeros((1, 4), np.float32)] * 200
    data = LabeledImages(records, boxes, labels, [Category(0, "many"), Category(1, "two")])
    for fold in range(10):
        rare = {198, 199} & set(stratified_split(data, percent=50, fold=fold).labeled_ids)
        assert len(rare) == 1


@pytest.mark.parametrize("protocol", ["seeded", "stratified"])
def test_splits_of_every_format_name_its_images(tmp_path, protocol):
    for path in (write_voc(tmp_path), write_yolo(tmp_path / "yolo"), write_coco_published(tmp_path / "coco")):
        data = open_data(DataConfig(labeled=path, split=protocol, count=3))
        assert (len(data.labeled.images), len(data.unlabeled)) == (3, 5)
        everything = {record.id: boxes.tolist() for record, boxes in zip(*labeled_pairs(path), strict=True)}
        assert all(
            everything[record.id] == boxes.tolist()
            for record, boxes in zip(data.labeled.images, data.labeled.boxes, strict=True)
        )


def labeled_pairs(path):
    data = read_labeled(path)
    return data.images, data.boxes


def test_ids_of_the_generated_coco_rise_with_the_scenes():
    assert [coco_id(scene) for scene in parts(scenes())[0]] == [9 + 37 * number for number in range(1, 9)]
