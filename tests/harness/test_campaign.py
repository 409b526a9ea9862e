"""Each kind of attack on a few trials: none gets through. And an attack that does is told."""

import os
import time

import pytest

from attacks.kind import FAILED, HELD, REFUSED, FailureError, Kind, Worker, described
from attacks.tiny_run import left_by
from campaign import all_kinds, campaign, prepare

SEED = 3
LABELS = [kind.label for kind in all_kinds(None)]
SLOW = ("SIGKILL at a random time", "end at a file event", "full disk", "damaged checkpoints, resumed")


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    made = all_kinds(folder)
    prepare(made, folder)
    return {kind.label: kind for kind in made}


@pytest.mark.parametrize("label", LABELS)
def test_no_attack_gets_through(label, kinds):
    with Worker(kinds[label], SEED) as worker:
        verdicts = [worker.attempt(number) for number in range(1 if label in SLOW else 3)]
    assert [one.reason for one in verdicts if one.outcome == FAILED] == []
    assert {one.outcome for one in verdicts} <= {HELD, REFUSED}


class Pretended(Kind):
    """Attacks with a known end."""

    timeout = 0.5
    label = "pretended"

    def attack(self, number, rng, folder):
        if number == 1:
            raise FailureError("let in")
        if number == 2:
            raise ValueError("no sentence")
        if number == 3:
            os._exit(9)
        if number == 4:
            time.sleep(60)
        (folder / "file").write_text(str(rng.random()))
        return HELD


@pytest.mark.parametrize(
    ("number", "reason"), [(0, ""), (1, "let in"), (2, "ValueError: no sentence"), (3, "crash"), (4, "hang")]
)
def test_what_gets_through_is_a_failure(number, reason):
    with Worker(Pretended(), SEED) as worker:
        verdict = worker.attempt(number)
    assert verdict.outcome == (FAILED if number else HELD)
    assert verdict.reason.startswith(reason)


def test_a_campaign_goes_on_after_a_crash_and_a_hang():
    found = []
    for verdict in campaign([Pretended()], SEED, 60):
        found.append(verdict)
        if len(found) == 7:
            break
    assert [one.trial for one in found] == list(range(7))
    assert [one.outcome for one in found] == [HELD, FAILED, FAILED, FAILED, FAILED, HELD, HELD]


def test_a_difference_between_runs_is_seen(kinds, tmp_path):
    run = kinds["full disk"].run
    (tmp_path / "checkpoints").mkdir()
    for name in ("last_teacher.safetensors", "metrics.jsonl"):
        (tmp_path / name).write_bytes((run.folder / name).read_bytes())
    assert left_by(tmp_path)["last_teacher.safetensors"] == run.expected["last_teacher.safetensors"]
    (tmp_path / "last_teacher.safetensors").write_bytes(b"else")
    with pytest.raises(FailureError, match=r"differs in .*last_teacher"):
        run.require_equal(tmp_path)


def test_an_exception_is_told_in_a_line():
    assert described(ValueError("x" * 5000)).startswith("ValueError: xxx")
    assert len(described(ValueError("x" * 5000))) == 1000
