"""One missing or damaged image of a YOLO or VOC data set: left out and counted, or refused with the way out named."""

import os

import pytest

from denseteacher.data.config import DataConfig
from denseteacher.data.open import open_data
from denseteacher.errors import InputError
from support.published_datasets import write_unlabeled, write_voc, write_yolo


def a_pipe(file):
    file.unlink()
    os.mkfifo(file)


def a_link_to_nothing(file):
    file.rename(file.with_name("blob"))
    file.symlink_to("nowhere")


BAD = {
    "missing": lambda file: file.unlink(),
    "empty": lambda file: file.write_bytes(b""),
    "no image": lambda file: file.write_text("<html>"),
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-300]),
    "a pipe": a_pipe,
    "a link to nothing": a_link_to_nothing,
}
FORMATS = {
    "voc": (write_voc, "VOCdevkit/VOC2007/JPEGImages/000002.jpg"),
    "lists": (lambda folder: write_yolo(folder, "lists"), "images/train/000002.jpg"),
    "yolo": (write_yolo, "images/train/000002.jpg"),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("case", BAD)
def test_bad_images_are_left_out_and_counted(tmp_path, case, format):
    write, image = FORMATS[format]
    labeled = write(tmp_path / "data")
    unlabeled = write_unlabeled(tmp_path / "unlabeled")
    BAD[case](tmp_path / "data" / image)
    opened = open_data(DataConfig(labeled=labeled, unlabeled=unlabeled, bad_images="skip"))
    assert len(opened.labeled.images) == 7
    if (case, format) == ("missing", "yolo"):  # a folder does not say what it should hold
        assert opened.notes == ()
        return
    assert [note for note in opened.notes if "000002" in note and note.startswith("left out: ")] == list(opened.notes)
    assert len(opened.notes) == 1
    seen = case != "truncated" and (format != "voc" or case not in ("empty", "no image"))
    if seen:  # and not by the first step, which reads the pixels and not only the header
        with pytest.raises(InputError, match=r"000002.*data\.bad_images=skip"):
            open_data(DataConfig(labeled=labeled, unlabeled=unlabeled))
