import io
import math
import re
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from orchestrator.display.live_progress import LiveProgress
from orchestrator.display.notation import duration, sparkline
from orchestrator.display.progress import Phase, PlainProgress, QuietProgress, make_progress
from orchestrator.display.progress_text import TimeLeft, evaluation_text

EVALUATION = {"accuracy": 0.71, "silence_accuracy": 0.262, "chance_accuracy": 0.25, "count": 200, "by_task": {}}
METRICS = {"step": 3, "reward/mean": 1.25, "reward/accuracy": 0.625, "kl/ref": float("nan"), "workers/alive": 2}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_plain_line_per_step_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    with make_progress(stream=stream) as progress:
        assert isinstance(progress, PlainProgress)
        progress.phase(Phase.STARTING_WORKERS)
        for phase in (Phase.GENERATING, Phase.REWARDING, Phase.LEARNING, Phase.SYNCING):
            progress.phase(phase)
        progress.step(METRICS | {"time/step": 2.0}, 13)
        progress.evaluation(3, EVALUATION)
        progress.message("lost [bold]rollout-1[/]\x1b[31m\nagain")
    assert stream.getvalue().splitlines() == [
        "starting workers",
        "step 3/13  reward 1.250  accuracy 62.5%  KL –  workers 2  left 20s",
        "evaluation at step 3: accuracy 71.0%, with silence 26.2%, chance 25.0%",
        "lost [bold]rollout-1[/] [31m again",
    ]
    assert capsys.readouterr() == ("", "")


def test_a_counting_phase_does_not_fill_the_log() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream, clock=count(step=0.5).__next__)
    for step in range(40):
        progress.phase(f"warm start {step}/40")
    progress.phase("evaluating")
    assert stream.getvalue().splitlines() == ["warm start 0/40", "warm start 20/40", "evaluating"]


def test_quiet_shows_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with make_progress("quiet") as progress:
        assert isinstance(progress, QuietProgress)
        progress.phase("evaluating")
        progress.step(METRICS, 3)
        progress.evaluation(3, EVALUATION)
        progress.message("x")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("failure", [None, RuntimeError, KeyboardInterrupt])
def test_live_restores_the_terminal(
    failure: type[BaseException] | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    try:
        with make_progress(stream=stream) as progress:
            assert isinstance(progress, LiveProgress)
            progress.phase("learning")
            progress.step(METRICS, 4)
            if failure:
                raise failure()
    except BaseException as error:
        assert type(error) is failure
    shown = stream.getvalue()
    hidden, visible = "\x1b[?25l", "\x1b[?25h"
    assert shown.count(hidden) == shown.count(visible) == 1
    assert shown.index(hidden) < shown.index(visible)
    words = {None: "✓ done", RuntimeError: "✗ failed", KeyboardInterrupt: "✗ interrupted"}
    assert words[failure] in shown
    assert capsys.readouterr() == ("", "")


def test_live_on_a_dumb_terminal_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_progress(stream=Terminal()), PlainProgress)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_progress("plain", Terminal()), PlainProgress)


@pytest.mark.parametrize("width", [20, 60, 120])
def test_live_panel(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, record=True, force_terminal=True)
    progress = LiveProgress(console, clock=count(step=10).__next__)
    console.print(progress.render())
    for step in range(1, 5):
        progress.phase("generating [group 1]\x1b[2J")
        progress.step({"step": step, "reward/mean": step / 4, "reward/accuracy": 0.5}, 9)
    progress.evaluation(4, EVALUATION)
    console.export_text()
    console.print(progress.render())
    text = console.export_text()
    assert "\x1b" not in text
    assert all(len(line) <= width for line in text.splitlines())
    if width >= 60:
        assert "generating [group 1] [2J" in text
        assert re.search(r"step 4/9 .*50s left", text)
        assert re.search(r"reward/mean +▁▃▆█  0\.25 → 1\.00", text)
        assert "silence 26.2%" in " ".join(text.replace("│", " ").split())


def test_live_without_any_metric_but_the_step() -> None:
    console = Console(file=io.StringIO(), width=80, record=True)
    progress = LiveProgress(console)
    progress.step({"step": 1}, 0)
    progress.step({"step": 2, "reward/mean": math.nan}, 2)
    console.print(progress.render())
    assert "step 2/2" in console.export_text()


def test_time_left_counts_from_the_first_step() -> None:
    times = iter([100.0, 130.0, 160.0])
    left = TimeLeft(lambda: next(times))
    assert left.after({"step": 11}, 20) == ""
    assert left.after({"step": 12}, 20) == "4m 00s"
    assert left.after({"step": 20}, 20) == ""


def test_durations() -> None:
    assert [duration(s) for s in (0, 59.4, 59.6, 200, 7500)] == ["0s", "59s", "1m 00s", "3m 20s", "2h 05m"]


@given(st.lists(st.floats(-1e6, 1e6)), st.integers(1, 20))
def test_sparkline_fits_and_spans_its_blocks(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) == min(width, len(values))
    assert set(line) <= set("▁▂▃▄▅▆▇█")
    if 0 < len(values) <= width and max(values) > min(values):
        assert line[values.index(max(values))] == "█"
        assert line[values.index(min(values))] == "▁"


def test_an_evaluation_shows_what_failed_and_what_is_not_known() -> None:
    assert evaluation_text(EVALUATION | {"failed": 3}).endswith("chance 25.0%, 3 of 200 questions failed")
    unknown = {"accuracy": None, "silence_accuracy": None}
    assert evaluation_text(EVALUATION | unknown) == "accuracy –, with silence –, chance 25.0%"
    without_answers = {"accuracy": None, "chance_accuracy": None, "count": 6, "failed": 0}
    assert evaluation_text(without_answers) == "accuracy not reported, the questions have no answers"
