"""Who goes first where the service and jobs share cores."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cluster.core_share import NICENESS, give_way, niceness_of_session


def test_a_session_gives_way_and_ours_does_not() -> None:
    before = niceness_of_session()
    if before is None:
        pytest.skip("this kernel does not share cores among sessions")
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as other:
        try:
            assert niceness_of_session(other.pid) != NICENESS
            give_way(other.pid)
            assert niceness_of_session(other.pid) == NICENESS
        finally:
            other.kill()
    assert niceness_of_session() == before


def test_a_driver_gives_way(tmp_path: Path) -> None:
    before = niceness_of_session()
    if before is None:
        pytest.skip("this kernel does not share cores among sessions")
    script = (
        "import sys\n"
        "from orchestrator.service import driver_main\n"
        "from orchestrator.cluster.core_share import niceness_of_session\n"
        "try:\n    driver_main.start()\n"
        "except SystemExit:\n    print(niceness_of_session())\n"
    )
    command = [sys.executable, "-c", script, tmp_path, "job-1"]
    done = subprocess.run(command, start_new_session=True, capture_output=True, text=True, timeout=60, check=True)
    assert "no run directory" in done.stderr
    assert done.stdout == f"{NICENESS}\n"
    assert niceness_of_session() == before


def test_a_process_without_a_share(monkeypatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self: "")
    assert niceness_of_session() is None


def test_a_process_that_has_ended_is_no_error() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    give_way(ended.pid)
    assert niceness_of_session(ended.pid) is None
