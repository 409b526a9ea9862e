"""A kill or a full disk at any file event of a run loses nothing: what goes on ends as if it had never stopped."""

import csv
import errno
import hashlib
import os

import pytest

import denseteacher
from denseteacher.errors import RunError
from denseteacher.evaluation.metrics import Metrics
from denseteacher.training.metrics_log import read_metrics
from support import TIMING
from support.file_events import Snapshots, forget_owner, watched
from support.undrawn import undrawn

SHORT = [
    "method.burn_in=2",
    "method.ramp=1",
    "method.ratio=0.1",
    "schedule.max_steps=4",
    "schedule.evaluate_every=2",
    "schedule.checkpoint_every=2",
]
PICTURES = ("previews", "tensorboard")


@pytest.fixture(scope="module")
def run(coco, unlabeled, tmp_path_factory):
    """Trains into a folder, with a teacher that gets better and without the report at the end."""
    from conftest import TINY

    def evaluate(evaluator, detector, device):
        moved = sum(float(value.double().abs().sum()) for value in detector.detector.state_dict().values())
        return Metrics({"AP": moved % 100, "AP50": moved}, {}, "none"), []

    def train(folder):
        with undrawn(), pytest.MonkeyPatch.context() as patch:
            patch.setattr("denseteacher.evaluation.evaluator.Evaluator.__call__", evaluate)
            patch.setattr("denseteacher.runs.train.finish_run", lambda *_: None)
            patch.setattr("denseteacher.runs.build.begin_previews", lambda *_, **__: None)
            return denseteacher.train(
                "custom",
                labeled=coco,
                unlabeled=unlabeled,
                val=coco,
                output=folder,
                overrides=[*TINY, *SHORT],
                resume=(folder / "recipe.yaml").exists(),
            )

    return train


def left(folder):
    """What a run leaves, byte by byte but for the times in its log."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part in str(path) for part in PICTURES)
    }
    for name in [name for name in found if name.endswith(".sha256")]:  # it may name a replaced content too
        digest = hashlib.sha256(found[name.removesuffix(".sha256")]).hexdigest()
        assert digest in found[name].decode()
        found[name] = digest.encode()
    del found["metrics.jsonl"]
    found["results.csv"] = [
        {key: value for key, value in row.items() if key not in TIMING}
        for row in csv.DictReader(found["results.csv"].decode().splitlines())
    ]
    rows = read_metrics(folder / "metrics.jsonl")
    return found, [{key: value for key, value in row.items() if key not in TIMING} for row in rows]


def assert_left_the_same(folder, whole):
    found, rows = left(folder)
    assert rows == whole[1]
    assert found.keys() == whole[0].keys()
    different = [name for name in found if found[name] != whole[0][name]]
    assert not different


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """A run that nothing disturbs: what it leaves, and its folder before every file event."""
    folder = tmp_path_factory.mktemp("kills")
    snapshots = Snapshots(folder / "run", folder / "copies", without=PICTURES)
    with watched(snapshots):
        result = run(folder / "run")
    assert result.best["step"] == 4
    return left(folder / "run"), snapshots


def test_an_undisturbed_run_leaves_its_files_alone(whole):
    (found, rows), _ = whole
    assert sorted(found) == [
        "burn_in_detector.safetensors",
        "checkpoints/burn_in_00000002.pt",
        "checkpoints/burn_in_00000002.pt.sha256",
        "checkpoints/step_00000002.pt",
        "checkpoints/step_00000002.pt.sha256",
        "checkpoints/step_00000004.pt",
        "checkpoints/step_00000004.pt.sha256",
        "detector.safetensors",
        "environment.json",
        "recipe.yaml",
        "results.csv",
        "split.json",
    ]
    assert [(row["step"], "teacher/AP" in row) for row in rows] == [
        (1, False),
        (2, False),
        (2, True),
        (3, False),
        (4, False),
        (4, True),
    ]


def test_a_kill_at_any_file_event_changes_nothing_in_the_end(run, whole):
    expected, snapshots = whole
    assert len(snapshots.taken) > 40
    for copy in snapshots.taken:
        forget_owner(copy)
        assert run(copy).stopped_by is None
        assert_left_the_same(copy, expected)


def test_a_full_disk_at_any_write_is_one_sentence_and_changes_nothing_in_the_end(run, whole, tmp_path):
    expected, snapshots = whole
    writes = [place for place, (event, _) in enumerate(snapshots.events) if event in ("open", "os.rename")]
    for number in writes[3::7]:
        folder = tmp_path / str(number)
        seen = []

        def refuse(event, path, folder=folder, seen=seen, number=number):
            if path.startswith(str(folder)) and not any(part in path for part in PICTURES):
                seen.append(path)
                if len(seen) == number + 1:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with watched(refuse), pytest.raises(RunError, match="No space left on device"):
            run(folder)
        run(folder)
        assert_left_the_same(folder, expected)
