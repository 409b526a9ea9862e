"""Images and annotation files: what is read, and what is refused with a sentence."""

import hashlib
import json
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import write_coco
from denseteacher.data.formats import (
    AnnotationSource,
    read_annotations,
    read_image_info,
    read_labeled,
    read_unlabeled,
    write_split,
)
from denseteacher.data.images import decode_image, image_size
from denseteacher.data.records import Category
from denseteacher.errors import InputError, RunError
from support import changed_json

# what each EXIF orientation does to upright pixels when a camera stores them
STORE = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: np.rot90(a, -1),
}


def upright():
    """40 x 60 gray pixels with a red square near a corner."""
    pixels = np.full((40, 60, 3), 128, dtype=np.uint8)
    pixels[4:12, 30:50] = (250, 10, 10)
    return pixels


def save_with_orientation(path, pixels, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, exif=exif)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, orientation):
    file = tmp_path / "photo.png"
    save_with_orientation(file, STORE[orientation](upright()), orientation)
    assert image_size(file) == (40, 60)
    image = decode_image(file, declared_size=(40, 60))
    assert image.dtype == torch.uint8
    assert np.array_equal(image.permute(1, 2, 0).numpy(), upright())


def test_boxes_drawn_on_unrotated_pixels_keep_them(tmp_path):
    file = tmp_path / "photo.png"
    stored = np.rot90(upright())
    save_with_orientation(file, stored, 6)
    image = decode_image(file, declared_size=(60, 40))
    assert np.array_equal(image.permute(1, 2, 0).numpy(), stored)
    with pytest.raises(InputError, match=r"photo\.png has 60 x 40 pixels, but its annotation says 70 x 10"):
        decode_image(file, declared_size=(10, 70))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_every_color_mode_becomes_rgb(tmp_path, mode):
    file = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    if mode == "I;16":
        Image.fromarray((upright()[..., 0].astype(np.uint16)) * 257).save(file)
    else:
        Image.fromarray(upright()).convert(mode).save(file)
    image = decode_image(file)
    assert image.shape == (3, 40, 60)
    assert abs(int(image[0, 30, 10]) - 128) <= {"1": 128, "P": 30}.get(mode, 3)  # palettes and bits dither


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_truncated_files_are_named_and_not_changed(tmp_path, share, suffix):
    file = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    content = file.read_bytes()[: int(file.stat().st_size * share)]
    file.write_bytes(content)
    with pytest.raises(InputError, match=rf"cut\.{suffix}") as caught:
        decode_image(file)
    assert "\n" not in str(caught.value)
    assert file.read_bytes() == content


def test_what_is_no_image_is_refused(tmp_path):
    page = tmp_path / "page.jpg"
    page.write_text("<html>not found</html>")
    (tmp_path / "folder.png").mkdir()
    for path, message in (
        (page, "not a known image format"),
        (tmp_path / "folder.png", "folder"),
        (tmp_path / "x.png", "no image file"),
    ):
        with pytest.raises(InputError, match=message):
            decode_image(path)


def test_a_header_that_claims_too_much_is_not_decoded(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    file = tmp_path / "bomb.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"bomb\.png"):
        decode_image(file)


def test_coco_is_read_by_rising_ids_without_crowds(coco):
    data = read_labeled(coco)
    assert [image.id for image in data.images] == [10 * number for number in range(1, 13)]
    assert data.categories == [Category(2, "red"), Category(5, "green"), Category(11, "blue")]
    content = json.loads(coco.read_text())
    for image, boxes, labels in zip(data.images, data.boxes, data.labels, strict=True):
        own = [one for one in content["annotations"] if one["image_id"] == image.id and not one["iscrowd"]]
        expected = [[x, y, x + w, y + h] for x, y, w, h in (one["bbox"] for one in own)]
        assert boxes.tolist() == expected
        assert [data.categories[label].id for label in labels] == [one["category_id"] for one in own]
    assert len(data.boxes[2]) == 0
    assert any(one["iscrowd"] for one in read_annotations(coco).content["annotations"])
    assert [image.id for image in read_image_info(coco)] == [image.id for image in data.images]


FAULTS = {
    "image id twice": (lambda c: c["images"][1].update(id=10), "image id 10 stands twice"),
    "category id twice": (lambda c: c["categories"][1].update(id=2), "category id 2 stands twice"),
    "image without name": (lambda c: c["images"][0].pop("file_name"), "needs an id and a file_name"),
    "category without name": (lambda c: c["categories"][0].pop("name"), "id and a name"),
    "annotation of no image": (lambda c: c["annotations"][0].update(image_id=4), "image 4, which is not listed"),
    "short box": (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "x, y, width, height"),
    "text in a box": (lambda c: c["annotations"][0].update(bbox=["one", 2, 3, 4]), "x, y, width, height"),
    "NaN": (lambda c: c["annotations"][0].update(bbox=[float("nan"), 2, 3, 4]), "NaN is not a number of JSON"),
    "infinite": (lambda c: c["annotations"][0].update(bbox=[float("inf"), 2, 3, 4]), "not a number of JSON"),
    "no images": (lambda c: c.update(images=[]), "lists no images"),
    "inverted box": (lambda c: c["annotations"][0].update(bbox=[20, 20, -10, 5]), "has no area"),
    "box 2 px outside": (lambda c: c["annotations"][0].update(bbox=[-2, 0, 10, 10]), "reaches outside"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_coco_file_are_named(coco, tmp_path, fault):
    change, message = FAULTS[fault]
    with pytest.raises(InputError, match=message) as caught:
        read_labeled(AnnotationSource(changed_json(coco, tmp_path, change), coco.parent / "images"))
    assert "changed.json" in str(caught.value)


def test_a_pixel_of_overhang_is_cut_and_fix_cuts_and_drops(coco, tmp_path):
    images = coco.parent / "images"
    path = changed_json(coco, tmp_path, lambda c: c["annotations"][0].update(bbox=[-1, 0, 10, 10]))
    near = read_labeled(AnnotationSource(path, images))
    assert near.boxes[0][0].tolist() == [0, 0, 9, 10]

    def break_two(content):
        content["annotations"][0].update(bbox=[-20, -20, 40, 30])
        content["annotations"][1].update(bbox=[500, 500, 4, 4])

    path = changed_json(coco, tmp_path, break_two)
    fixed = read_labeled(AnnotationSource(path, images), bad_boxes="fix")
    assert sum(map(len, fixed.boxes)) == sum(map(len, read_labeled(coco).boxes)) - 1
    assert fixed.boxes[0][0].tolist() == [0, 0, 20, 10]


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../x.png", "a/../../x.png", "..\\x.png", "a\0.png", "file:///x.png", "http://h/x.png", "~/x.png"],
)
def test_file_names_that_leave_the_folder_are_refused(coco, tmp_path, name):
    path = changed_json(coco, tmp_path, lambda c: c["images"][0].update(file_name=name))
    with pytest.raises(InputError, match="leaves the image folder"):
        read_labeled(AnnotationSource(path, coco.parent / "images"))


def test_image_folders_are_found_in_the_usual_places(tmp_path):
    published = write_coco(tmp_path / "coco", 3)
    (tmp_path / "coco" / "annotations").mkdir()
    annotations = published.rename(tmp_path / "coco" / "annotations" / "instances_val2017.json")
    (tmp_path / "coco" / "images").rename(tmp_path / "coco" / "val2017")
    assert read_labeled(annotations).images[0].path.parent.name == "val2017"
    with pytest.raises(InputError, match="give its folder with --images DIR"):
        read_labeled(annotations.rename(tmp_path / "lonely.json"))


def test_validation_classes_must_be_the_training_ones(coco):
    with pytest.raises(InputError, match="other categories"):
        read_labeled(coco, categories=[Category(2, "red"), Category(5, "green")])


def test_a_split_keeps_everything_and_overwrites_nothing(coco, tmp_path):
    files = write_split(read_annotations(coco), [10, 30], tmp_path)
    labeled, unlabeled = (json.loads(file.read_text()) for file in files[:2])
    source = json.loads(coco.read_text())
    assert labeled["images"] == [image for image in source["images"] if image["id"] in (10, 30)]
    assert labeled["annotations"] == [one for one in source["annotations"] if one["image_id"] in (10, 30)]
    assert labeled["categories"] == unlabeled["categories"] == source["categories"]
    assert "annotations" not in unlabeled
    assert write_split(read_annotations(coco), [10, 30], tmp_path) == files
    assert files.images == coco.parent / "images"
    before = [file.read_bytes() for file in files[:2]]
    with pytest.raises(InputError, match="other content"):
        write_split(read_annotations(coco), [20], tmp_path)
    assert [file.read_bytes() for file in files[:2]] == before
    with pytest.raises(RunError, match="can't be written"):
        write_split(read_annotations(coco), [20], files.labeled)


def test_unlabeled_folders_lists_and_image_info(coco, tmp_path):
    folder = tmp_path / "pictures"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    for place in ("b.PNG", "a.jpg", "deep/er/c.webp", ".hidden/d.png", ".e.png"):
        Image.fromarray(upright()).save(folder / place)
    (folder / "notes.txt").write_text("x")
    found = read_unlabeled(folder)
    assert [record.path.name for record in found] == ["a.jpg", "b.PNG", "c.webp"]
    assert [(record.id, record.height, record.width) for record in found] == [(1, 40, 60), (2, 40, 60), (3, 40, 60)]

    listing = tmp_path / "list.txt"
    listing.write_text(f"# mine\npictures/a.jpg\n\n{folder / 'b.PNG'}\n")
    assert [record.path.name for record in read_unlabeled(listing)] == ["a.jpg", "b.PNG"]
    assert len(read_unlabeled(coco)) == 12
    for text, message in (
        ("gone.png\n", r"line 1: there is no image"),
        ("../x.png\n", "leaves"),
        ("# none\n", "names no images"),
    ):
        listing.write_text(text)
        with pytest.raises(InputError, match=message):
            read_unlabeled(listing)
    (folder / "broken.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"broken\.jpg"):
        read_unlabeled(folder)
    with pytest.raises(InputError, match="no folder or file"):
        read_unlabeled(tmp_path / "missing")


def test_the_hash_of_a_file_does_not_change_by_reading(coco):
    def digest():
        files = sorted(coco.parent.rglob("*.*"))
        return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()

    before = digest()
    for image in read_labeled(coco).images:
        decode_image(image.path, declared_size=(image.height, image.width))
    assert digest() == before
