"""``denseteacher analyze``: every figure from a tiny run and from detector files; wrong input in one sentence."""

import json
import shutil

import pytest
import torch
from PIL import Image

import denseteacher
from conftest import TINY
from denseteacher.detectors import DetectorCard, RetinaNet, save_detector
from support.published_datasets import write_crowdhuman

COMMON = {"figure", "summary", "detector", "data", "images"}
SHARES = {"true_positives", "right_class", "hard_negatives", "foreground_selected", "missed_objects"}
KEYS = {
    "fig2cd": COMMON | {"thresholds", "false_positives", "false_negatives", "objects", "iou", "balanced_at"},
    "fig3": COMMON | {"disagreement", "both", "truth_alone", "pseudo_alone", "other_class", "levels", "by_iou"},
    "fig4": COMMON | SHARES | {"objects_without_location", "counts", "ratio", "threshold"},
    "region": COMMON | {"steps", "burn_in", "calibration", "ratio"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory, coco):
    """Eight steps on half of the images, with a checkpoint at every second one."""
    folder = tmp_path_factory.mktemp("analyze") / "run"
    overrides = [
        *TINY,
        "data.split=seeded",
        "data.count=6",
        "method.burn_in=4",
        "method.ramp=1",
        "schedule.checkpoint_every=2",
        "schedule.keep_checkpoints=10",
        "optim.lr=0.01",
    ]
    denseteacher.train("custom", labeled=coco, val=coco, output=folder, overrides=overrides)
    return folder


@pytest.fixture(scope="module")
def retinanet(tmp_path_factory):
    torch.manual_seed(0)
    detector = RetinaNet(
        num_classes=3, backbone="test_byobnet", levels=(3, 5), channels=16, head_convs=1, anchor_scale=2.0
    )
    with torch.no_grad():
        detector.head.cls.bias += 4  # an untrained head that sees something everywhere
    file = tmp_path_factory.mktemp("retinanet") / "retinanet.safetensors"
    categories = ((2, "red"), (5, "green"), (11, "blue"))
    card = DetectorCard(detector=detector.config, categories=categories, short_side=64, max_side=96)
    save_detector(file, detector.state_dict(), card)
    return file


def read(output, figure):
    with Image.open(output / f"{figure}.png") as picture:
        picture.load()
        assert min(picture.size) > 300
    return json.loads((output / f"{figure}.json").read_text())


@pytest.mark.parametrize("figure", ["fig2cd", "fig3", "fig4", "region"])
def test_a_run_folder_needs_nothing_else(call, run, figure, tmp_path):
    code, out, err = call("analyze", figure, run, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    found = read(tmp_path / "out", figure)
    assert KEYS[figure] <= found.keys()
    assert found["images"] == 6  # those that the split left unlabeled
    assert found["summary"] in out
    assert str(tmp_path / "out" / f"{figure}.png") in out


def test_errors_are_counted_on_crowdhuman(call, tmp_path):
    """Fig. 2(d): people by their full boxes, without those to ignore."""
    torch.manual_seed(0)
    detector = RetinaNet(num_classes=1, backbone="test_byobnet", levels=(3, 5), channels=16, head_convs=1)
    card = DetectorCard(detector=detector.config, categories=((1, "person"),), short_side=64, max_side=96)
    save_detector(tmp_path / "people.safetensors", detector.state_dict(), card)
    folder = write_crowdhuman(tmp_path / "crowdhuman")
    options = ["--data", folder / "annotation_val.odgt", "--images", folder / "Images"]
    code, _, err = call("analyze", "fig2cd", tmp_path / "people.safetensors", *options, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    people = [
        box
        for line in (folder / "annotation_val.odgt").read_text().splitlines()
        for box in json.loads(line)["gtboxes"]
        if box["tag"] == "person" and not box["extra"].get("ignore")
    ]
    assert read(tmp_path / "out", "fig2cd")["objects"] == len(people) > 3


def test_the_region_is_followed_over_the_checkpoints(call, run, tmp_path):
    call("analyze", "region", run, "--output", tmp_path)
    found = read(tmp_path, "region")
    assert [one["step"] for one in found["steps"]] == [2, 4, 6, 8]
    assert found["burn_in"] == 4
    assert found["steps"][0].keys() >= SHARES
    assert found["steps"][0]["counts"]["selected"] > 0
    assert {"locations", "detections"} == found["calibration"].keys()
    assert len(found["calibration"]["locations"]["bins"]) == 10


@pytest.mark.parametrize("figure", ["fig2cd", "fig3", "fig4", "region"])
def test_a_retinanet_file_on_given_data(call, retinanet, coco, figure, tmp_path):
    ratio = ["--ratio", 0.1] if figure in ("fig4", "region") else []
    arguments = ("--data", coco, "--limit", 5, "--threshold", 0.3, *ratio, "--output", tmp_path)
    code, _, err = call("analyze", figure, retinanet, *arguments)
    assert (code, err) == (0, "")
    found = read(tmp_path, figure)
    assert KEYS[figure] <= found.keys()
    assert found["images"] == 5


def test_several_detectors_are_followed_by_their_steps(call, run, coco, tmp_path):
    files = [run / "last_teacher.safetensors", run / "last_student.safetensors"]
    code, _, err = call("analyze", "region", *files, "--data", coco, "--output", tmp_path)
    assert (code, err) == (0, "")
    assert [one["step"] for one in read(tmp_path, "region")["steps"]] == [8, 8]


def table(figure, rows, *, profile="digits"):
    return {
        "name": figure,
        "profile": profile,
        "rows": [{"label": label, "values": {metric: values}} for label, metric, values in rows],
    }


def test_sweeps_come_from_the_tables(call, tmp_path):
    rows = [
        ("threshold 0.5", "AP", [36.0, 34.0]),
        ("threshold 0.3", "AP", [27.0]),
        ("threshold 0.9", "AP", [17.0, None]),
        ("threshold 0.7", "AP", []),
        ("Dense Teacher (region, cls)", "AP", [37.0]),
    ]
    (tmp_path / "fig2a-digits.json").write_text(json.dumps(table("fig2a", rows)))
    crowd = [("NMS 0.6", "AP", [40.0]), ("CrowdHuman, IoU 0.6", "mMR", [62.0]), ("CrowdHuman, IoU 0.9", "mMR", [90.0])]
    (tmp_path / "fig2b-paper.json").write_text(json.dumps(table("fig2b", crowd, profile="paper")))
    code, _, err = call("analyze", "fig2ab", "--tables", tmp_path, "--output", tmp_path / "out")
    assert (code, err) == (0, "")
    curves = read(tmp_path / "out", "fig2ab")["curves"]
    assert [(one["figure"], one["data"], one["metric"], one["best"]) for one in curves] == [
        ("fig2a", "Digits", "AP", 0.5),
        ("fig2b", "COCO", "AP", 0.6),
        ("fig2b", "CrowdHuman", "mMR", 0.6),
    ]
    assert [(one["threshold"], one["mean"], one["converged"]) for one in curves[0]["points"]] == [
        (0.3, 27.0, True),
        (0.5, 35.0, True),
        (0.9, 17.0, False),  # less than half of the best
    ]
    assert curves[0]["reference"] == 37.0
    assert [one["converged"] for one in curves[2]["points"]] == [True, False]


def refused(call, *arguments):
    code, _, err = call("analyze", *arguments)
    assert code == 2
    assert "Traceback" not in err
    assert len(err.strip().splitlines()) == 1
    return err


def test_bad_input_is_one_sentence(call, run, retinanet, coco, tmp_path):
    out = ("--output", tmp_path / "out")
    assert "did you mean 'fig2cd'" in refused(call, "fig2c", run, *out)
    assert "needs one detector" in refused(call, "fig3", *out)
    assert "needs one detector" in refused(call, "fig3", run, retinanet, *out)
    assert "give --data PATH" in refused(call, "fig2cd", retinanet, *out)
    assert "say which share is selected" in refused(call, "fig4", retinanet, "--data", coco, *out)
    assert "above 0 and at most 1" in refused(call, "fig4", run, "--ratio", 2, *out)
    assert "there is no detector file" in refused(call, "fig3", tmp_path / "none", *out)
    assert "give their folder as --tables" in refused(call, "fig2ab", *out)
    assert "holds no finished run of fig2a" in refused(call, "fig2ab", "--tables", tmp_path, *out)
    (tmp_path / "fig2a-digits.json").write_text('{"name": "fig2a", "rows": [{}]}')
    assert "is not a table of denseteacher reproduce" in refused(call, "fig2ab", "--tables", tmp_path, *out)
    assert not (tmp_path / "out").exists()


def test_other_classes_are_refused(call, run, coco, tmp_path):
    content = json.loads(coco.read_text())
    content["categories"][0]["name"] = "purple"
    (tmp_path / "other.json").write_text(json.dumps(content))
    error = refused(call, "fig3", run, "--data", tmp_path / "other.json", "--images", coco.parent / "images")
    assert "purple" in error


def test_a_run_without_checkpoints_or_hidden_labels_says_so(call, run, unlabeled, coco, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(run, bare, ignore=shutil.ignore_patterns("checkpoints"))
    assert "holds no checkpoints" in refused(call, "region", bare, "--output", tmp_path / "out")
    damaged = tmp_path / "damaged"
    shutil.copytree(run, damaged)
    (damaged / "checkpoints" / "step_00000006.pt").write_bytes(b"nothing")
    assert "is damaged" in refused(call, "region", damaged, "--output", tmp_path / "out")
    recipe = (bare / "recipe.yaml").read_text().replace("unlabeled: null", f"unlabeled: {unlabeled}", 1)
    (bare / "recipe.yaml").write_text(recipe)
    assert "had unlabeled images without labels" in refused(call, "fig3", bare, "--output", tmp_path / "out")
