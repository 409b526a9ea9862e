"""The command, what it suggests, and the notes before a run."""

import json
import re
import shutil

import pytest

from denseteacher import api
from denseteacher.check import Duration, cost, report
from support.published_datasets import write_voc


def test_the_command_on_clean_data(planted, call):
    file = planted.folder / "found.json"
    code, out, err = call(*planted.arguments("--json", file))
    assert code == 0, err
    assert "Nothing wrong was found." in out
    assert "12 labeled, 6 unlabeled, 8 validation" in out
    assert len(out.splitlines()) < 24  # a screen
    content = json.loads(file.read_text())
    assert content["images"] == {"labeled": 12, "unlabeled": 6, "validation": 8}
    assert [one["name"] for one in content["classes"]] == ["red", "green", "blue"]
    assert sum(content["levels"].values()) == sum(one["objects"] for one in content["classes"])
    assert content["foreground"]["ratio"] == content["recipe"]["method"]["ratio"]
    assert content["memory"]["bytes_by_accumulate"]["1"] > content["memory"]["fixed_bytes"]


@pytest.mark.usefixtures("no_memory")
def test_errors_stand_first_and_give_exit_code_1(planted, call):
    planted.annotation(7)["category_id"] = 99
    planted.train["categories"].append({"id": 12, "name": "violet"})
    code, out, _ = call(*planted.arguments())
    lines = out.splitlines()
    assert code == 1
    assert lines[0].startswith("error   unknown category (labeled): 1")
    assert "of 007.png has the unknown category 99" in lines[1]
    assert lines[2].startswith("warning class without objects (labeled): 1")
    assert "Nothing wrong" not in out


@pytest.mark.usefixtures("no_memory")
def test_warnings_alone_give_exit_code_0(planted, call):
    planted.train["categories"].append({"id": 12, "name": "violet"})
    code, out, _ = call(*planted.arguments())
    assert (code, out.splitlines()[0][:7]) == (0, "warning")


@pytest.mark.usefixtures("no_memory")
def test_what_can_not_be_read_is_one_sentence_and_exit_code_2(tmp_path, call):
    code, _, err = call("check", tmp_path / "none.json")
    assert code == 2
    assert "there is no annotation file or folder" in err
    assert "Traceback" not in err


@pytest.mark.usefixtures("no_memory")
def test_quick_does_not_read_images(planted):
    planted.file(7).write_bytes(b"no image at all")
    shutil.copy(planted.file(5), planted.folder / "val" / "images" / "005.png")
    report = planted.check(quick=True)
    assert not report.errors
    assert not report.decoded


@pytest.mark.usefixtures("no_memory")
def test_what_training_repairs_is_no_error(planted):
    planted.annotation(7)["bbox"] = [5, 5, 0, 20]
    report = planted.check("data.bad_boxes=fix")
    found = [(one.severity, one.kind) for one in report.findings if one.severity != "info"]
    assert found == [("warning", "box without area")]


@pytest.mark.usefixtures("no_memory")
def test_a_split_of_the_recipe_is_drawn(planted):
    planted.write()
    data, _ = planted.paths
    split = ["data.split=seeded", "data.count=5", "detector.backbone=test_byobnet"]
    report = api.check(data, overrides=split)
    assert report.images == {"labeled": 5, "unlabeled": 7}
    report = api.check(data, overrides=["data.split=published", "data.percent=10", "detector.backbone=test_byobnet"])
    assert ("error", "split of the data") in [(one.severity, one.kind) for one in report.findings]


@pytest.mark.usefixtures("no_memory")
def test_suggestions_make_a_recipe_whose_check_suggests_nothing(planted):
    planted.write()
    data, _ = planted.paths
    backbone = ["detector.backbone=test_byobnet", "detector.levels=[3,7]", "method.ratio=0.01"]
    backbone += ["augment.weak.short_side=[480,800]", "augment.weak.max_side=1333", "evaluation.short_side=800"]
    first = api.check(data, overrides=backbone)
    keys = {one.key for one in first.measures.suggestions}
    assert keys >= {"augment.weak.short_side", "evaluation.max_side", "method.ratio", "data.labeled_batch"}
    values = [f"{one.key}={one.value}" for one in first.measures.suggestions]
    assert first.measures.options == " ".join(f"--set {value}" for value in values)
    second = api.check(data, overrides=[*backbone, *values])
    assert second.measures.suggestions == []


@pytest.mark.usefixtures("no_memory")
def test_the_cost_of_more_unlabeled_images_is_told_and_their_multiple_kept(planted, call):
    assert "times the operations" not in call(*planted.arguments())[1]
    batches = ["--set", "data.labeled_batch=8", "--set", "data.unlabeled_batch=32"]
    code, out, err = call(*planted.arguments(*batches))
    assert code == 0, err
    said = re.search(r"8 labeled and 32 unlabeled images takes ([\d.]+) times the operations of one of 8 and 8", out)
    assert 2.1 < float(said.group(1)) < 2.3  # (2 + 4) x 3 + 4 over 3 x 3 + 1 passes, less what needs no gradient
    assert re.search(r"data\.labeled_batch 2: .*\n?.*data\.unlabeled_batch 8: 4 times as many as labeled ones", out)


def test_the_time_on_a_cpu_is_measured_but_for_quick(planted, call, monkeypatch):
    monkeypatch.setattr(cost, "_LONG", float("inf"))  # however busy this machine is
    cpu = ["--set", "runtime.device=cpu"]
    code, out, err = call(*planted.arguments(*cpu))
    assert code == 0, err
    assert re.search(r"Time on this CPU: about [\d.]+ (min|h|days) for 5,000 steps \(the networks alone; measured", out)
    assert "custom_small" not in out
    assert "Time on" not in call(*planted.arguments(*cpu, "--quick"))[1]


@pytest.mark.usefixtures("no_memory")
def test_a_long_run_on_a_cpu_names_the_recipe_for_it(planted, call, monkeypatch):
    def measured(recipe, labeled, *, unlabeled):
        assert (len(labeled.images), unlabeled) == (12, 6)
        hours = {"custom": 30, "custom_small": 2}[recipe.name]
        return Duration(int(recipe.schedule.max_steps), 3600.0 * hours, (64, 96), 2)

    for module in (report, cost):
        monkeypatch.setattr(module, "measure_duration", measured)
    code, out, err = call(*planted.arguments("--set", "runtime.device=cpu"))
    assert code == 0, err
    assert "Time on this CPU: about 30.0 h for 5,000 steps" in out
    assert "with 2 threads" in out
    assert "Recipe custom_small, made for CPUs: about 2.0 h for 1,000 steps." in out


@pytest.mark.usefixtures("no_memory")
def test_a_ratio_far_from_the_foreground_is_noted(planted):
    report = planted.check("method.ratio=0.001")
    assert [one.kind for one in report.findings if one.severity == "warning"] == ["ratio that does not fit the objects"]
    assert "method.ratio is 0.001" in report.findings[0].examples[0]
    assert not [
        one for one in planted.check("method.region=all", "method.ratio=0.001").findings if one.severity != "info"
    ]


@pytest.mark.usefixtures("no_memory")
def test_small_objects_of_reduced_images_call_for_larger_views(planted):
    report = planted.check("augment.weak.short_side=[16]")
    assert "object outside of all levels" in [one.kind for one in report.findings]
    suggested = {one.key: one.value for one in report.measures.suggestions}
    auto = planted.check("augment.weak.short_side=auto", "augment.weak.sampling=range").recipe
    assert suggested["augment.weak.short_side"] == "[{},{}]".format(*auto.augment.weak.short_side)
    assert suggested["evaluation.short_side"] == str(auto.evaluation.short_side)


@pytest.mark.usefixtures("no_memory")
def test_small_objects_of_images_as_they_are_call_for_a_finer_level(planted):
    for one in planted.train["annotations"]:
        one["bbox"][2:] = [3, 3]
    report = planted.check()
    assert [(one.key, one.value) for one in report.measures.suggestions if one.key == "detector.levels"] == [
        ("detector.levels", "[2,5]")
    ]


@pytest.mark.usefixtures("no_memory")
def test_large_objects_call_for_coarser_levels(planted):
    report = planted.check("detector.levels=[3,3]", "detector.size_factor=1")
    assert ("detector.levels", "[3,4]") in [(one.key, one.value) for one in report.measures.suggestions]


def test_a_run_begins_with_notes_and_trains_as_before(planted, call, tiny):
    planted.train["categories"].append({"id": 12, "name": "violet"})
    (planted.folder / "unlabeled" / "link.png").symlink_to(planted.folder / "val" / "images" / "007.png")
    planted.write()
    data, others = planted.paths
    options = [part for option in [*tiny, "schedule.max_steps=3"] for part in ("--set", option)]
    run = planted.folder / "run"
    paths = ["--labeled", data, "--unlabeled", others["unlabeled"], "--val", others["val"], "--output", run]
    code, _, err = call("train", "custom", *paths, *options)
    assert code == 0, err
    notes = [line for line in err.splitlines() if line.startswith("check: ")]
    assert len(notes) == 2
    assert notes[0].startswith("check: image in two parts, unlabeled and validation: 1, for example ")
    assert notes[0].partition(" (")[0].endswith("val/images/007.png")
    assert notes[1] == "check: class without objects, labeled: 1, for example violet (it can't be learned)"


def test_a_clean_run_has_no_notes(planted, call, tiny):
    planted.write()
    data, others = planted.paths
    options = [part for option in [*tiny, "schedule.max_steps=2"] for part in ("--set", option)]
    paths = ["--labeled", data, "--unlabeled", others["unlabeled"], "--val", others["val"]]
    code, _, err = call("train", "custom", *paths, "--output", planted.folder / "run", *options)
    assert code == 0, err
    assert "check:" not in err


@pytest.mark.usefixtures("no_memory")
def test_the_parts_of_a_data_set_are_those_asked_for(call, tmp_path):
    voc = write_voc(tmp_path)
    code, out, err = call("check", voc, "--subset", "train", "--val", voc, "--val-subset", "val", "--quick")
    assert code == 0, err
    assert "Images: 4 labeled, 4 validation" in out
    code, _, err = call("check", voc, "--subset", "night")
    assert (code, "has no image set night" in err) == (2, True)
