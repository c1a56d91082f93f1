"""Run one part in a process of its own, with a deadline, and show its progress."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from benchmarks.gpu_day.plan import Part, findings_file, log_file, progress_file

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 10.0
"""Time for a job to end its actors, after the deadline."""
_LOG_LINES = 30
BARE = Path(__file__).parent / "bare"
"""A folder with what an environment lacks into which Earshot and Ray are not installed: it goes onto its path."""

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a part."""

    part: str
    status: Status
    seconds: float = 0.0
    cause: str = ""
    """Reason why it failed or was skipped; empty if it passed."""
    checks: Mapping[str, bool] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    log: tuple[str, ...] = ()
    """The last lines of its output, if it failed."""


def has_ray() -> bool:
    """Return whether Ray itself is installed, and not a stand-in that can be imported."""
    found = importlib.util.find_spec("ray")
    # Its core is compiled; a stand-in has none.
    return found is not None and found.origin is not None and any(Path(found.origin).parent.glob("_raylet.*"))


def environment() -> dict[str, str]:
    """Return the environment of a part."""
    path = [str(Path(__file__).parents[2])]
    if not has_ray():
        path.append(str(BARE))
    if found := os.environ.get("PYTHONPATH"):
        path.append(found)
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        # Nothing is downloaded: an attempt without a network would wait for minutes.
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def run_part(part: Part, folder: Path, seconds: float, report: Callable[[str], None]) -> Outcome:
    """Run a part to its end, or to its deadline; then everything that it started is ended."""
    started = time.monotonic()
    for earlier in (progress_file(folder, part.name), findings_file(folder, part.name)):
        earlier.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_day.part", part.name, str(folder)]
    with log_file(folder, part.name).open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=environment(), start_new_session=True
        )
    shown = 0
    try:
        while process.poll() is None and time.monotonic() < started + seconds:
            time.sleep(_POLL_SECONDS)
            shown = _show(folder, part, shown, report)
        late = process.poll() is None
    finally:
        _end(process)
    _show(folder, part, shown, report)
    return _outcome(part, folder, time.monotonic() - started, process.returncode, seconds if late else None)


def _show(folder: Path, part: Part, shown: int, report: Callable[[str], None]) -> int:
    """Show the lines of progress after the first `shown`; return how many there are."""
    file = progress_file(folder, part.name)
    if not file.is_file():
        return shown
    lines = file.read_text().splitlines()
    for line in lines[shown:]:
        report(f"{part.name}: {line}")
    return len(lines)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a part's process and all processes of its group, which its engine belongs to."""
    if process.poll() is None:
        _signal(process.pid, signal.SIGTERM)
        try:
            process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        else:
            # A job ends its actors after the process that waits for it.
            deadline = time.monotonic() + _GRACE_SECONDS
            while _signal(process.pid, 0) and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
    _signal(process.pid, signal.SIGKILL)
    process.wait()


def _signal(group: int, number: int) -> bool:
    """Send a signal to a process group; return False if it has no process."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


def _outcome(part: Part, folder: Path, seconds: float, code: int, deadline: float | None) -> Outcome:
    file = findings_file(folder, part.name)
    found = json.loads(file.read_text()) if file.is_file() else {}
    checks, measured = found.get("checks", {}), found.get("measured", {})
    missed = [name for name, true in checks.items() if not true]
    cause = ""
    if error := found.get("error"):
        cause = error
    elif missed:
        cause = f"not true: {', '.join(missed)}"
    elif not found and deadline is not None:
        cause = f"not done after {deadline:.0f} s"
    elif not found:
        cause = f"its process ended with exit code {code}"
    log = log_file(folder, part.name).read_text(errors="replace").splitlines()[-_LOG_LINES:] if cause else []
    return Outcome(part.name, "failed" if cause else "passed", round(seconds, 1), cause, checks, measured, tuple(log))
