"""What a run says on the terminal while it trains."""

import math
import re
import sys

import pytest

from denseteacher.errors import RunError
from denseteacher.training import progress
from denseteacher.training.progress import ProgressDisplay


class _Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(progress, "time", self)

    def monotonic(self) -> float:
        return self.now


def test_plain_lines_say_step_speed_time_left_and_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = _Clock(monkeypatch)
    with ProgressDisplay("training", 2000, start=1000, every=0, live=False) as display:
        for step in (1020, 1040):
            clock.now += 4.0
            display.update(step, {"sup/cls": 0.123456, "loss": 2.0, "lr": 1e-5})
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "[step 1020/2000] 5 steps/s, 0:03:16 left  loss 2  sup/cls 0.1235  lr 1e-05",
        "[step 1040/2000] 5 steps/s, 0:03:12 left  loss 2  sup/cls 0.1235  lr 1e-05",
    ]


def test_images_a_second_stand_beside_the_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = _Clock(monkeypatch)
    with ProgressDisplay("training", 40, every=0, live=False) as display:
        clock.now += 4.0
        display.update(20, {"sup/cls": 0.5, "loss": 2.0, "images_per_second": 161.7})
    line = capsys.readouterr().err.strip()
    assert line.startswith("[step 20/40] 5 steps/s, 0:00:04 left  162 img/s  loss 2  sup/cls 0.5")


def test_plain_lines_come_every_half_minute_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = _Clock(monkeypatch)
    with ProgressDisplay("training", 24, live=False) as display:
        for step in range(1, 25):
            clock.now += 4.0
            display.update(step, {})
        display.message("saved [bold]x[/bold]")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("]")[0] for line in lines[:-1]] == [f"[step {step}/24" for step in (1, 9, 17, 24)]
    assert lines[-1] == "saved [bold]x[/bold]"


def test_slow_steps_between_two_updates_are_told_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = _Clock(monkeypatch)
    with ProgressDisplay("training", 40, live=False) as display:
        for step in range(1, 41):
            clock.now += 10.0
            if step % 20 == 0:
                display.update(step, {"loss": float(step)})
            display.advance(step)
    lines = capsys.readouterr().err.splitlines()
    # nothing is known before the first values
    assert [line.split("]")[0] for line in lines] == [f"[step {step}/40" for step in (20, 23, 26, 29, 32, 35, 38, 40)]
    assert "0.1 steps/s, 0:02:50 left  loss 20" in lines[1]


def test_the_speed_is_that_of_the_last_updates(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = _Clock(monkeypatch)
    with ProgressDisplay("training", 10_000, every=0, live=False) as display:
        for step in range(1, 101):
            clock.now += 10.0 if step <= 50 else 0.1
            display.update(step, {})
    assert "10 steps/s, 0:16:30 left" in capsys.readouterr().err.splitlines()[-1]


def test_updates_without_time_or_steps_between_say_no_speed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _Clock(monkeypatch)
    with ProgressDisplay("training", 10, every=0, live=False) as display:
        display.update(0, {"loss": math.nan})
        display.update(10, {})
    lines = capsys.readouterr().err.splitlines()
    assert [re.sub(r"\s+", " ", line).strip() for line in lines] == ["[step 0/10] loss nan", "[step 10/10]"]


def test_the_bar_shows_the_same_on_stderr_and_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "xterm-256color")
    with ProgressDisplay("[unlabeled] training", 200, start=100, live=True) as display:
        display.update(150, {"loss": 0.5, "kept": 12.0})
        display.message("step 150: teacher AP 40.0 [new best]")
    out, err = capsys.readouterr()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", err)
    assert out == ""
    assert "step 150: teacher AP 40.0 [new best]\n" in plain
    last = plain.rstrip().splitlines()[-1]
    assert last.startswith("[unlabeled] training")
    assert "150/200" in last
    assert re.search(r"steps/s, 0:00:0\d left  loss 0\.5  kept 12", last)


@pytest.mark.parametrize("live", [True, False])
def test_a_process_that_is_not_the_main_one_shows_nothing(live: bool, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay("training", 2, live=live, enabled=False) as display:
        display.update(1, {})
        display.message("hello")
        display.update(2, {})
    assert capsys.readouterr() == ("", "")


def test_without_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressDisplay("training", 2) as display:  # pytest's stderr is none
        display.update(2, {})
    assert capsys.readouterr().err.startswith("[step 2/2]")


def test_an_error_passes_and_gives_the_terminal_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    before = sys.stdout, sys.stderr

    def run() -> None:
        with ProgressDisplay("training", 2, live=True) as display:
            display.update(1, {})
            raise RunError("the disk is full")

    with pytest.raises(RunError, match="the disk is full"):
        run()
    assert (sys.stdout, sys.stderr) == before
    assert capsys.readouterr().err.endswith("\x1b[?25h")  # the cursor is shown again
