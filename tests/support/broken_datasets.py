"""Ways to break a data set, each a function of its folder; what it returns is what the user names in its place."""

import gzip
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from support.published_datasets import write_coco_published, write_crowdhuman, write_tar_shards, write_voc, write_yolo

XML, SECOND_XML, SET = "Annotations/000001.xml", "Annotations/000002.xml", "ImageSets/Main/trainval.txt"
LABEL, ODGT = "labels/train/000001.txt", "annotation_train.odgt"
TRAIN = "annotations/instances_train2017.json"


class Broken(NamedTuple):
    """A fault, and what is said about it."""

    make: object
    """Writes a sound data set; returns what a user names, and its folder."""
    spoil: object
    says: str
    options: tuple = ()


def voc(folder):
    made = write_voc(folder)
    return made, made


def yolo(folder):
    return write_yolo(folder), folder


def flat(folder):
    return write_yolo(folder, "flat"), folder


def lists(folder):
    return write_yolo(folder, "lists"), folder


def crowdhuman(folder):
    return write_crowdhuman(folder) / ODGT, folder


def coco(folder):
    return write_coco_published(folder) / TRAIN, folder


def shards(folder):
    return write_tar_shards(folder, shards=1), folder


def nothing(folder):
    """What is wrong is what was asked for."""


def root(folder):
    """The user names the folder."""
    return folder


def named(name):
    """The user names something in the folder."""
    return lambda folder: folder / name


def text(name, old, new):
    """Replaces the first of a text in a file."""

    def spoil(folder):
        content = (folder / name).read_text()
        assert old in content
        (folder / name).write_text(content.replace(old, new, 1))

    return spoil


def write(name, content):
    def spoil(folder):
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return spoil


def a_list(content):
    """The user names a text file of this content."""

    def spoil(folder):
        write("list.txt", content)(folder)
        return folder / "list.txt"

    return spoil


def pipe(file):
    """A pipe that nobody writes to."""
    return lambda folder: os.mkfifo(folder / file)


def remove(*names):
    def spoil(folder):
        for name in names:
            (shutil.rmtree if (folder / name).is_dir() else Path.unlink)(folder / name)

    return spoil


def empty(name):
    """Leaves a folder without its files."""

    def spoil(folder):
        shutil.rmtree(folder / name)
        (folder / name).mkdir()

    return spoil


def cut(name):
    def spoil(folder):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return spoil


def change(edit):
    """Edits train2017's JSON."""

    def spoil(folder):
        content = json.loads((folder / TRAIN).read_text())
        edit(content)
        (folder / TRAIN).write_text(json.dumps(content))

    return spoil


def first_line(edit):
    """Edits the first image of CrowdHuman's training file."""

    def spoil(folder):
        first, *rest = (folder / ODGT).read_text().splitlines()
        content = json.loads(first)
        edit(content)
        (folder / ODGT).write_text("\n".join([json.dumps(content), *rest]))

    return spoil


def first_box(**values):
    """Changes the first box of the first image of CrowdHuman's training file."""
    return first_line(lambda image: image["gtboxes"][0].update(values))


def repeat(folder):
    content = (folder / ODGT).read_text()
    (folder / ODGT).write_text(content * 2)


def without_hint(folder):
    (folder / ODGT).rename(folder / "a.odgt")
    (folder / "annotation_val.odgt").rename(folder / "b.odgt")
    return folder


def second_year(folder):
    write_voc(folder.parent.parent, 2012)
    return folder.parent


def no_text_files(folder):
    for file in folder.glob("0*.txt"):
        file.unlink()


def no_objects(folder):
    for file in (folder / "labels" / "train").iterdir():
        file.write_text("")


def compress(folder):
    packed = gzip.compress((folder / "shard-000000.tar").read_bytes())
    remove("shard-000000.tar")(folder)
    write("x.tar.gz", packed)(folder)
