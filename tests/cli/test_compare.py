"""Runs side by side: the table, the page, and what is said where they don't compare."""

import re
import shutil

import pytest

from support.finished_runs import trained, with_detections


@pytest.fixture(scope="module")
def runs(tmp_path_factory, coco, unlabeled):
    folder = tmp_path_factory.mktemp("runs")
    supervised = trained(folder / "supervised", coco, unlabeled, "method.name=supervised")
    dense = trained(folder / "dense", coco, unlabeled, "optim.lr=0.02")
    return with_detections(supervised, missed=0.6), with_detections(dense)


def _row(out, name):
    line = next(line for line in out.splitlines() if re.match(rf"│ {name} +│", line))
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


def test_two_runs_side_by_side(call, runs, tmp_path):
    code, out, err = call("compare", *runs, "--output", tmp_path / "page.html")
    assert code == 0, err
    assert _row(out, "teacher AP") == ["0.0", "0.0"]
    assert _row(out, "best step") == ["4", "4"]
    assert _row(out, "labeled images") == ["12", "12"]
    assert _row(out, "unlabeled images") == ["6", "6"]
    assert _row(out, "optim.lr")[1] == "0.02"
    assert _row(out, "method.name") == ["supervised", "dense_teacher_plus"]
    assert "schedule.log_every" not in out
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for text in (
        "supervised, teacher",
        "dense, student",
        "gain</th>",
        "optim.lr",
        "AP over supervised",
        "Worst mistakes",
    ):
        assert text in page
    assert page.count("<figcaption>supervised</figcaption>") == page.count("<figcaption>dense</figcaption>") > 0


def test_without_output_nothing_is_written(call, runs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("compare", *runs)
    assert code == 0
    assert "Report" not in out
    assert list(tmp_path.iterdir()) == []


def test_other_validation_data_are_said_to_be_so(call, runs, coco, unlabeled, tmp_path):
    other = shutil.copytree(coco.parent, tmp_path / "other") / "annotations.json"
    moved = trained(tmp_path / "moved", other, unlabeled)
    code, out, _ = call("compare", runs[1], moved)
    assert code == 0
    assert "different data" not in out  # the same boxes in another file

    other.write_text(other.read_text().replace('"category_id": 5', '"category_id": 2', 1))
    relabeled = trained(tmp_path / "relabeled", other, unlabeled)
    code, out, _ = call("compare", runs[1], relabeled, "--output", tmp_path / "page.html")
    assert code == 0
    assert "different data" in out
    assert "do not compare" in out.replace("\n", " ")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "do not compare" in page
    assert "gain</th>" not in page
    assert "gains are over" not in page


def test_runs_of_an_older_version_have_curves_but_no_classes(call, runs, tmp_path):
    older = []
    for run in runs:
        older.append(shutil.copytree(run, tmp_path / run.name))
        for name in ("evaluation.json", "detections.json"):
            (older[-1] / name).unlink()
    code, _, err = call("compare", *older, "--output", tmp_path / "page.html")
    assert code == 0, err
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "AP on the validation images" in page
    assert 'id="classes"' not in page


def test_without_its_data_a_page_has_no_pictures(call, runs, tmp_path):
    copies = [shutil.copytree(run, tmp_path / run.name) for run in runs]
    recipe = copies[1] / "recipe.yaml"
    recipe.write_text(re.sub(r"labeled: /\S+", "labeled: /gone.json", recipe.read_text()))
    code, out, err = call("compare", *copies, "--output", tmp_path / "page.html")
    assert code == 0, err
    assert "has no pictures" in out
    assert "<figure" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def _unfinished(folder, run):
    copy = shutil.copytree(run, folder / "stopped")
    (copy / "report.html").unlink()
    return copy


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (lambda folder, run: [folder / "nothing"], "there is no run in"),
        (lambda folder, run: [_unfinished(folder, run)], "has done 8 of 8 steps"),
        (lambda folder, run: [], "two or more different runs"),
        (lambda folder, run: [run], "two or more different runs"),
    ],
    ids=["missing", "unfinished", "one", "twice the same"],
)
def test_wrong_runs_get_one_sentence(call, runs, tmp_path, others, message):
    code, _, err = call("compare", runs[0], *others(tmp_path, runs[0]))
    assert code == 2
    assert message in err.replace("\n", " ")
    assert "Traceback" not in err


def test_a_page_that_can_not_be_written_is_named(call, runs, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = call("compare", *runs, "--output", tmp_path / "file" / "page.html")
    assert code == 1
    assert "file/page.html can't be written: " in err.replace("\n", "")
    assert "Traceback" not in err
