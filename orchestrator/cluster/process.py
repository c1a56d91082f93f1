"""A process that outlives its parent, remembered in a file: its start, its end, and whether it is still running.

Invariant: of one file at most one process runs. It is noted before it answers, so that it is found and ended even if
its parent is killed right after the start.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

import psutil

from audio_qa.errors import EarshotError, one_line
from orchestrator.run.records import replace_file

_POLL_SECONDS = 0.1
_LONGEST_START_SECONDS = 900.0
"""Longest wait for a process on a machine that gives it little CPU time."""
_START_CPU_SECONDS = 20.0
"""A process that has had as much CPU time as this is not waiting for a core: Ray is ready after 4 s."""
_STALLED_SECONDS = 30.0
"""A process that has used no CPU time for this long is not waiting for a core either."""
_LAST_LINES = 3
_LONGEST_CAUSE = 400


class StartError(EarshotError):
    """A process that did not start: one line with its cause, the end of its log, and the log's path."""

    def __init__(self, message: str, summary: str) -> None:
        """
        Args:
            summary: the message without what the process wrote.
        """
        super().__init__(message)
        self.summary = summary


@dataclass(frozen=True, slots=True)
class ProcessNote:
    """A process in its file. A pid is reused; with the time of creation it is unique."""

    pid: int
    created: float
    """Time of creation, seconds since the epoch."""

    def process(self) -> psutil.Process | None:
        """Return the process; None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            alive = abs(process.create_time() - self.created) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive else None


Note = TypeVar("Note", bound=ProcessNote)


class DetachedProcess(Generic[Note]):
    """The process of one file."""

    def __init__(self, file: Path, kind: type[Note], log: Path, name: str) -> None:
        """
        Args:
            kind: of the note, whose fields are in the file.
            log: file to which the output of the process is appended.
            name: in messages.
        """
        self._file, self._kind, self._log, self._name = file, kind, log, name

    def running(self) -> Note | None:
        """Return the note of the process; None unless it is running."""
        try:
            note = self._kind(**json.loads(self._file.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return note if note.process() else None

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        make_note: Callable[[int, float], Note],
        is_ready: Callable[[Note], bool],
        *,
        start_seconds: float,
        stop_seconds: float,
    ) -> Note:
        """Start the process, and return once it is ready. A process that does not get there is ended.

        Args:
            make_note: called with pid and time of creation.
            start_seconds: deadline on a machine with free cores. Where others keep them busy, a process that still
                makes progress has up to 15 minutes.

        Raises:
            StartError: it exited, or was not ready in time.
        """
        with self._log.open("ab") as output:
            begin = output.tell()
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # A session of its own: Ctrl-C in the parent's terminal does not reach it.
                start_new_session=True,
                env=environment,
                cwd="/",
            )
        try:
            note = make_note(process.pid, psutil.Process(process.pid).create_time())
            replace_file(self._file, json.dumps(asdict(note)))
        except BaseException:
            # Nobody would find it later.
            process.kill()
            process.wait()
            raise
        try:
            self._wait(process, lambda: is_ready(note), start_seconds, begin)
        except BaseException:
            self.stop(stop_seconds)
            raise
        return note

    def _wait(
        self, process: subprocess.Popen[bytes], is_ready: Callable[[], bool], seconds: float, log_begin: int
    ) -> None:
        starving = _Starving(psutil.Process(process.pid), seconds)
        while not is_ready():
            if process.poll() is not None:
                raise self._failure(f"exit code {process.returncode}", log_begin)
            if not starving.may_continue():
                raise self._failure(starving.describe(), log_begin)
            time.sleep(_POLL_SECONDS)

    def _failure(self, how: str, log_begin: int) -> StartError:
        """Return the error for a start whose part of the log begins at a byte: earlier ones had other causes."""
        with self._log.open("rb") as log:
            log.seek(log_begin)
            output = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
        cause = one_line(" | ".join(output[-_LAST_LINES:]))[-_LONGEST_CAUSE:]
        summary = f"{self._name} did not start: {how}, load {os.getloadavg()[0]:.1f} on {_cores()} cores"
        return StartError(f"{summary}; {cause or 'no output'} (see {self._log})", summary)

    def stop(self, seconds: float) -> Note | None:
        """End the process and all its descendants, by force after so many seconds.

        Returns its note; None if it was not running.
        """
        note = self.running()
        process = None if note is None else note.process()
        if process is not None:
            _end(process, seconds)
        self._file.unlink(missing_ok=True)
        return note


class _Starving:
    """Tells a start that waits for a core from one that hangs: by the CPU time of the process and its descendants."""

    def __init__(self, process: psutil.Process, seconds: float) -> None:
        self._process, self._seconds = process, seconds
        self._begun = time.monotonic()
        self._cpu, self._progress_at = 0.0, self._begun

    def may_continue(self) -> bool:
        """Return whether the start may take longer."""
        now = time.monotonic()
        waited = now - self._begun
        if waited <= self._seconds - _STALLED_SECONDS:
            return True
        used = _cpu_seconds(self._process)
        if used > self._cpu:
            self._cpu, self._progress_at = used, now
        if waited <= self._seconds:
            return True
        # A process that polls and gets nowhere has used its share on an idle machine long before.
        return (
            waited <= _LONGEST_START_SECONDS
            and self._cpu < _START_CPU_SECONDS
            and now - self._progress_at < _STALLED_SECONDS
            and os.getloadavg()[0] > _cores()
        )

    def describe(self) -> str:
        """Return how long it took, in words."""
        return f"not ready after {time.monotonic() - self._begun:.0f} s with {self._cpu:.1f} s of CPU time"


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a process and its descendants."""
    total = 0.0
    with suppress(psutil.NoSuchProcess):
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
    return total


def _end(process: psutil.Process, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    with suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        process.terminate()
        _, left = psutil.wait_procs(family, timeout=max(0.0, deadline - time.monotonic()))
        for late in left:
            with suppress(psutil.NoSuchProcess):
                late.kill()
        psutil.wait_procs(left, timeout=seconds)
