"""A process that outlives its parent, remembered in a file: its start, its end, and whether it is still running.

Invariant: of one file at most one process runs. It is noted before it answers, so that it is found and ended even if
its parent is killed right after the start.
"""

import json
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

import psutil

from audio_qa.errors import EarshotError
from orchestrator.cluster.core_share import lower_session_priority
from orchestrator.run.records import replace_file

_POLL_SECONDS = 0.1


class StartError(EarshotError):
    """A process that did not start: one line with the last line of its log, and the log's path."""


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
        low_priority: bool = False,
    ) -> Note:
        """Start the process, and return once it is ready. A process that does not get there is ended.

        Args:
            make_note: called with pid and time of creation.
            low_priority: have its session yield the machine's cores to others.

        Raises:
            StartError: it exited, or was not ready within `start_seconds`.
        """
        with self._log.open("ab") as output:
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
        if low_priority:
            lower_session_priority(process.pid)
        note = make_note(process.pid, psutil.Process(process.pid).create_time())
        replace_file(self._file, json.dumps(asdict(note)))
        try:
            self._wait(process, lambda: is_ready(note), start_seconds)
        except BaseException:
            self.stop(stop_seconds)
            raise
        return note

    def _wait(self, process: subprocess.Popen[bytes], is_ready: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not is_ready():
            if process.poll() is not None:
                output = self._log.read_text(errors="replace").strip().splitlines()
                last = output[-1] if output else f"exit code {process.returncode}"
                raise StartError(f"{self._name} did not start: {last[:300]} (see {self._log})")
            if time.monotonic() > deadline:
                raise StartError(f"{self._name} did not start within {seconds:.0f} s; see {self._log}")
            time.sleep(_POLL_SECONDS)

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
