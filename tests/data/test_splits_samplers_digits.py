"""Splits, orders, and the built-in data set."""

import gzip
import hashlib
import json
import pickle
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denseteacher.data import digits
from denseteacher.data.config import DataConfig
from denseteacher.data.formats import read_labeled
from denseteacher.data.loading.samplers import LabeledSampler, UniformSampler
from denseteacher.data.open import open_data
from denseteacher.data.records import ImageRecord, LabeledImages
from denseteacher.data.splits import listed_split, published_split, seeded_split, write_split_ids
from denseteacher.errors import InputError


@pytest.fixture(scope="module")
def train2017():
    """As many images as COCO train2017, with as many of them without boxes, in no order."""
    total, with_boxes = 118_287, 117_266
    ids = np.random.default_rng(0).permutation(total) + 1
    box, none = np.zeros((1, 4), np.float32), np.zeros((0, 4), np.float32)
    images = [ImageRecord(int(id_), Path("x"), 1, 1) for id_ in ids]
    boxes = [box if id_ <= with_boxes else none for id_ in ids]
    return LabeledImages(images, boxes, [np.zeros(len(one), np.int64) for one in boxes], [])


def test_the_shipped_table_is_the_published_one():
    packed = (resources.files("denseteacher.data") / "coco_supervision.json.gz").read_bytes()
    digest = hashlib.sha256(gzip.decompress(packed)).hexdigest()
    assert digest == "3dc88c1fee5676d3da717a4a2a357e5e590d9bd7c94e2feadc60d43d70c4401d"


@pytest.mark.parametrize(("percent", "count"), [(1, 1172), (2, 2345), (5, 5863), (10, 11726)])
def test_published_splits_have_the_published_sizes(train2017, percent, count):
    split = published_split(train2017, percent, 1)
    assert len(split.labeled_ids) == len(set(split.labeled_ids)) == count
    assert len(split.unlabeled_ids) == 117_266 - count
    assert not set(split.labeled_ids) & set(split.unlabeled_ids)
    assert max(split.labeled_ids + split.unlabeled_ids) <= 117_266  # images without boxes are in neither part


def test_published_splits_refuse_other_data_and_other_keys(train2017):
    fewer = train2017.select(list(range(1000)))
    with pytest.raises(InputError, match=r"117266 images, but this data set has \d+ images with boxes"):
        published_split(fewer, 1, 1)
    with pytest.raises(InputError, match=r"published splits have 0\.01, 0\.1, 0\.5, 1\.0"):
        published_split(fewer, 7, 1)
    with pytest.raises(InputError, match=r"data\.fold is 11"):
        published_split(fewer, 1, 11)


def test_a_table_of_ones_own(tmp_path):
    images = [ImageRecord(id_, Path("x"), 1, 1) for id_ in (40, 10, 30, 20)]
    boxes = [np.zeros((n, 4), np.float32) for n in (1, 1, 0, 1)]
    data = LabeledImages(images, boxes, [np.zeros(len(one), np.int64) for one in boxes], [])
    table = tmp_path / "table.txt"
    table.write_text(json.dumps({"70.0": {"3": [0, 2]}}))
    split = published_split(data, 70, 3, table=table)
    assert split.labeled_ids == [10, 40]  # the first and third by id of those with boxes
    assert split.unlabeled_ids == [20]


def test_seeded_splits():
    ids = list(range(100, 1100))
    split = seeded_split(ids, percent=5)
    assert len(split.labeled_ids) == 50
    assert sorted(split.labeled_ids + split.unlabeled_ids) == ids
    assert seeded_split(ids[::-1], percent=5).digest == split.digest
    assert seeded_split(ids, percent=5, fold=2).digest != split.digest
    assert seeded_split(ids, percent=5, seed=1).digest != split.digest
    assert len(seeded_split(ids, count=7).labeled_ids) == 7
    assert len(seeded_split(ids, percent=0.0001).labeled_ids) == 1
    wrong = [{"percent": percent} for percent in (0, -1, 101, float("nan"))]
    for options in ({}, {"percent": 5, "count": 5}, {"count": 1001}, *wrong):
        with pytest.raises(InputError):
            seeded_split(ids, **options)


def test_a_listed_split_reads_what_a_run_wrote(tmp_path):
    ids = list(range(20))
    split = seeded_split(ids, count=5)
    write_split_ids(split, tmp_path / "split.json")
    assert listed_split(ids, tmp_path / "split.json").digest == split.digest
    (tmp_path / "ids.txt").write_text("3\n5\n")
    assert listed_split(ids, tmp_path / "ids.txt").labeled_ids == [3, 5]
    for text, message in (("99", "names image id 99"), ("a b", "must hold image ids"), ("", "names no image id")):
        (tmp_path / "ids.txt").write_text(text)
        with pytest.raises(InputError, match=message):
            listed_split(ids, tmp_path / "ids.txt")


@pytest.mark.parametrize(("portrait", "landscape", "size"), [(13, 40, 8), (0, 5, 8), (3, 500, 16), (1, 0, 2)])
def test_an_epoch_has_every_image_and_few_mixed_batches(portrait, landscape, size):
    shape = np.array([True] * portrait + [False] * landscape)
    sampler = LabeledSampler(shape, size, seed=3)
    epochs = 3
    for epoch in range(epochs):
        steps = range(epoch * sampler.batches_per_epoch, (epoch + 1) * sampler.batches_per_epoch)
        batches = [sampler.batch(step) for step in steps]
        assert all(len(batch) == size for batch in batches)
        assert set(np.concatenate(batches).tolist()) == set(range(len(shape)))
        mixed = sum(len(set(shape[batch].tolist())) == 2 for batch in batches)
        assert mixed <= 2
        extra = np.bincount(np.concatenate(batches)).sum() - len(shape)
        assert extra < size


@pytest.mark.parametrize(("portrait", "landscape"), [(13, 40), (0, 5), (3, 500), (1, 0)])
def test_groups_of_a_batch_have_one_orientation_each(portrait, landscape):
    shape = np.array([True] * portrait + [False] * landscape)
    sampler = LabeledSampler(shape, 8, 3, group=2)
    batches = [sampler.batch(step) for step in range(3 * sampler.batches_per_epoch)]
    assert all(len(batch) == 8 for batch in batches)
    for epoch in range(3):
        own = np.concatenate(batches[epoch * sampler.batches_per_epoch : (epoch + 1) * sampler.batches_per_epoch])
        assert set(own.tolist()) == set(range(len(shape)))
        assert len(own) - len(shape) < 8
        mixed = [shape[a] != shape[b] for a, b in own.reshape(-1, 2)]
        assert sum(mixed) <= 2
    if portrait > 8:  # batches hold both orientations, as often as the images have them
        both = np.mean([len(set(shape[batch].tolist())) == 2 for batch in batches])
        assert both > 0.5


def test_grouped_orders_are_functions_of_seed_and_step_and_the_same_by_default():
    shape = np.arange(50) % 3 == 0
    first, again = (LabeledSampler(shape, 8, 1, group=2) for _ in range(2))
    assert all(np.array_equal(first.batch(step), again.batch(step)) for step in [40, 3, 17, 3])
    whole, default = LabeledSampler(shape, 8, 1, group=8), LabeledSampler(shape, 8, 1)
    assert all(np.array_equal(whole.batch(step), default.batch(step)) for step in range(40))


def test_unlabeled_images_of_any_orientation_are_drawn_evenly():
    shape = np.arange(30) < 10
    sampler = UniformSampler(shape, 8, seed=0)
    counts = np.bincount(np.concatenate([sampler.positions(step, range(8), portrait=None) for step in range(3000)]))
    assert np.all(np.abs(counts - 800) < 5 * 800**0.5)


def test_orders_are_functions_of_seed_and_step():
    shape = np.arange(50) % 3 == 0
    first, again, other = (LabeledSampler(shape, 4, seed=seed) for seed in (1, 1, 2))
    steps = [40, 3, 17, 3]
    assert all(np.array_equal(first.batch(step), again.batch(step)) for step in steps)
    assert any(not np.array_equal(first.batch(step), other.batch(step)) for step in steps)
    copied = pickle.loads(pickle.dumps(first))
    assert np.array_equal(copied.batch(29), first.batch(29))


def test_unlabeled_draws_are_uniform_within_the_orientation():
    shape = np.arange(30) < 10
    sampler, samples = UniformSampler(shape, 8, seed=0), range(8)
    drawn = [sampler.positions(step, samples, portrait=True) for step in range(2000)]
    counts = np.bincount(np.concatenate(drawn), minlength=30)
    assert counts[10:].sum() == 0
    assert np.all(np.abs(counts[:10] - 1600) < 5 * 1600**0.5)
    assert sampler.positions(7, range(4, 6), portrait=True) == drawn[7][4:6]  # as another process has them
    assert not shape[sampler.positions(5, samples, portrait=False)].any()
    only = UniformSampler(np.zeros(5, dtype=bool), 8, seed=0)
    assert max(only.positions(0, samples, portrait=True)) < 5  # no portrait there: any image


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    return digits.make_digits("small", root=root, train=40, val=20)


def bytes_below(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_digits_have_the_same_bytes_from_the_same_seed(small, tmp_path):
    again = digits.make_digits("small", root=tmp_path, train=40, val=20)
    other = digits.make_digits("small", root=tmp_path, train=40, val=20, seed=1)
    assert bytes_below(again.root) == bytes_below(small.root)
    assert bytes_below(other.root) != bytes_below(small.root)


def test_digits_are_an_ordinary_coco_data_set(small):
    data = read_labeled(small.train)
    assert [category.name for category in data.categories] == [str(digit) for digit in range(10)]
    assert len(data.images) == 40
    assert 40 <= sum(map(len, data.boxes)) <= 160
    sides = np.concatenate(data.boxes)[:, 2:] - np.concatenate(data.boxes)[:, :2]
    assert sides.max(axis=1).min() >= 16
    assert sides.max() <= 40
    assert len(read_labeled(small.val, categories=data.categories).images) == 20


def test_a_digits_box_is_tight_around_its_ink():
    rng = np.random.default_rng(0)
    glyphs, _, _ = digits._material()
    for number in range(50):
        alpha = digits._glyph(rng, glyphs[number])
        for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]):
            assert edge.max() > 0.05
        assert 18 <= max(alpha.shape) <= 40


def test_train_and_validation_share_no_digit_and_no_ground(monkeypatch):
    seen = {True: set(), False: set()}
    _, _, photos = digits._material()
    original = digits._glyph
    for test in (True, False):
        rng = np.random.default_rng(0)
        monkeypatch.setattr(digits, "_glyph", lambda r, ink, t=test: (seen[t].add(ink.tobytes()), original(r, ink))[1])
        for _ in range(200):
            digits._compose(rng, 96, test=test)
    assert len(seen[True]) > 100
    assert not seen[True] & seen[False]
    marked = photos[0].copy()
    marked[:, marked.shape[1] * 4 // 5 :] = (255, 0, 255)
    colors = [digits._background(np.random.default_rng(i), marked, 96, test=False) for i in range(30)]
    flat = digits._background(np.random.default_rng(1), marked, 96, test=True)
    assert flat.std(axis=(0, 1)).max() < 1e-6  # all of it from the validation's part
    assert all(one.std() > 1 for one in colors)


def test_half_a_data_set_is_never_left(tmp_path, monkeypatch):
    original, calls = Image.Image.save, []

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", failing)
        with pytest.raises(InputError, match="No space left"):
            digits.make_digits("small", root=tmp_path, train=10, val=5)
    assert list(tmp_path.iterdir()) == []
    assert read_labeled(digits.make_digits("small", root=tmp_path, train=10, val=5).train).images


def test_the_cache_folder_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSETEACHER_CACHE", str(tmp_path))
    assert digits.make_digits("small", train=2, val=2).root.is_relative_to(tmp_path)
    with pytest.raises(InputError, match="no Digits preset 'huge'"):
        digits.make_digits("huge")


def test_images_without_boxes_are_left_out_before_the_split(coco, tmp_path):
    """One has no annotation, one a crowd region alone, and one a box without area."""
    content = json.loads(coco.read_text())
    own = [one for one in content["annotations"] if one["image_id"] not in (50, 70)]
    region = own[0] | {"bbox": [2, 2, 30, 30], "area": 900}
    own.append(region | {"id": 5000, "image_id": 50, "iscrowd": 1})
    own.append(region | {"id": 5001, "image_id": 70, "bbox": [2, 2, 0, 5], "area": 0})
    path = tmp_path / "train.json"
    path.write_text(json.dumps(content | {"annotations": own}))
    config = DataConfig(labeled=path, images=coco.parent / "images", bad_boxes="fix")
    everything, some = open_data(config), open_data(config.model_copy(update={"empty_images": "drop"}))
    ids = [10 * number for number in range(1, 13)]
    assert [image.id for image in everything.labeled.images] == ids
    assert [image.id for image in some.labeled.images] == [one for one in ids if one not in (30, 50, 70)]
    assert all(len(boxes) for boxes in some.labeled.boxes)
    assert everything.notes == ()
    assert some.notes == (f"3 images of {path} without a box are left out (data.empty_images)",)
    drawn = config.model_copy(update={"empty_images": "drop", "split": "seeded", "count": 4})
    halves = open_data(drawn)
    both = sorted(image.id for part in (halves.labeled.images, halves.unlabeled) for image in part)
    assert (len(halves.labeled.images), both) == (4, [one for one in ids if one not in (30, 50, 70)])
