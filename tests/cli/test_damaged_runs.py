"""Run folders that can't be written, or whose files were damaged: one sentence each, that names what is wrong."""

import json
import os
import shutil

import pytest

from conftest import TINY
from support.finished_runs import trained, with_detections


@pytest.fixture(scope="module")
def runs(tmp_path_factory, coco, unlabeled):
    folder = tmp_path_factory.mktemp("runs")
    good = with_detections(trained(folder / "good", coco, unlabeled, "method.name=supervised"))
    return good, with_detections(trained(folder / "other", coco, unlabeled, "method.name=supervised", "seed=2"))


def half(content):
    return content[: len(content) // 2]


def texts_for_numbers(content):
    """JSON whose numbers are texts."""

    def change(value):
        if isinstance(value, dict):
            return {key: change(one) for key, one in value.items()}
        if isinstance(value, list):
            return [change(one) for one in value]
        return f"<{value}>" if isinstance(value, int | float) else value

    lines = content.splitlines() if b"\n{" in content else [content]
    return b"\n".join(json.dumps(change(json.loads(line))).encode() for line in lines)


def without_keys(content):
    lines = content.splitlines() if b"\n{" in content else [content]
    found = [json.loads(line) for line in lines]
    return b"\n".join(json.dumps([] if isinstance(one, list) else {"step": 8}).encode() for one in found)


BYTES = {
    "empty": lambda content: b"",
    "half": half,
    "zeros": lambda content: bytes(len(content)),
    "binary": lambda content: bytes(range(256)) * 3,
    "null": lambda content: b"null",
    "list": lambda content: b"[1]",
    "object": lambda content: b"{}",
    "text": lambda content: b'"text"',
    "deep": lambda content: b"[" * 100_000,
    "latin": lambda content: b'{"a": "\xe4\xf6"}',
}
VALUES = {"texts": texts_for_numbers, "keys": without_keys}
TEXTS = ("recipe.yaml", "split.json", "metrics.jsonl", "evaluation.json", "detections.json", "environment.json")
CASES = [
    *((name, kind, change) for name in (*TEXTS, "detector.safetensors") for kind, change in BYTES.items()),
    *((name, kind, change) for name in TEXTS[1:5] for kind, change in VALUES.items()),
]
HARMLESS = {
    ("metrics.jsonl", "empty"),  # as before the first row
    ("metrics.jsonl", "null"),  # a last line that a crash cut short is passed over
    *(
        ("metrics.jsonl", kind)
        for kind in ("half", "zeros", "binary", "list", "object", "text", "deep", "latin", "keys")
    ),
    *(("environment.json", kind) for kind in ("null", "list", "object", "text")),
    ("detections.json", "keys"),
    ("split.json", "texts"),  # whose length alone is shown
}


@pytest.fixture(scope="module")
def damaged(runs, tmp_path_factory):
    """A copy of a run, which each test puts back."""
    return shutil.copytree(runs[1], tmp_path_factory.mktemp("damaged") / "run")


@pytest.mark.parametrize(("name", "kind", "change"), CASES, ids=[f"{name}-{kind}" for name, kind, _ in CASES])
def test_comparing_a_damaged_run_names_the_file(call, runs, damaged, tmp_path, monkeypatch, name, kind, change):
    content = (runs[1] / name).read_bytes()
    monkeypatch.setattr("denseteacher.runs.report._with_evaluation", read_alone)
    try:
        (damaged / name).write_bytes(change(content))
        code, _, err = call("compare", runs[0], damaged, "--output", tmp_path / "page.html")
    finally:
        (damaged / name).write_bytes(content)
    assert "Traceback" not in err
    if code or (name, kind) not in HARMLESS:
        assert code == 2, err
        assert name in err.replace("\n", "")
        assert err.count("denseteacher: ") == 1


def read_alone(report, runs, validation):
    """Without the pictures and figures, which take seconds."""
    from denseteacher.runs.evaluate import read_detections

    for run in runs:
        read_detections(run.folder)
    return report


@pytest.mark.parametrize("name", [*TEXTS, "detector.safetensors"])
@pytest.mark.parametrize("instead", ["folder", "nothing", "unreadable"])
def test_a_file_that_is_none_is_named_or_not_missed(call, runs, tmp_path, name, instead):
    copy = shutil.copytree(runs[1], tmp_path / "run")
    if instead == "unreadable":
        if os.getuid() == 0:
            pytest.skip("root reads everything")
        (copy / name).chmod(0)
    else:
        (copy / name).unlink()
    if instead == "folder":
        (copy / name).mkdir()
    code, _, err = call("compare", runs[0], copy, "--output", tmp_path / "page.html")
    assert "Traceback" not in err
    assert code in (0, 2), err
    if code:
        assert name in err.replace("\n", "") or "there is no run in" in err


def test_files_that_do_not_belong_together_are_one_sentence(call, runs, tmp_path):
    copy = shutil.copytree(runs[1], tmp_path / "run")
    other = [one | {"image_id": 10**6, "category_id": 77} for one in json.loads((copy / "detections.json").read_text())]
    (copy / "detections.json").write_text(json.dumps(other))
    code, _, err = call("compare", runs[0], copy, "--output", tmp_path / "page.html")
    assert code in (0, 2)
    assert "Traceback" not in err


@pytest.fixture
def impossible(tmp_path):
    """Folders that no run can have, by what is wrong with them."""
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    return {
        "a file": tmp_path / "file",
        "in a file": tmp_path / "file" / "run",
        "too long": tmp_path / ("x" * 300),
        "far too long": tmp_path / "/".join(["y" * 200] * 30),
        "no disk": "/proc/run",
        "a device": "/dev/null",
        "a loop": tmp_path / "loop",
    }


COMMANDS = {
    "train": (["train", "custom", "--set", "method.name=supervised"], True),
    "resume": (["train", "custom", "--set", "method.name=supervised", "--resume"], True),
    "demo": (["demo", "--steps", "40"], False),
}


@pytest.mark.parametrize("where", ["a file", "in a file", "too long", "far too long", "no disk", "a device", "a loop"])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_run_into_an_impossible_folder_is_one_sentence(call, coco, impossible, command, where):
    arguments, trains = COMMANDS[command]
    options = [*TINY, "schedule.max_steps=1"] if trains else ["runtime.workers=0"]
    given = [*(["--labeled", coco] if trains else []), *(part for option in options for part in ("--set", option))]
    code, _, err = call(*arguments, *given, "--output", impossible[where])
    assert code in (1, 2)
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("denseteacher: ")]
    assert len(lines) == 1
    assert str(impossible[where])[:40] in lines[0]


@pytest.mark.parametrize("command", ["train", "demo"])
def test_a_run_onto_a_disk_that_is_read_only_is_one_sentence(call, coco, tmp_path, monkeypatch, command):
    import errno

    from support.file_events import watched

    def refuse(event, path):
        if path.startswith(str(tmp_path)):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)

    arguments, trains = COMMANDS[command]
    options = [*TINY, "schedule.max_steps=1"] if trains else ["runtime.workers=0"]
    given = [*(["--labeled", coco] if trains else []), *(part for option in options for part in ("--set", option))]
    with watched(refuse):
        code, _, err = call(*arguments, *given, "--output", tmp_path / "run")
    assert code == 1
    assert f"{tmp_path / 'run'}" in err.replace("\n", "")
    assert "Read-only file system" in err
    assert "Traceback" not in err
