"""Whether unlabeled images are like the labeled ones: on made-up features, and on real images through the command."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from check.conftest import OPTIONS
from denseteacher.check import pool
from denseteacher.check.pool import compare_features, compare_pool
from denseteacher.data.records import ImageRecord
from denseteacher.detectors import FCOSConfig

DATA = Path(__file__).parents[3] / "shared" / "data"


WEIGHTS = Path(__file__).parents[3] / "weights" / "mobilenetv2_100.safetensors"
needs_images = pytest.mark.skipif(
    not DATA.is_dir() or not WEIGHTS.is_file(), reason="needs ../shared/data and ../weights"
)


def records(count):
    return [ImageRecord(number, Path(f"{number}.png"), 8, 8) for number in range(count)]


def directions(rng, count, *, around=0.0, size=12):
    """Features of length 1."""
    rows = rng.normal(around, 1, (count, size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(6))
def test_images_of_the_same_kind_are_not_far(seed):
    rng = np.random.default_rng(seed)
    found = compare_features(directions(rng, 60), directions(rng, 80), records(80))
    assert found.findings() == []
    assert 0.8 < found.ratio < 1.2
    assert found.p_value > 0.01


@pytest.mark.parametrize("seed", range(3))
def test_another_kind_is_far_and_a_few_strange_ones_are_the_farthest(seed):
    rng = np.random.default_rng(seed)
    own, others = directions(rng, 60, around=1.5), directions(rng, 80, around=1.5)
    alien = -directions(rng, 80, around=1.5)
    (warning,) = compare_features(own, alien, records(80)).findings()
    assert (warning.severity, warning.subset, warning.count) == ("warning", "unlabeled", 80)
    mixed = np.concatenate([others[:40], alien[:16], others[56:]])
    found = compare_features(own, mixed, records(80))
    assert {one.record.id for one in found.farthest} < set(range(40, 56))
    assert found.strange >= 16
    assert found.strange_p_value <= 0.01
    (warning,) = found.findings()
    assert warning.count in (found.strange, 80)
    assert "times as far" in warning.examples[0]


@pytest.mark.parametrize("seed", range(3))
def test_the_ratio_is_that_of_counting_by_hand(seed):
    rng = np.random.default_rng(seed)
    own, others = directions(rng, 7), directions(rng, 5)
    among = [min(np.linalg.norm(one - other) for k, other in enumerate(own) if k != i) for i, one in enumerate(own)]
    to_own = [min(np.linalg.norm(one - other) for other in own) for one in others]
    found = compare_features(own, others, records(5))
    assert found.ratio == pytest.approx(np.mean(to_own) / np.mean(among))
    order = np.argsort(to_own)[::-1]
    assert [one.record.id for one in found.farthest] == order.tolist()
    assert found.farthest[0].distance == pytest.approx(max(to_own) / np.mean(among))
    assert found.strange == sum(one > max(among) for one in to_own)


def test_copies_of_one_image_have_no_distance_to_divide_by():
    same = np.tile(directions(np.random.default_rng(0), 1), (6, 1))
    assert np.isfinite(compare_features(same, same[:2], records(2)).ratio)


def test_what_is_not_compared_says_why(monkeypatch, tmp_path):
    images = records(8)
    config = FCOSConfig(backbone="test_byobnet", pretrained=True, levels=(3, 5))
    monkeypatch.setattr(pool, "try_to_load_from_cache", lambda *_: None)
    for wanted, labeled, reason in (
        (config, images, "are not on this machine; --pool fetches them"),
        (config.model_copy(update={"pretrained": False}), images, "detector.pretrained is false"),
        (config.model_copy(update={"pretrained": str(tmp_path / "none")}), images, "there is no file"),
        (config, images[:3], "3 labeled images are too few"),
    ):
        found = compare_pool(wanted, labeled, images)
        assert reason in found.sentence
        assert found.findings() == []
        assert found.content()["ratio"] is None


def check_masks(call, folder, alien, *options):
    """Checks 40 labeled images of masks with 40 others as the pool, of which some are replaced by blood cells."""
    content = json.loads((DATA / "masks" / "annotations" / "custom_train.json").read_text())
    content["images"] = content["images"][:80]
    used, rest = content["images"][::2], content["images"][1::2]
    ids = {image["id"] for image in used}
    content |= {"images": used, "annotations": [one for one in content["annotations"] if one["image_id"] in ids]}
    (folder / "labeled.json").write_text(json.dumps(content))
    (folder / "pool").mkdir()
    for image in rest[alien:]:
        shutil.copy(DATA / "masks" / "train2017" / image["file_name"], folder / "pool")
    for file in sorted((DATA / "bccd" / "JPEGImages").iterdir())[:alien]:
        shutil.copy(file, folder / "pool")
    sets = [
        part
        for option in (*OPTIONS, "detector.backbone=mobilenetv2_100", f"detector.pretrained={WEIGHTS}")
        for part in ("--set", option)
    ]
    return call(
        "check", folder / "labeled.json", "--images", DATA / "masks" / "train2017", "--unlabeled", folder / "pool",
        *sets, *options,
    )  # fmt: skip


@needs_images
@pytest.mark.usefixtures("no_memory")
def test_masks_among_masks_are_no_reason_to_warn(call, tmp_path):
    _, out, err = check_masks(call, tmp_path, 0)
    assert re.search(r"Unlabeled images are [01]\.\d\d times as far .* 40 and 40 images", out), err
    assert "unlike" not in out


@needs_images
@pytest.mark.usefixtures("no_memory")
def test_blood_cells_among_masks_are_found_and_shown(call, tmp_path):
    page, file = tmp_path / "check.html", tmp_path / "check.json"
    _, out, _ = check_masks(call, tmp_path, 12, "--html", page, "--json", file)
    farthest = json.loads(file.read_text())["pool"]["farthest"]
    assert all("BloodImage" in one["file"] for one in farthest), farthest
    assert re.search(r"warning\s+unlabeled images? .*unlike", out)
    text = page.read_text()
    for title in ("Objects by class", "Size of the boxes", "Place of the boxes", "Boxes an image", "BloodImage"):
        assert title in text
    assert text.count("data:image/jpeg") == len(farthest)
    assert "://" not in text.replace("http://www.w3.org", "")


@pytest.mark.usefixtures("no_memory")
def test_a_page_of_clean_data(planted, call, tmp_path):
    page = tmp_path / "check.html"
    code, out, err = call(*planted.arguments("--html", page))
    assert code == 0, err
    assert f"Page: {page}" in out
    text = page.read_text()
    assert "Nothing wrong was found." in text
    assert "Unlabeled images were not compared with labeled ones" in text
    assert "<td>violet</td>" not in text
    assert "<td>green</td>" in text
    _, out, _ = call(*planted.arguments("--no-pool"))
    assert "compared" not in out
