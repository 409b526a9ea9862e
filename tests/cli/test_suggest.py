"""``denseteacher suggest`` on a run of a few steps: what it writes, what it leaves out, and what it refuses."""

import html
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image
from torchvision.ops import nms

import denseteacher
from conftest import paint, write_coco
from denseteacher.data.formats import AnnotationSource, read_labeled
from denseteacher.runs.folder import RunFolder
from support.finished_runs import trained


@pytest.fixture(scope="module")
def run(tmp_path_factory, coco, unlabeled):
    return trained(tmp_path_factory.mktemp("suggest") / "run", coco, unlabeled)


@pytest.fixture
def pool(tmp_path, unlabeled):
    folder = tmp_path / "pool"
    shutil.copytree(unlabeled, folder)
    return folder


def picked(folder):
    return json.loads((folder / "suggested.json").read_text())


def test_it_writes_a_list_a_page_and_drafts(run, coco, pool, call, tmp_path):
    out = tmp_path / "out"
    code, printed, err = call(
        "suggest", run, pool, coco.parent / "images", "--count", "4", "--to", "coco", "--score", "0", "--output", out
    )
    assert code == 0, err
    assert "4 of 6 images; 12 images left out, labeled already" in printed
    assert err == ""
    found = picked(out)
    files = [pick["file"] for pick in found["picks"]]
    assert (out / "suggested.txt").read_text().splitlines() == files
    assert len(set(files)) == 4
    assert set(files) <= {str(file) for file in pool.iterdir()}
    assert (found["pool"], found["left_out"], found["notes"]) == (6, 12, [])
    for pick in found["picks"]:
        shares = {reason["part"]: reason["share"] for reason in pick["reasons"]}
        assert {"student", "mirror", "entropy"} <= set(shares)
        assert pick["score"] == pytest.approx(sum(shares.values()) / 4)
        assert list(shares.values()) == sorted(shares.values(), reverse=True)
        assert 0 <= pick["distance"] < 2  # there are labeled images
    # the list is one that predict and label take, and the drafts are data to correct
    drafts = read_labeled(AnnotationSource(out / "drafts" / "annotations.json"))
    assert [str(image.path.resolve()) for image in drafts.images] == files
    assert sum(map(len, drafts.boxes)) == sum(len(pick["draft"]["labels"]) for pick in found["picks"]) > 0
    code, _, err = call("label", run, out / "suggested.txt", "--to", "yolo", "--output", tmp_path / "labels")
    assert code == 0, err


def test_the_page_needs_nothing_from_outside(run, pool, tmp_path):
    found = denseteacher.suggest(run, pool, output=tmp_path / "out", count=3, score=0.0)
    page = found.page.read_text()
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<figure>") == 3
    for pick in found.picks:
        assert pick.record.path.name in page
        assert all(html.escape(reason.text).replace("&#x27;", "&#39;") in page for reason in pick.reasons)
        assert pick.novelty in page
    surest = [nms(pick.draft.boxes, pick.draft.scores, 0.5) for pick in found.picks]
    assert sum(map(len, surest)) < sum(len(pick.draft.scores) for pick in found.picks)  # one of them at a place
    assert page.count('<g class="box detection">') == sum(min(30, len(kept)) for kept in surest) > 0
    assert not (tmp_path / "out" / "drafts").exists()


def test_a_copy_of_a_labeled_image_is_left_out(run, coco, pool, tmp_path):
    shutil.copy(coco.parent / "images" / "005.png", pool / "renamed.png")
    (pool / "link.png").symlink_to(coco.parent / "images" / "007.png")
    found = denseteacher.suggest(run, pool, output=tmp_path / "out", count=8)
    assert (found.pool, found.left_out) == (6, 2)
    assert not {"renamed.png", "link.png"} & {pick.record.path.name for pick in found.picks}
    assert found.notes == ["--count 8 was asked for, and the pool has 6 images to choose from"]


@pytest.mark.parametrize("alone", [False, True])
def test_of_frames_of_a_video_one_is_chosen(run, tmp_path, alone):
    rng = np.random.default_rng(3)
    pool = tmp_path / "pool"
    pool.mkdir()
    for video in range(3):
        pixels, _ = paint(rng, 80, 64, 3)
        for frame in range(4):
            noise = rng.integers(-1, 2, pixels.shape)
            Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(pool / f"video{video}_{frame}.png")
    source = run / "detector.safetensors" if alone else run
    found = denseteacher.suggest(source, pool, output=tmp_path / "out", count=3)
    assert {pick.record.path.name[:6] for pick in found.picks} == {"video0", "video1", "video2"}


def test_a_detector_file_alone_is_enough(run, pool, call, tmp_path):
    out = tmp_path / "out"
    code, _, err = call("suggest", run / "detector.safetensors", pool, "--count", "2", "--output", out)
    assert code == 0, err
    assert "is a detector without its run: its student and its labeled images are not known" in err
    found = picked(out)
    assert found["picks"][0]["distance"] == 2
    assert "nothing that it could be like" in found["picks"][0]["novelty"]
    assert all(reason["part"] != "student" for pick in found["picks"] for reason in pick["reasons"])
    assert "is a detector without its run" in (out / "suggested.html").read_text()


def test_a_run_without_its_student_says_so(run, pool, call, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    RunFolder(copied).last_student.unlink()
    code, _, err = call("suggest", copied, pool, "--count", "2", "--output", tmp_path / "out")
    assert code == 0, err
    assert "last_student.safetensors is not there, so teacher and student are not compared" in err


def test_a_run_that_never_mirrors_is_not_asked_about_mirror_images(run, pool, tmp_path):
    copied = RunFolder(shutil.copytree(run, tmp_path / "run"))
    text = copied.recipe_file.read_text()
    assert text.count("flip: 0.5") == 1
    copied.recipe_file.write_text(text.replace("flip: 0.5", "flip: 0.0"))
    found = denseteacher.suggest(copied.path, pool, output=tmp_path / "out", count=2)
    assert "mirror" not in {reason.part for pick in found.picks for reason in pick.reasons}
    assert found.notes == ["augment.weak.flip of the run is 0, so images are not compared with their mirror images"]


def test_damaged_images_are_named_and_passed_over(run, pool, call, tmp_path):
    (pool / "2.png").write_bytes((pool / "2.png").read_bytes()[:300])
    code, out, err = call("suggest", run, pool, "--count", "9", "--output", tmp_path / "out")
    assert code == 1
    assert "2.png is damaged" in err
    assert "1 image could not be read; all others are done" in err
    assert "5 of 5 images" in out
    for file in pool.iterdir():
        file.write_text("no image")
    code, _, err = call("suggest", run, pool, "--output", tmp_path / "none")
    assert code == 2
    assert "none of the images of the pool can be read; the first: " in err
    assert not (tmp_path / "none").exists()


def test_what_is_wrong_is_one_sentence(run, coco, pool, call, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    images = coco.parent / "images"
    for arguments, sentence in {
        (tmp_path / "no run", pool): "there is no detector file",
        (tmp_path / "empty", pool): "holds no detector.safetensors: it is not a finished run",
        (run, tmp_path / "nothing"): "there are no images at",
        (run, images): "all 12 images of the pool are labeled in",
        (run, pool, "--output", tmp_path / "full"): "is not empty: choose another --output; nothing was changed",
        (run, pool, "--count", "0"): "--count",
        (run, pool, "--to", "csv"): "--to",
    }.items():
        given = () if "--output" in arguments else ("--output", tmp_path / "out")
        code, _, err = call("suggest", *arguments, *given)
        assert code == 2
        assert sentence in err
        assert "Traceback" not in err
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "full" / "mine.txt").read_text() == "mine"
    with pytest.raises(denseteacher.errors.InputError, match="--count is the number of images"):
        denseteacher.suggest(run, pool, output=tmp_path / "out", count=0)


def test_labels_that_were_moved_or_have_other_classes_now_are_named(run, coco, pool, call, tmp_path):
    data = write_coco(tmp_path / "data", 6)
    copied = RunFolder(shutil.copytree(run, tmp_path / "run"))
    copied.recipe_file.write_text(copied.recipe_file.read_text().replace(str(coco), str(data)))
    content = json.loads(data.read_text())
    content["categories"][0]["name"] = "crimson"
    data.write_text(json.dumps(content))
    code, _, err = call("suggest", copied, pool, "--output", tmp_path / "out")
    assert code == 2
    assert "have other classes than its detector now: crimson, green, blue" in err
    data.unlink()
    code, _, err = call("suggest", copied, pool, "--output", tmp_path / "out")
    assert code == 2
    assert str(data) in err
    assert "Traceback" not in err
