"""The deadline of a process that starts: on a busy machine it counts progress, not seconds."""

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from orchestrator.cluster import process as cluster_process
from orchestrator.cluster.process import DetachedProcess, ProcessNote, StartError

# Uses the CPU for as many seconds of CPU time as it is told, then creates the file.
WORKS = """
import pathlib, sys, time
while time.process_time() < float(sys.argv[1]):
    pass
pathlib.Path(sys.argv[2]).touch()
time.sleep(60)
"""
HANGS = "import time; print('waiting for the store', flush=True); time.sleep(60)"


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose cores are all taken, with deadlines of fractions of a second."""
    monkeypatch.setattr(os, "getloadavg", lambda: (99.0, 99.0, 99.0))
    monkeypatch.setattr(cluster_process, "_STALLED_SECONDS", 0.5)
    monkeypatch.setattr(cluster_process, "_LONGEST_START_SECONDS", 8.0)


def start(folder: Path, *command: str, seconds: float = 0.3) -> float:
    """Start a process that is ready once a file exists; return how long it took. It is ended in any case."""
    process = DetachedProcess(folder / "note.json", ProcessNote, folder / "log", "It")
    begun = time.monotonic()
    try:
        process.start(
            [sys.executable, "-c", *command],
            dict(os.environ),
            ProcessNote,
            lambda _: (folder / "ready").exists(),
            start_seconds=seconds,
            stop_seconds=1,
        )
        return time.monotonic() - begun
    finally:
        process.stop(1)


def test_a_start_that_makes_progress_on_a_busy_machine_is_waited_for(tmp_path: Path, busy: None) -> None:
    assert start(tmp_path, WORKS, "1.2", str(tmp_path / "ready")) > 1


def test_a_start_that_hangs_is_given_up_on_a_busy_machine_too(tmp_path: Path, busy: None) -> None:
    begun = time.monotonic()
    with pytest.raises(
        StartError, match=r"not ready after \d s with 0\.\d s of CPU time, load 99\.0.*waiting for the store"
    ):
        start(tmp_path, HANGS)
    assert time.monotonic() - begun < 6


def test_a_start_with_free_cores_has_its_deadline(tmp_path: Path, busy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 0.1, 0.1))
    with pytest.raises(StartError, match="not ready after"):
        start(tmp_path, WORKS, "30", str(tmp_path / "ready"))


@pytest.mark.parametrize(("bound", "value"), [("_LONGEST_START_SECONDS", 1.0), ("_START_CPU_SECONDS", 0.5)])
def test_the_patience_ends(
    tmp_path: Path, busy: None, monkeypatch: pytest.MonkeyPatch, bound: str, value: float
) -> None:
    monkeypatch.setattr(cluster_process, bound, value)
    with pytest.raises(StartError, match="not ready after"):
        start(tmp_path, WORKS, "30", str(tmp_path / "ready"))


def test_the_cause_of_a_failed_start_is_its_own_output(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("the port of yesterday was in use\n")
    with pytest.raises(StartError, match=r"exit code 3, load .*; no output") as failed:
        start(tmp_path, "raise SystemExit(3)", seconds=30)
    assert "yesterday" not in str(failed.value)


def test_a_process_that_cannot_be_noted_is_ended(tmp_path: Path) -> None:
    (tmp_path / "note.json").mkdir()
    made: list[int] = []

    def note(pid: int, created: float) -> ProcessNote:
        made.append(pid)
        return ProcessNote(pid, created)

    process = DetachedProcess(tmp_path / "note.json", ProcessNote, tmp_path / "log", "It")
    with pytest.raises(OSError, match="note"):
        process.start(
            [sys.executable, "-c", HANGS], dict(os.environ), note, lambda _: True, start_seconds=30, stop_seconds=1
        )
    assert not psutil.pid_exists(made[0])
