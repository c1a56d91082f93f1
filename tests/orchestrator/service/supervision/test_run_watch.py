"""The supervisor follows a run's events as they are written."""

import json
from pathlib import Path

import pytest

from orchestrator.run.files import DRIVER_LOG
from orchestrator.run.history import RunHistory
from orchestrator.run.records import RunDirectoryError
from orchestrator.service.supervision.run_watch import RunWatch


def line(kind: str, **detail: object) -> str:
    return json.dumps({"time": "2026-01-01T00:00:00.000+00:00", "kind": kind, **detail}) + "\n"


def test_a_run_is_followed(tmp_path: Path) -> None:
    watch, events = RunWatch(tmp_path), tmp_path / "events.jsonl"
    assert watch.read() == RunHistory()
    events.write_text(line("attempt", submission_id="j-1", pid=7) + line("state", state="running")[:20])
    view = watch.read()
    assert (view.submission_id, view.pid, view.state) == ("j-1", 7, None)
    with events.open("a") as file:
        file.write(line("state", state="running")[20:] + line("something", new=1))
    assert watch.read().state == "running"
    with events.open("a") as file:
        file.write(line("error", error="LearnerError", message="no") + line("state", state="failed"))
        file.write(line("attempt", submission_id="j-2", pid=8))
    view = watch.read()
    # The new driver has not reported yet.
    assert (view.submission_id, view.state, view.error) == ("j-2", None, None)


def test_a_checkpoint_counts_for_commands_before_it(tmp_path: Path) -> None:
    watch, events = RunWatch(tmp_path), tmp_path / "events.jsonl"
    events.write_text(
        line("attempt", submission_id="j-1", pid=7)
        + line("checkpoint", step=2, path="x")
        + line("command", id="a", command="checkpoint", count=None, by="")
        + line("command", id="b", command="pause", count=None, by="")
    )
    assert watch.read().saved == frozenset()
    with events.open("a") as file:
        file.write(line("checkpoint", step=3, path="x") + line("command", id="c", command="checkpoint", count=None))
    view = watch.read()
    assert (view.saved, view.step) == (frozenset("a"), 3)


def test_damage_is_reported_each_time(tmp_path: Path) -> None:
    watch, events = RunWatch(tmp_path), tmp_path / "events.jsonl"
    events.write_text("[1]\n")
    assert watch.read() == RunHistory(counts={"unreadable": 1})
    events.write_text("[1]\nno event\n")
    for _ in range(2):
        with pytest.raises(RunDirectoryError, match="has a line that is not an event"):
            watch.read()


def test_a_lost_run_directory_stays_as_it_was_last_seen(tmp_path: Path) -> None:
    watch, events = RunWatch(tmp_path), tmp_path / "events.jsonl"
    events.write_text(line("attempt", submission_id="j-1", pid=7) + line("state", state="running"))
    seen = watch.read()
    events.unlink()
    assert watch.read() == seen
    events.write_text(line("attempt", submission_id="j-1", pid=7))
    assert (watch.read().submission_id, watch.read().state) == ("j-1", None)


def test_the_last_lines_of_a_long_log(tmp_path: Path) -> None:
    watch = RunWatch(tmp_path)
    assert watch.last_lines() == ""
    (tmp_path / DRIVER_LOG).write_bytes(b"\xff\xfe\n" * 9000 + b"".join(b"line %d\n" % i for i in range(50)))
    assert watch.last_lines(3) == "line 47\nline 48\nline 49"
