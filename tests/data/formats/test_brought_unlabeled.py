"""Unlabeled images as people name them, for training, checking, labeling and predicting; and what is not a file."""

import os
import socket

import pytest

from denseteacher.check.data import read_checked_data
from denseteacher.data.config import DataConfig
from denseteacher.data.formats import open_unlabeled, read_unlabeled
from denseteacher.data.formats.files import images_below
from denseteacher.data.formats.long_list import LongList
from denseteacher.data.images import image_size, read_content
from denseteacher.data.open import open_data
from denseteacher.data.splits import listed_split
from denseteacher.errors import InputError
from denseteacher.inference.predict import find_images
from support.published_datasets import save, scenes, write_tar_shards, write_unlabeled, write_yolo

MADE = scenes(6, seed=100)
NAMES = [f"{scene.number:06d}.png" for scene in MADE]


def lines(*change, encoding="utf-8", end="\n"):
    """A list in the folder above the images, each line of it changed."""

    def write(folder):
        texts = [change[0](f"images/{name}", folder) if change else f"images/{name}" for name in NAMES]
        (folder / "list.txt").write_bytes("".join(f"{text}{end}" for text in texts).encode(encoding))
        return folder / "list.txt"

    return write


LISTS = {
    "plain": lines(),
    "Windows": lines(lambda name, _: name.replace("/", "\\"), end="\r\n"),
    "Windows with a point": lines(lambda name, _: ".\\" + name.replace("/", "\\")),
    "quotes": lines(lambda name, _: f'"{name}"'),
    "single quotes": lines(lambda name, _: f"'{name}'"),
    "quotes of Windows": lines(lambda name, _: '"' + name.replace("/", "\\") + '"', end="\r\n"),
    "byte order mark": lines(encoding="utf-8-sig", end="\r\n"),
    "PowerShell": lines(encoding="utf-16", end="\r\n"),
    "absolute": lines(lambda name, folder: str(folder / name)),
    "absolute in quotes": lines(lambda name, folder: f'"{folder / name}"'),
    "blanks and comments": lines(lambda name, _: f"  {name}  \n\n# {name}"),
}


@pytest.mark.parametrize("case", LISTS)
def test_a_list_names_the_same_images_everywhere(tmp_path, case):
    write_unlabeled(tmp_path / "images")
    path = LISTS[case](tmp_path)
    assert [record.path.name for record in read_unlabeled(path)] == NAMES
    assert [record.path.name for record in open_unlabeled(path)] == NAMES
    found = find_images([str(path)])
    assert [file.name for file in found] == NAMES
    assert [image_size(file)[::-1] for file in found] == [scene.size for scene in MADE]
    if case != "PowerShell":  # a long list is UTF-8
        assert [record.path.name for record in LongList(path, tmp_path)] == NAMES


PATTERNS = {
    "images": ("images/*.png", 6),
    "some": ("images/00000[12].png", 2),
    "one sign": ("images/00000?.png", 6),
    "below": ("**/*.png", 6),
    "all below": ("**", 6),
    "folders": ("im*", 6),
    "shards": ("tar/*.tar", 6),
    "images and others": ("images/*", 6),
}


@pytest.mark.parametrize("case", PATTERNS)
def test_patterns_of_images_folders_and_shards(tmp_path, case):
    pattern, count = PATTERNS[case]
    write_unlabeled(tmp_path / "images")
    (tmp_path / "images" / "notes.txt").write_text("x")
    if "tar" in pattern:
        write_tar_shards(tmp_path / "tar")
    found = read_unlabeled(tmp_path / pattern)
    assert len(found) == count
    assert len({record.name for record in found}) == count


def test_a_file_whose_name_has_the_signs_of_patterns_is_that_file(tmp_path):
    save(MADE[0], tmp_path / "a[1].png")
    assert [record.path.name for record in read_unlabeled(tmp_path / "a[1].png")] == ["a[1].png"]


def a_pipe(file):
    os.mkfifo(file)


def a_socket(file):
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(file))


def a_device(file):
    file.symlink_to("/dev/zero")


def a_broken_link(file):
    file.symlink_to(file.with_name("nowhere"))


WRONG = {
    "a pipe": (a_pipe, "is a pipe, a device or a socket"),
    "a socket": (a_socket, "is a pipe, a device or a socket"),
    "a device": (a_device, "is a pipe, a device or a socket"),
    "a link to nothing": (a_broken_link, "there is no image file"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_file_hangs_nothing(tmp_path, case, monkeypatch):
    """Training, checking, labeling and predicting name it, in a folder, in a list and by itself."""
    make, says = WRONG[case]
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    folder = write_unlabeled(tmp_path / "images")
    make(folder.relative_to(tmp_path) / "x.jpg")
    labeled = write_yolo(tmp_path / "yolo")
    with pytest.raises(InputError, match=rf"x\.jpg {says}|{says} .*x\.jpg"):
        open_data(DataConfig(labeled=labeled, unlabeled=folder))
    checked, findings = read_checked_data(DataConfig(labeled=labeled, unlabeled=folder))
    assert len(checked.unlabeled) == 6
    assert [one.kind for one in findings] == ["unreadable image"]
    faults = []
    assert len(read_unlabeled(folder, on_fault=faults.extend)) == 6  # as label does
    assert len(faults) == 1
    assert folder / "x.jpg" in find_images([str(folder)])
    for read in (image_size, read_content):
        with pytest.raises((InputError, FileNotFoundError)):
            read(folder / "x.jpg")
    (tmp_path / "list.txt").write_text("images/x.jpg\n")
    for path in (tmp_path / "list.txt", folder / "x.jpg"):
        with pytest.raises(InputError):
            read_unlabeled(path)
        with pytest.raises(InputError):
            find_images([str(path)])


@pytest.mark.parametrize("name", ["x.jpg", "images", "list.txt", "data.json", "data.yaml", "a.tar"])
def test_a_pipe_named_by_itself(tmp_path, name):
    a_pipe(tmp_path / name)
    for read in (read_unlabeled, open_unlabeled, lambda path: find_images([str(path)])):
        with pytest.raises(InputError, match="is a pipe"):
            read(tmp_path / name)
    with pytest.raises(InputError, match="is a pipe"):
        open_data(DataConfig(labeled=tmp_path / name))
    with pytest.raises(InputError, match="is a pipe"):
        listed_split([1], tmp_path / name)
    if name == "a.tar":
        with pytest.raises(InputError, match="is a pipe"):
            read_unlabeled(tmp_path)


def test_a_folder_called_like_an_image_is_a_folder(tmp_path):
    save(MADE[0], tmp_path / "x.jpg" / "a.png")
    assert [record.path.name for record in read_unlabeled(tmp_path)] == ["a.png"]
    assert [file.name for file in find_images([str(tmp_path / "x.jpg")])] == ["a.png"]
    (tmp_path / "list.txt").write_text("x.jpg\n")
    with pytest.raises(InputError, match=r"there is no image file .*x\.jpg"):
        read_unlabeled(tmp_path / "list.txt")


@pytest.mark.parametrize("name", ["x" * 300, "y" * 5000, "x" * 300 + ".jpg", "a/" * 3000])
def test_names_that_no_file_can_have(tmp_path, name):
    for read in (read_unlabeled, open_unlabeled, lambda path: find_images([str(path)])):
        with pytest.raises(InputError):
            read(tmp_path / name)
    with pytest.raises(InputError, match="there is no annotation file or folder"):
        open_data(DataConfig(labeled=tmp_path / name))
    with pytest.raises(InputError, match="there is no "):
        open_data(DataConfig(labeled=name))
    (tmp_path / "list.txt").write_text(f"{name}\n")
    with pytest.raises(InputError, match="there is no image file"):
        read_unlabeled(tmp_path / "list.txt")


def test_predict_goes_on_without_the_files_that_a_list_lacks(tmp_path):
    write_unlabeled(tmp_path / "images")
    (tmp_path / "list.txt").write_text("images/gone.png\nimages/000001.png\n")
    missing = []
    assert [file.name for file in find_images([str(tmp_path / "list.txt")], missing)] == ["000001.png"]
    assert len(missing) == 1
    assert "line 1: there is no image file" in missing[0]


def test_a_list_of_another_machine_is_read_by_names_where_the_folder_is_given(tmp_path):
    write_unlabeled(tmp_path / "images" / "deep")
    path = tmp_path / "list.txt"
    path.write_text("".join(f"D:\\shots\\{name}\n" for name in NAMES))
    told = []
    assert [record.path.name for record in read_unlabeled(path, tmp_path / "images", on_fault=told.extend)] == NAMES
    assert [(fault.kind, fault.harmless) for fault in told] == [("image found by its name", True)] * 6
    with pytest.raises(InputError, match="line 1: there is no image file"):
        read_unlabeled(path)


def test_links_are_followed_and_circles_are_not(tmp_path):
    folder = write_unlabeled(tmp_path / "elsewhere")
    (tmp_path / "set" / "deep").mkdir(parents=True)
    (tmp_path / "set" / "part").symlink_to(folder)
    (tmp_path / "set" / "part again").symlink_to(folder)
    (tmp_path / "set" / "deep" / "above").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "deep" / "all").symlink_to("/")
    (tmp_path / "set" / "one.png").symlink_to(folder / "000001.png")
    assert [file.name for file in images_below(tmp_path / "set")] == ["one.png", *NAMES]
