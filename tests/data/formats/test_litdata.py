"""Unlabeled images in a LitData data set: writing, reading, draws that need few chunks, runs that stop and go on."""

import builtins
import json
import pickle
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import denseteacher
from denseteacher.data.formats import litdata as streams
from denseteacher.data.formats import open_unlabeled, read_unlabeled
from denseteacher.data.formats.litdata import StreamedImages, write_stream
from denseteacher.data.formats.long_list import LONG_LIST
from denseteacher.data.images import load_image
from denseteacher.data.loading.samplers import WindowSampler
from denseteacher.data.loading.steps import step_loader
from denseteacher.data.open import open_data
from denseteacher.data.records import UnopenedImages
from denseteacher.errors import InputError
from denseteacher.recipes.schema import load_recipe
from denseteacher.runs.build import build_steps
from support import assert_same, last_state, stop_after

pytest.importorskip("litdata")
IMAGES = 90
DENSE = ["method.burn_in=3", "method.ramp=2", "method.ratio=0.1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of both orientations, some stored on their side, of formats and color modes as they come."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        size = (48, 64) if number % 3 else (64, 40)
        image = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        name = folder / f"{number:03d}.{('png', 'jpg', 'webp')[number % 3 if number % 5 else 0]}"
        exif = Image.Exif()
        exif[0x0112] = 6 if number % 7 == 0 else 1
        (image.convert("L") if number % 4 == 0 else image).save(name, exif=exif)
    return folder


@pytest.fixture(scope="module")
def stream(folder, tmp_path_factory):
    """The same images in some thirty chunks."""
    output = tmp_path_factory.mktemp("stream") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "_CHUNK_BYTES", 12_000)
        assert write_stream(read_unlabeled(folder), output) == (IMAGES, [])
    return output


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("litdata.utilities.dataset_utilities._LITDATA_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture(params=["folder", "url"])
def place(request, stream):
    """Where the data set is: on a disk, or to be downloaded first."""
    return stream if request.param == "folder" else f"local:{stream}"


def cached(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.bin"))


def test_the_images_are_those_of_the_folder(folder, place):
    images = open_unlabeled(place)
    assert isinstance(images, StreamedImages)
    assert len(images) == IMAGES
    own = {record.name: record for record in read_unlabeled(folder)}
    for position in range(IMAGES):
        record = images[position]
        assert record.id == position + 1
        original = own.pop(record.name.split(" (")[1].rstrip(")"))
        assert record.name.startswith(f"{place}, image {position + 1} (")
        assert (record.width, record.height) == (original.width, original.height)
        assert torch.equal(load_image(record), load_image(original))
    assert not own


def test_only_the_chunks_that_are_wanted_are_downloaded(stream, place, tmp_path):
    images = StreamedImages(place)
    before = len(cached(tmp_path))
    assert before <= 1
    positions = [one for chunk in (5, 9) for one in images.positions_in(chunk)]
    for position in positions:
        images[position]
    assert len(cached(tmp_path)) - before == (2 if isinstance(place, str) else 0)
    assert len({images.spread(10)[0], *images.spread(10)}) == 10


def test_a_full_disk_costs_the_oldest_chunks(stream, tmp_path, monkeypatch):
    images = StreamedImages(f"local:{stream}")
    monkeypatch.setattr(streams.shutil, "disk_usage", lambda _: SimpleNamespace(free=30_000))
    for position in range(IMAGES):
        images[position]
    sizes = [file.stat().st_size for file in cached(tmp_path)]
    assert 0 < sum(sizes) <= 0.75 * (sum(sizes) + 30_000) + max(sizes)
    assert images[0].id == 1  # downloaded again


def test_an_epoch_has_every_image_and_few_chunks_at_a_time(stream):
    images = StreamedImages(stream)
    sampler = WindowSampler(images, 6, seed=1)
    epoch = [sampler.candidates(step) for step in range(IMAGES // 6)]
    assert sorted(np.concatenate(epoch)[:, 0].tolist()) == list(range(IMAGES))
    chunks = np.searchsorted(np.cumsum(images.chunk_sizes), np.arange(IMAGES), side="right")
    assert len(images.chunk_sizes) > 1.5 * WindowSampler.WINDOW
    assert len(np.unique(chunks[np.concatenate(epoch[:5])])) <= WindowSampler.WINDOW
    later = [sampler.candidates(step)[:, 0] for step in range(IMAGES // 6, IMAGES // 3)]
    assert sorted(np.concatenate(later).tolist()) == list(range(IMAGES))
    assert not np.array_equal(np.concatenate(later), np.concatenate(epoch)[:, 0])
    again = WindowSampler(images, 6, seed=1)
    assert again.positions(9, range(3, 6), portrait=True) == sampler.positions(9, range(6), portrait=True)[3:]
    for portrait in (True, False):
        drawn = [images[one] for step in range(15) for one in sampler.positions(step, range(6), portrait=portrait)]
        assert np.mean([(image.height > image.width) == portrait for image in drawn]) > 0.97


def test_loader_processes_fetch_the_next_window_ahead(stream, tmp_path, monkeypatch):
    images = StreamedImages(f"local:{stream}")
    sampler = WindowSampler(images, 6, seed=1)
    sampler.positions(0, range(6), portrait=True)
    assert images._ahead is None  # here processes may be forked
    monkeypatch.setattr(streams, "get_worker_info", lambda: True)
    sampler.positions(1, range(6), portrait=True)
    assert images._ahead is None  # the same window
    worker = WindowSampler(images, 6, seed=1)
    worker.positions(0, range(6), portrait=True)
    images._ahead.join()
    assert (
        0 <= len(cached(tmp_path)) - 2 * WindowSampler.WINDOW <= 1
    )  # and the one of the image that was looked at first
    assert len(images.chunk_sizes) > 2 * WindowSampler.WINDOW + 1
    assert pickle.loads(pickle.dumps(images))._ahead is None


@pytest.mark.parametrize("source", ["long list", "folder", "url"])
def test_loader_processes_do_not_change_the_bytes(source, coco, tiny, folder, stream, tmp_path):
    """Nor does another kind of process, which gets the data set pickled."""
    place = {"long list": tmp_path / "list.txt", "folder": stream, "url": f"local:{stream}"}[source]
    if source == "long list":
        files = [str(file) for file in sorted(folder.iterdir())]
        place.write_text("\n".join(files[number % IMAGES] for number in range(LONG_LIST)))
    recipe = load_recipe("custom", [*tiny, *DENSE, f"data.labeled={coco}", f"data.unlabeled={place}"])
    data = open_data(recipe.data)
    assert isinstance(data.unlabeled, UnopenedImages)
    dataset = build_steps(recipe, data)
    whole = [list(step_loader(dataset, range(12), workers=count, pin_memory=False)) for count in (0, 2)]
    copied = pickle.loads(pickle.dumps(dataset))
    for alone, together in zip(*whole, strict=True):
        for other in (together, copied[alone.step]):
            assert alone.files == other.files
            assert (alone.unlabeled is None) == (other.unlabeled is None) == (alone.step <= 3)
            if alone.unlabeled is not None:
                assert torch.equal(alone.unlabeled.weak.pixels, other.unlabeled.weak.pixels)
                assert torch.equal(alone.unlabeled.positions, other.unlabeled.positions)
    halves = [build_steps(recipe, data, rank, 2)[7] for rank in (0, 1)]
    positions = [half.unlabeled.positions.item() for half in halves]
    assert positions == whole[0][7].unlabeled.positions.tolist()


def test_a_run_that_was_stopped_goes_on_bit_for_bit(coco, tiny, place, tmp_path, monkeypatch):
    def run(name, *overrides, **options):
        overrides = [*tiny, *DENSE, *overrides]
        return denseteacher.train(
            "custom", labeled=coco, unlabeled=place, output=tmp_path / name, overrides=overrides, **options
        )

    whole = run("whole")
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        assert run("part").step == 5
    for file in cached(tmp_path):
        file.unlink()
    resumed = run("part", "runtime.workers=2", resume=True)
    assert_same(last_state(whole.folder), last_state(resumed.folder))
    assert json.loads((whole.folder / "split.json").read_text())["unlabeled_ids"] == {"first": 1, "last": IMAGES}


def test_from_the_command_line(call, coco, folder, tiny, tmp_path):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    code, out, err = call("stream", folder, tmp_path / "broken", "--output", tmp_path / "stream")
    assert code == 0, err
    assert f"{IMAGES} images" in out
    assert "passed over" in err
    assert "a.png" in err
    code, _, err = call("stream", tmp_path / "broken", "--output", tmp_path / "none")
    assert code == 2
    assert "none of the images can be read" in err
    code, _, err = call("stream", folder, "--output", tmp_path / "stream")
    assert code == 2
    assert "is not empty" in err
    options = [part for one in [*tiny, *DENSE] for part in ("--set", one)]
    for place in (tmp_path / "stream", f"local:{tmp_path / 'stream'}"):
        code, out, err = call("check", coco, "--unlabeled", place, *options)
        assert code == 0, err + out
        assert f"{IMAGES} unlabeled" in out


def test_what_is_no_data_set_of_images_is_one_sentence(call, coco, stream, folder, tmp_path, monkeypatch):
    from litdata.streaming import Cache

    def refused(*places):
        unlabeled = [part for place in places for part in ("--unlabeled", place)]
        code, _, err = call("train", "custom", "--labeled", coco, *unlabeled, "--output", tmp_path / "run")
        assert code == 2
        assert len(err.strip().splitlines()) == 1
        return err

    writer = Cache(str(tmp_path / "numbers"), chunk_bytes=1000)
    for number in range(10):
        writer[number] = number
    writer.done()
    writer.merge()
    assert "numbers, image 1 is not an image file's bytes" in refused(tmp_path / "numbers")
    assert "as a LitData data set, can't be read" in refused(f"local:{tmp_path}/none")
    assert "goes with no other unlabeled images" in refused(stream, folder)
    (tmp_path / "broken").mkdir()
    for name in ("index.json", "chunk-0-0.bin"):
        (tmp_path / "broken" / name).write_text("{}")
    assert "as a LitData data set, can't be read" in refused(tmp_path / "broken")
    original = builtins.__import__

    def without(name, *arguments, **options):
        if name.split(".")[0] == "litdata":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert "pip install 'dense-teacher[streaming]'" in refused(stream)
    code, _, err = call("stream", folder, "--output", tmp_path / "new")
    assert code == 2
    assert "pip install 'dense-teacher[streaming]'" in err


@pytest.mark.parametrize("kind", ["pickle", "graph", "graph:pickle"])
def test_pickled_objects_are_refused_unread(kind, stream, tmp_path, monkeypatch):
    copy = tmp_path / "hostile"
    shutil.copytree(stream, copy)
    index = json.loads((copy / "index.json").read_text())
    index["config"]["data_format"] = [kind for _ in index["config"]["data_format"]]
    (copy / "index.json").write_text(json.dumps(index))
    monkeypatch.setattr(pickle, "loads", None)
    with pytest.raises(InputError, match="holds pickled objects, which can run code"):
        StreamedImages(copy)
