"""The priority of sessions where the service and jobs share cores."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cluster.core_share import NICENESS, lower_session_priority, session_niceness


def test_a_session_gets_a_low_priority_and_ours_does_not() -> None:
    before = session_niceness()
    if before is None:
        pytest.skip("this kernel does not share cores among sessions")
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        try:
            assert session_niceness(other.pid) != NICENESS
            lower_session_priority(other.pid)
            assert session_niceness(other.pid) == NICENESS
        finally:
            other.kill()
    assert session_niceness() == before


def test_a_driver_has_a_low_priority(tmp_path: Path) -> None:
    before = session_niceness()
    if before is None:
        pytest.skip("this kernel does not share cores among sessions")
    script = (
        "import os, runpy\n"
        "from orchestrator.cluster.core_share import session_niceness\n"
        "try:\n    runpy.run_module('orchestrator.driver', run_name='__main__')\n"
        "except SystemExit:\n    print(session_niceness(), os.getpriority(os.PRIO_PROCESS, 0))\n"
    )
    command = [sys.executable, "-c", script, tmp_path, "job-1"]
    done = subprocess.run(command, start_new_session=True, capture_output=True, text=True, timeout=60, check=True)
    assert "not a run directory" in done.stderr
    assert done.stdout == f"{NICENESS} {NICENESS}\n"
    assert session_niceness() == before


def test_a_process_without_a_share(monkeypatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: "")
    assert session_niceness() is None


def test_a_process_that_has_ended_is_no_error() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    lower_session_priority(ended.pid)
    assert session_niceness(ended.pid) is None
