"""Unlabeled images: tar shards, patterns, lists, VOC image sets, COCO image info, and several of them at once."""

import gzip
import tarfile

import numpy as np
import pytest
from PIL import Image

from denseteacher.data.config import DataConfig, UnlabeledSource
from denseteacher.data.formats import read_unlabeled
from denseteacher.data.images import load_image
from denseteacher.data.open import open_data
from denseteacher.errors import InputError
from support.published_datasets import (
    save,
    scenes,
    write_coco_published,
    write_tar_shards,
    write_unlabeled,
    write_voc,
    write_yolo,
)

MADE = scenes(6, seed=100)


def assert_pixels(records, made):
    """The images are these scenes, stored without loss, numbered from 1."""
    assert [record.id for record in records] == list(range(1, len(made) + 1))
    for record, scene in zip(records, made, strict=True):
        assert (record.width, record.height) == scene.size
        assert np.array_equal(load_image(record).permute(1, 2, 0).numpy(), scene.pixels)


def test_tar_shards_are_read_where_they_lie(tmp_path):
    folder = write_tar_shards(tmp_path)
    by_shard = MADE[0::2] + MADE[1::2]
    assert_pixels(read_unlabeled(folder), by_shard)
    assert_pixels(read_unlabeled(folder / "shard-*.tar"), by_shard)
    assert_pixels(read_unlabeled(folder / "shard-000001.tar"), MADE[1::2])
    first = read_unlabeled(folder)[0]
    assert first.name == f"{folder / 'shard-000000.tar'}, 000001.png"
    with tarfile.open(folder / "shard-000000.tar") as archive:  # where the standard library says it is
        assert archive.getmember("000001.png").offset_data == first.member.offset


def test_a_folder_may_hold_images_and_shards(tmp_path):
    write_tar_shards(tmp_path, shards=1, count=2)
    save(MADE[2], tmp_path / "z.png")
    assert_pixels(read_unlabeled(tmp_path), [MADE[2], *MADE[:2]])


def test_hidden_files_and_long_names_in_a_tar(tmp_path):
    save(MADE[0], tmp_path / "a.png")
    deep = "/".join(["a long folder name"] * 8)
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("._a.png", "folder/a.PNG", f"{deep}/a.png"):
            archive.add(tmp_path / "a.png", name)
    assert [record.member.name for record in read_unlabeled(tmp_path / "x.tar")] == ["folder/a.PNG", f"{deep}/a.png"]


TAR_FAULTS = {
    "cut in an image": (lambda data: data[: len(data) // 2], r"shard-000000\.tar .*(unexpected end|cut off)"),
    "cut in the last image": (lambda data: data[: -10240 - 600], r"shard-000000\.tar .*(unexpected end|cut off)"),
    "compressed": (gzip.compress, r"can't be read as an uncompressed tar file .*: unpack it, or pack it without"),
    "text": (lambda data: b"no tar" * 200, "can't be read as an uncompressed tar file"),
    "empty": (lambda data: b"", r"shard-000000\.tar"),
}


@pytest.mark.parametrize("fault", TAR_FAULTS)
def test_damaged_shards_are_named(tmp_path, fault):
    change, message = TAR_FAULTS[fault]
    file = write_tar_shards(tmp_path, shards=1) / "shard-000000.tar"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(InputError, match=message):
        read_unlabeled(tmp_path)


def test_compressed_shards_are_not_passed_over(tmp_path):
    shards = write_tar_shards(tmp_path)
    packed = gzip.compress((shards / "shard-000001.tar").read_bytes())
    (shards / "shard-000001.tar").unlink()
    (shards / "shard-000001.tar.gz").write_bytes(packed)
    with pytest.raises(InputError, match=r"shard-000001\.tar\.gz can't be read as an uncompressed tar file"):
        read_unlabeled(shards)
    with pytest.raises(InputError, match=r"\*\.tar\.gz must name images, \.tar files or folders of images"):
        read_unlabeled(shards / "*.tar.gz")
    with pytest.raises(InputError, match="names 0 other files"):
        read_unlabeled(shards / "other-*.tar")


def test_a_damaged_image_in_a_shard_is_named(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no image")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "a.png", "deep/a.png")
    with pytest.raises(InputError, match=r"x\.tar, deep/a\.png can't be read as an image"):
        read_unlabeled(tmp_path / "x.tar")


def test_lists_with_a_mark_of_windows(tmp_path):
    write_unlabeled(tmp_path / "images")
    listing = tmp_path / "list.txt"
    listing.write_bytes(b"\xef\xbb\xbf000001.png\r\n# no\r\n\r\n000002.png\r\n")
    assert_pixels(read_unlabeled(listing, tmp_path / "images"), MADE[:2])
    with pytest.raises(InputError, match=r"list\.txt, line 1: there is no image file"):
        read_unlabeled(listing)


def test_voc_folders_are_read_by_their_image_sets(tmp_path):
    root = write_voc(tmp_path, 2012)
    save(MADE[0], root / "SegmentationClass" / "2008_000001.png")  # no image of the data set
    assert len(read_unlabeled(root)) == 12
    assert len(read_unlabeled(root / "ImageSets" / "Main" / "val.txt")) == 6
    for name in ("train", "val", "trainval"):
        (root / "ImageSets" / "Main" / f"{name}.txt").unlink()
    with pytest.raises(InputError, match="has no image set unlabeled or trainval or train"):
        read_unlabeled(root)
    for file in (root / "ImageSets" / "Main").iterdir():
        file.unlink()
    (root / "ImageSets" / "Main").rmdir()
    assert len(read_unlabeled(root)) == 12
    beside = tmp_path / "beside"
    save(MADE[0], beside / "a.png")
    (beside / "a.xml").write_text("<annotation/>")
    assert [record.path.name for record in read_unlabeled(beside)] == ["a.png"]


def test_several_sources_are_one_list_with_new_ids(tmp_path):
    labeled = write_yolo(tmp_path / "yolo")
    coco = write_coco_published(tmp_path / "coco")
    config = DataConfig(
        labeled=labeled,
        unlabeled=(
            write_unlabeled(tmp_path / "folder"),
            UnlabeledSource(path=coco / "annotations" / "image_info_unlabeled2017.json"),
            write_tar_shards(tmp_path / "tar"),
        ),
    )
    data = open_data(config)
    assert [record.id for record in data.unlabeled] == list(range(1, 19))
    places = [record.path.parent.name for record in data.unlabeled]
    assert places == ["folder"] * 6 + ["unlabeled2017"] * 6 + ["tar"] * 6
    assert data.notes == ()
    assert data.split.unlabeled_ids == list(range(1, 19))
    assert "folder" in data.split.source
    assert "tar" in data.split.source
    for record in data.unlabeled:
        load_image(record)


def test_faults_of_images_are_reported_and_the_rest_is_listed(tmp_path):
    write_unlabeled(tmp_path)
    (tmp_path / "000003.png").write_text("no image")
    faults = []
    found = read_unlabeled(tmp_path, on_fault=faults.extend)
    assert [record.id for record in found] == [1, 2, 3, 4, 5]
    assert [(fault.kind, "000003.png" in fault.message) for fault in faults] == [("unreadable image", True)]
    Image.new("RGB", (4, 4)).save(tmp_path / "000003.png")
    assert len(read_unlabeled(tmp_path)) == 6


def test_a_line_that_is_not_a_name_is_shown_in_part(tmp_path):
    (tmp_path / "list.txt").write_text("9" * 5000)
    with pytest.raises(InputError, match="line 1: there is no image file") as caught:
        read_unlabeled(tmp_path / "list.txt")
    assert len(str(caught.value)) < 1000
