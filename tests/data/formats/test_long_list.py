"""Text lists that are too long to open every image before a run."""

import json
import pickle
import re
from itertools import chain

import numpy as np
import pytest

from conftest import TINY
from denseteacher.data.formats import long_list, open_unlabeled, read_unlabeled
from denseteacher.data.formats.long_list import LONG_LIST, LongList
from denseteacher.data.loading.samplers import LookingSampler
from denseteacher.data.records import JoinedImages
from denseteacher.data.splits import Split, read_split_sizes, write_split_ids
from denseteacher.errors import InputError
from support.published_datasets import write_tar_shards

ODD = "\ufeff# a comment\r\n\n 0.png\r\n\t\n1.png\n   \n#no\n  # neither\n1.png  \r\n\r\n2.png\n\n\n3.png\n5.png"


def lines_of(text):
    """(number, name) of the lines that name an image, read by other means."""
    numbered = enumerate(text.removeprefix("\ufeff").split("\n"), 1)
    return [(number, line.strip()) for number, line in numbered if re.match(r"\s*[^\s#]", line)]


@pytest.fixture
def long(unlabeled, tmp_path):
    """A long list of six images, written as a user would."""
    path = tmp_path / "long.txt"
    path.write_text("# six\n" + "\n".join(f"{unlabeled}/{number % 6}.png" for number in range(LONG_LIST)))
    return path


@pytest.mark.parametrize("block", [1, 7, 30, 2**22])
@pytest.mark.parametrize("text", [ODD, ODD.replace("\r", ""), ODD * 30, "\n" * 200 + ODD * 9 + "\n#" * 300, "0.png"])
def test_every_line_is_found_whatever_lies_between(tmp_path, monkeypatch, block, text):
    monkeypatch.setattr(long_list, "_BLOCK", block)
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode())
    found = LongList(path, tmp_path)
    expected = lines_of(text)
    assert len(found) == len(expected)
    lines = [found._line(position) for position in range(len(found))]
    assert [(number, line.decode()) for number, line in lines] == expected


def test_a_long_list_names_the_images_that_a_short_one_does(long, unlabeled, tmp_path):
    found = open_unlabeled(long)
    assert isinstance(found, LongList)
    short = tmp_path / "short.txt"
    short.write_text("\n".join(f"{number}.png" for number in range(6)))
    assert isinstance(open_unlabeled(short, unlabeled), list)
    assert found[:6] == open_unlabeled(short, unlabeled) == read_unlabeled(short, unlabeled)
    assert LongList(short, unlabeled)[:] == found[:6]
    assert found[-1].id == len(found) == LONG_LIST
    assert found[-1].path == unlabeled / f"{(LONG_LIST - 1) % 6}.png"
    with pytest.raises(IndexError):
        found[LONG_LIST]
    copied = pickle.dumps(found)
    assert len(copied) < LONG_LIST
    assert pickle.loads(copied)[777] == found[777]


def test_wrong_lines_are_named_when_they_are_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(long_list, "_BLOCK", 1)  # the first lines are not looked at closely
    path = tmp_path / "list.txt"
    path.write_bytes(b"missing.png\n\n../a.png\n\xff.png\nlist.txt\n")
    found = LongList(path, tmp_path)
    messages = (
        r"list\.txt, line 1: there is no image file .*missing\.png",
        r"list\.txt, line 3: '\.\./a\.png' leaves the image folder: write its absolute path",
        r"list\.txt, line 4 is not UTF-8 text",
        r"list\.txt, line 5: .* can't be read as an image",
    )
    for position, message in enumerate(messages):
        with pytest.raises(InputError, match=message):
            found[position]
    path.write_bytes(bytes(range(256)) * 1000)
    with pytest.raises(InputError, match="is not a text list of images"):
        open_unlabeled(path)


def test_images_of_the_wanted_orientation_are_looked_for(long):
    images = open_unlabeled(long)  # every second one is portrait
    sampler, samples = LookingSampler(images, 8, seed=3), range(8)
    drawn = {
        portrait: [sampler.positions(step, samples, portrait=portrait) for step in range(60)] for portrait in (0, 1)
    }
    for portrait, steps in drawn.items():
        assert all(images[one].height > images[one].width for one in chain(*steps)) == bool(portrait)
    positions = np.concatenate(drawn[1])
    assert abs(positions.mean() / LONG_LIST - 0.5) < 5 * (12 * len(positions)) ** -0.5  # uniform over the list
    assert len(set(positions.tolist())) > 0.99 * len(positions)
    again = LookingSampler(images, 8, seed=3)
    assert again.positions(7, range(4, 8), portrait=True) == drawn[1][7][4:]
    assert LookingSampler(images, 8, seed=4).positions(7, samples, portrait=True) != drawn[1][7]
    freely = [sampler.positions(step, samples, portrait=None) for step in range(60)]
    assert freely == [sampler.candidates(step)[:, 0].tolist() for step in range(60)]
    assert 0.4 < np.mean([images[one].height > images[one].width for one in chain(*freely)]) < 0.6


def test_where_no_image_has_the_orientation_a_few_are_looked_at(unlabeled, tmp_path, monkeypatch):
    path = tmp_path / "landscape.txt"
    path.write_text("0.png\n" * 1000)
    images, opened = LongList(path, unlabeled), []
    original = images.record
    monkeypatch.setattr(images, "record", lambda position: (opened.append(position), original(position))[1])
    positions = LookingSampler(images, 4, seed=0).positions(0, range(4), portrait=True)
    assert len(positions) == 4
    assert len(opened) == 4 * LookingSampler.LOOKS


def test_a_long_list_beside_other_places(long, unlabeled, tmp_path):
    shards = write_tar_shards(tmp_path / "tar")
    joined = JoinedImages([read_unlabeled(shards), open_unlabeled(long)])
    assert len(joined) == 6 + LONG_LIST
    assert joined.ids == range(1, 7 + LONG_LIST)
    assert [joined[position].id for position in (0, 5, 6, len(joined) - 1)] == [1, 6, 7, len(joined)]
    assert joined[5].path.suffix == ".tar"
    assert joined[6].path == unlabeled / "0.png"


def test_ids_that_nobody_lists(tmp_path):
    split = Split([4, 9], range(1, 10**7 + 1), "all")
    write_split_ids(split, tmp_path / "split.json")
    assert (tmp_path / "split.json").stat().st_size < 1000
    assert read_split_sizes(tmp_path / "split.json") == (2, 10**7)
    assert split.digest != split._replace(unlabeled_ids=range(1, 10**7)).digest


def test_a_run_on_a_long_list(call, coco, long, tmp_path):
    options = [part for one in [*TINY, "method.burn_in=2", "method.ramp=2"] for part in ("--set", one)]
    code, out, err = call("check", coco, "--unlabeled", long, *options)
    assert code == 0, err + out
    assert f"1,000 of {LONG_LIST:,} images were looked at" in out
    assert f"{LONG_LIST:,} unlabeled" in out
    code, _, err = call(
        "train", "custom", "--labeled", coco, "--unlabeled", long, "--output", tmp_path / "run", *options
    )
    assert code == 0, err
    assert json.loads((tmp_path / "run" / "split.json").read_text())["unlabeled_ids"] == {"first": 1, "last": LONG_LIST}
    assert f"{LONG_LIST:,}" in (tmp_path / "run" / "report.html").read_text()
