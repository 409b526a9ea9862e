"""What a user gets who brings a broken data set: exit code 2 and one sentence that names the file and what is wrong.

Every case breaks one thing of a sound data set and trains on it; nothing may be written.
"""

import re

import pytest

from conftest import TINY
from support.broken_datasets import (
    LABEL,
    ODGT,
    SECOND_XML,
    SET,
    XML,
    Broken,
    a_list,
    change,
    coco,
    compress,
    crowdhuman,
    cut,
    empty,
    first_box,
    first_line,
    flat,
    lists,
    named,
    no_objects,
    no_text_files,
    nothing,
    pipe,
    remove,
    repeat,
    root,
    second_year,
    shards,
    text,
    voc,
    without_hint,
    write,
    yolo,
)
from support.published_datasets import write_unlabeled, write_yolo

SETS = [part for one in [*TINY, "method.burn_in=1", "method.ramp=1"] for part in ("--set", one)]

VOC = {
    "no annotation file": Broken(voc, remove(XML), r"there is no annotation file .*000001\.xml"),
    "XML cut off": Broken(voc, cut(XML), r"000001\.xml can't be read as XML"),
    "XML that is a page": Broken(voc, write(XML, "<!doctype html>"), r"000001\.xml can't be read as XML"),
    "text in a corner": Broken(
        voc,
        text(SECOND_XML, "<xmin>", "<xmin>left"),
        r"000002\.xml, object 1 needs a bndbox with the numbers xmin, ymin",
    ),
    "nan in a corner": Broken(
        voc,
        text(SECOND_XML, "<xmin>", "<xmin>nan</xmin><xmin>"),
        r"000002\.xml, object 1 needs a bndbox with the numbers",
    ),
    "a corner missing": Broken(
        voc, text(SECOND_XML, "<xmax>", "<xmax></xmax><xmax>"), r"000002\.xml, object 1 needs a bndbox with the numbers"
    ),
    "no name": Broken(voc, text(SECOND_XML, "<name>", "<name></name><name>"), r"000002\.xml, object 1 has no name"),
    "corners swapped": Broken(
        voc, text(SECOND_XML, "<xmin>", "<xmin>9"), r"000002\.xml, object 1 has the box .* no area"
    ),
    "image missing": Broken(
        voc, remove("JPEGImages/000001.jpg"), r"000001\.xml: there is no image 000001 in .*JPEGImages"
    ),
    "set names what is not there": Broken(
        voc, text(SET, "000002", "999999"), r"there is no annotation file .*999999\.xml"
    ),
    "set leaves the folder": Broken(
        voc, text(SET, "000002", "../000002"), r"trainval\.txt names '\.\./000002', which leaves"
    ),
    "set names an image twice": Broken(
        voc, text(SET, "000002", "000001"), r"the image 000001 stands twice in its image set"
    ),
    "set empty": Broken(voc, write(SET, ""), r"VOC2007 names no images"),
    "set of no text": Broken(voc, write(SET, b"\xff\xfe\x00"), r"trainval\.txt can't be read as an image set"),
    "no set to train on": Broken(
        voc,
        remove(SET, "ImageSets/Main/train.txt"),
        r"no image set trainval or train: it has test, val; choose .* --subset",
    ),
    "unknown subset": Broken(
        voc, nothing, r"has no image set minival: it has test, train, trainval, val", ("--subset", "minival")
    ),
    "subset without sets": Broken(voc, remove("ImageSets"), r"has no ImageSets/Main.*leave out", ("--subset", "train")),
    "subset of a set": Broken(voc, named(SET), r"trainval\.txt is one file without parts", ("--subset", "train")),
    "two years": Broken(voc, second_year, r"VOCdevkit holds VOC2007 and VOC2012: name one of them"),
    "no XML at all": Broken(voc, remove("Annotations"), r"there is no annotation file"),
    "not there": Broken(voc, named("gone"), r"there is no annotation file or folder .*gone"),
    "image that is a pipe": Broken(
        voc, lambda folder: remove(XML)(folder) or pipe(XML)(folder), r"000001\.xml is a pipe, a device or a socket"
    ),
    "an image named": Broken(voc, named("JPEGImages/000001.jpg"), r"of no known format .*say which with --format"),
    "read as YOLO": Broken(voc, nothing, r"none of 12 images has a text file of labels", ("--format", "yolo")),
    "read as COCO": Broken(voc, nothing, r"one \*\.json, not 0 \(none\)", ("--format", "coco")),
    "unknown format": Broken(voc, nothing, r"'pascal' is not one of", ("--format", "pascal")),
}

YOLO = {
    "text in numbers": Broken(
        yolo, text(LABEL, "0.", "O."), r"000001\.txt, line 1: .* has to be a class number and x, y"
    ),
    "four numbers": Broken(
        yolo, write(LABEL, "0 .5 .5 .1"), r"000001\.txt, line 1: '0 \.5 \.5 \.1' has to be a class number"
    ),
    "eight numbers": Broken(
        yolo, write(LABEL, "0 .5 .5 .1 .1 .9 .9 .9"), r"000001\.txt, line 1: .* if these are keypoints, 'kpt_shape'"
    ),
    "class above the names": Broken(
        yolo, write(LABEL, "3 .5 .5 .1 .1"), r"000001\.txt, line 1: .*unknown class 3; known: 0 to 2"
    ),
    "class of half": Broken(yolo, write(LABEL, "0.5 .5 .5 .1 .1"), r"000001\.txt, line 1: .*unknown class 0\.5"),
    "pixels": Broken(
        yolo, write(LABEL, "0 32 40 20 10"), r"000001\.txt, line 1: .* numbers above 1: they are shares .* not pixels"
    ),
    "box outside": Broken(yolo, write(LABEL, "0 .9 .5 .8 .1"), r"000001\.txt, line 1 has the box .* reaches outside"),
    "box without area": Broken(yolo, write(LABEL, "0 .9 .5 0 .1"), r"000001\.txt, line 1 has the box .* no area"),
    "nc is not the number of names": Broken(
        yolo, text("data.yaml", "names:", "nc: 4\nnames:"), r"data\.yaml: 'nc' is 4, but 'names' has 3 class names"
    ),
    "no names": Broken(yolo, text("data.yaml", "names:", "classes:"), r"data\.yaml is not a YOLO data set: .*'names'"),
    "names not from 0": Broken(yolo, text("data.yaml", "0: person", "7: person"), r"data\.yaml: 'names' .* from 0"),
    "two names alike": Broken(
        yolo, text("data.yaml", "1: car", "1: dog"), r"data\.yaml: two classes have the name 'dog'"
    ),
    "text file of no text": Broken(yolo, write(LABEL, b"\xff\xfe\x00"), r"000001\.txt can't be read as text"),
    "fault after blank lines": Broken(yolo, write(LABEL, "\n\n0 .5 .5 .1 .1\n\n0 x"), r"000001\.txt, line 5: '0 x'"),
    "no YAML": Broken(yolo, write("data.yaml", "names: [a, 'b"), r"data\.yaml can't be read as YAML"),
    "no part to train on": Broken(yolo, text("data.yaml", "train:", "training:"), r"no trainval or train: it has val"),
    "part that is not there": Broken(
        yolo, remove("images/train"), r"data\.yaml names 'images/train', which is neither a folder nor a list in"
    ),
    "part without images": Broken(yolo, empty("images/train"), r"data\.yaml holds or names no images"),
    "unknown subset": Broken(yolo, nothing, r"has no minival: it has train, val", ("--subset", "minival")),
    "no text files": Broken(yolo, remove("labels"), r"none of 8 images has a text file of labels; the first would be"),
    "no objects": Broken(yolo, no_objects, r"none of the 8 labeled images of .*data\.yaml has a box"),
    "damaged image": Broken(yolo, write("images/train/000001.jpg", b"?"), r"000001\.jpg can't be read as an image"),
    "list with a missing image": Broken(
        lists, text("train.txt", "000002", "999999"), r"there is no image file .*999999\.jpg"
    ),
    "list with an image twice": Broken(
        lists, text("train.txt", "000002", "000001"), r"000001\.jpg stands twice in its lists"
    ),
    "empty list": Broken(lists, write("train.txt", ""), r"data\.yaml holds or names no images"),
    "too few names": Broken(flat, write("classes.txt", "person\n"), r"has the unknown class \d; known: 0 to 0"),
    "no text files beside the images": Broken(flat, no_text_files, r"holds no annotations of a known format"),
    "subset of a folder": Broken(flat, nothing, r"has no part 'val': there is no folder", ("--subset", "val")),
    "read as VOC": Broken(yolo, nothing, r"data\.yaml is not an image set of VOC", ("--format", "voc")),
    "folder read as VOC": Broken(yolo, root, r"names no images: .* should hold XML files", ("--format", "voc")),
    "read as COCO": Broken(yolo, nothing, r"data\.yaml can't be read as JSON", ("--format", "coco")),
}

CROWDHUMAN = {
    "no JSON": Broken(
        crowdhuman, text(ODGT, "{", "["), r"odgt, line 1 has to be a JSON object with ID and the list gtboxes"
    ),
    "no gtboxes": Broken(
        crowdhuman, first_line(lambda image: image.pop("gtboxes")), r"odgt, line 1 has to be a JSON object"
    ),
    "no fbox": Broken(crowdhuman, first_box(fbox=None), r"box 1 of 273001,\S+ needs an fbox \[x, y, width, height\]"),
    "text in an fbox": Broken(crowdhuman, first_box(fbox=[1, 2, "3", 4]), r"box 1 of 273001,\S+ needs an fbox"),
    "NaN": Broken(crowdhuman, first_box(fbox=[float("nan"), 2, 3, 4]), r"box 1 of 273001,\S+ needs an fbox"),
    "person outside": Broken(
        crowdhuman, first_box(fbox=[500, 2, 3, 4]), r"box 1 of 273001,\S+ has the box .* no area .*data\.bad_boxes=fix"
    ),
    "image twice": Broken(crowdhuman, repeat, r"odgt, line 9: image \S+ stands twice"),
    "image missing": Broken(
        crowdhuman,
        first_line(lambda image: image.update(ID="2841,fa")),
        r"train\.odgt: the image '2841,fa' is not in .*Images",
    ),
    "all images missing": Broken(crowdhuman, remove("Images"), r"is in none of .*give its folder with --images DIR"),
    "empty": Broken(crowdhuman, write(ODGT, ""), r"odgt names no images"),
    "two files and no hint": Broken(
        crowdhuman, without_hint, r"should hold one \*\.odgt, not 2 \(a\.odgt, b\.odgt\): name the file"
    ),
    "read as COCO": Broken(crowdhuman, nothing, r"can't be read as JSON", ("--format", "coco")),
}

COCO = {
    "image id that is a list": Broken(
        coco, change(lambda c: c["annotations"][0].update(image_id=[1])), r"is of image \[1\], which is not listed"
    ),
    "category that is an object": Broken(
        coco, change(lambda c: c["annotations"][0].update(category_id={})), r"has the unknown category \{\}"
    ),
    "image missing": Broken(
        coco, change(lambda c: c["images"][0].update(file_name="gone.jpg")), r"'gone\.jpg' is not in .*train2017"
    ),
    "no box at all": Broken(
        coco, change(lambda c: c.update(annotations=[])), r"none of the 8 labeled images of .* has a box"
    ),
    "only images in the folder": Broken(
        coco, lambda folder: remove("annotations")(folder) or folder, r"holds no annotations"
    ),
    "unknown subset": Broken(coco, root, r"has no \*\.json of 'minival'; it has instances_", ("--subset", "minival")),
    "subset of a file": Broken(coco, nothing, r"train2017\.json is one file without parts", ("--subset", "val")),
    "read as YOLO": Broken(coco, nothing, r"is not a YOLO data set: it has no key 'names'", ("--format", "yolo")),
    "read as CrowdHuman": Broken(coco, nothing, r"line 1 has to be a JSON object", ("--format", "crowdhuman")),
}

LABELED = {
    f"{kind}: {name}": case
    for kind, cases in (("voc", VOC), ("yolo", YOLO), ("crowdhuman", CROWDHUMAN), ("coco", COCO))
    for name, case in cases.items()
}

SEEN_IN_TRAINING = {
    "size of another image": Broken(
        voc, text(XML, "<width>64", "<width>63"), r"000001\.jpg has 64 x 88 pixels, but its annotation says 63 x 88"
    ),
    "image without content": Broken(voc, write("JPEGImages/000001.jpg", ""), r"000001\.jpg can't be read as an image"),
    "image cut off": Broken(
        coco, cut("train2017/000000000046.jpg"), r"000000000046\.jpg is damaged and can't be decoded"
    ),
}
"""What no header is read for: found out when the image is."""

UNLABELED = {
    "nothing there": Broken(shards, named("gone"), r"there is no folder or file .*gone with unlabeled images"),
    "shard cut off": Broken(shards, cut("shard-000000.tar"), r"shard-000000\.tar .*(cut off|unexpected end)"),
    "shard compressed": Broken(shards, compress, r"x\.tar\.gz can't be read as an uncompressed tar file"),
    "folder without images": Broken(shards, remove("shard-000000.tar"), r"holds no images .* and no \.tar files"),
    "pattern of nothing": Broken(shards, named("*.zip"), r"\*\.zip must name images, .* and it names 0 other files"),
    "image that is a pipe": Broken(shards, pipe("b.png"), r"b\.png is a pipe, a device or a socket"),
    "list with a missing file": Broken(
        shards, a_list("a.png\n"), r"list\.txt, line 1: there is no image file .*a\.png"
    ),
    "empty list": Broken(shards, a_list("# none\n"), r"list\.txt names no images"),
    "list of no text": Broken(shards, a_list(b"\xff\xfe\0"), r"list\.txt is not a text list of images"),
    "list that leaves its folder": Broken(shards, a_list("../a.png"), r"list\.txt, line 1: '\.\./a\.png' leaves"),
    "set with a missing image": Broken(
        voc,
        lambda folder: remove("JPEGImages/000003.jpg")(folder) or folder / SET,
        r"trainval\.txt names the image '000003'",
    ),
    "JSON without images": Broken(
        coco, lambda folder: write("i.json", "{}")(folder) or folder / "i.json", r"i\.json is not a COCO image info"
    ),
    "image without content": Broken(shards, write("b.png", ""), r"b\.png can't be read as an image"),
}


def assert_refused(call, tmp_path, arguments, says):
    """Returns the lines on stderr."""
    code, out, err = call("train", "custom", *arguments, "--output", tmp_path / "run", *SETS)
    assert code == 2, out + err
    assert re.search(says, " ".join(err.replace("│", " ").split())), err
    assert "Traceback" not in err
    return err.strip().splitlines()


@pytest.mark.parametrize("case", LABELED)
def test_broken_labels_are_one_sentence(call, tmp_path, case):
    make, spoil, says, options = LABELED[case]
    path, folder = make(tmp_path / "data")
    path = spoil(folder) or path
    unlabeled = write_unlabeled(tmp_path / "unlabeled", count=2)
    lines = assert_refused(call, tmp_path, ["--labeled", path, "--unlabeled", unlabeled, *options], says)
    assert len(lines) == 1 or case == "voc: unknown format"  # the parser's own has a frame
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("case", SEEN_IN_TRAINING)
def test_images_that_are_not_what_they_seem(call, tmp_path, case):
    make, spoil, says, _ = SEEN_IN_TRAINING[case]
    path, folder = make(tmp_path / "data")
    spoil(folder)
    unlabeled = write_unlabeled(tmp_path / "unlabeled", count=2)
    lines = assert_refused(call, tmp_path, ["--labeled", path, "--unlabeled", unlabeled], says)
    assert lines[-1].startswith("denseteacher: ")


@pytest.mark.parametrize("case", UNLABELED)
def test_broken_unlabeled_sources_are_one_sentence(call, tmp_path, case):
    make, spoil, says, _ = UNLABELED[case]
    path, folder = make(tmp_path / "data")
    path = spoil(folder) or path
    lines = assert_refused(call, tmp_path, ["--labeled", write_yolo(tmp_path / "yolo"), "--unlabeled", path], says)
    assert len(lines) == 1
    assert not (tmp_path / "run").exists()


def test_validation_with_other_classes_is_refused(call, tmp_path):
    labeled, val = write_yolo(tmp_path / "labeled"), write_yolo(tmp_path / "val")
    val.write_text(val.read_text().replace("2: dog", "2: cat"))
    arguments = ["--labeled", labeled, "--unlabeled", tmp_path / "labeled" / "images", "--val", val]
    assert_refused(
        call, tmp_path, arguments, r"val/data\.yaml has other categories .*: cat; known are car, dog, person"
    )


@pytest.mark.parametrize("names", ["{2: dog, 0: person, 1: car}", "{'0': person, '1': car, '2': dog}"])
def test_what_only_looks_broken_trains(call, tmp_path, names):
    """Names by number in any order, or as texts; a byte order mark; the folder of the YAML named."""
    path = write_yolo(tmp_path / "data")
    path.write_text(f"\ufefftrain: images/train\r\nval: images/val\r\nnames: {names}\r\nnc: 3\r\n")
    code, _, err = call(
        "train", "custom", "--labeled", path.parent, "--unlabeled", tmp_path / "data" / "images" / "val",
        "--output", tmp_path / "run", *SETS, "--set", "schedule.max_steps=3",
    )  # fmt: skip
    assert code == 0, err
