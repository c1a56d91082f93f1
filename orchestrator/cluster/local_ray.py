"""A Ray on this machine, for a service without a cluster. It outlives the service, so that jobs continue without it.

Invariants: of one data directory at most one Ray runs, and each service on it, one after another, uses that one. No
process of it listens beyond this machine, nor do the jobs on it.
"""

import fcntl
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import psutil
import requests

from audio_qa.errors import cause_of
from orchestrator.cluster.core_share import NICENESS, lower_session_priority
from orchestrator.cluster.process import DetachedProcess, ProcessNote, StartError
from orchestrator.cluster.ray_start import LOOPBACK, STARTED, local_environment, ray_environment, ray_start
from protocol.back_off import back_off

_START_SECONDS = 90.0
_STOP_SECONDS = 10.0
_CPUS = max(64, 8 * (os.cpu_count() or 1))
"""Logical ones: workers and ranks share the real ones, and the service decides how many jobs run."""
_SESSIONS = 2
"""Folders of earlier Rays that are kept."""
_LONGEST_FOLDER = 40
"""Bytes. Ray appends the paths of its sockets, which may have 107 bytes as a whole."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _RayNote(ProcessNote):
    """The process that holds a Ray together."""

    dashboard: str
    """URL."""


class LocalRay:
    """The Ray of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._failures, self._not_before = 0, 0.0
        self._failure: StartError | None = None
        self._leaving = threading.Event()
        self._log_file, self._log_begin = data_dir / "ray.log", 0
        self._process = DetachedProcess(data_dir / "ray.json", _RayNote, self._log_file, "Ray")

    def ensure(self) -> str:
        """Return the dashboard's URL of the running Ray, or of a new one. Blocks. Raises StartError."""
        with _reported(), self._lock():
            running = self._process.running() or self._start_after_back_off()
            # It starts with ordinary priority: beside several busy programs it would take minutes otherwise. From then
            # on its session, which is that of the jobs' actors, too, yields.
            lower_session_priority(running.pid)
            return running.dashboard

    def stop_starting(self) -> None:
        """Give up a start in progress, and every later one: this service ends. Does not block."""
        self._leaving.set()

    def stop(self) -> None:
        """End the Ray and everything on it, if it is running or starting."""
        self.stop_starting()
        with self._lock():
            self._process.stop(_STOP_SECONDS)

    def _start_after_back_off(self) -> _RayNote:
        if self._failure is not None and (left := self._not_before - time.monotonic()) > 0:
            again = f"next attempt in {left:.0f} s"
            raise StartError(f"{self._failure}; {again}", f"{self._failure.summary}; {again}")
        try:
            with _reported():
                started = self._start()
        except StartError as error:
            wait = back_off(self._failures)
            self._not_before = time.monotonic() + wait
            self._failures, self._failure = self._failures + 1, error
            _log.error("%s; failure %d in a row, next attempt in %.0f s", error, self._failures, wait)
            raise
        self._failures = 0
        return started

    def _start(self) -> _RayNote:
        self._end_unknown()
        self._remove_old_sessions()
        dashboard, client = _free_ports(2)
        options = ["--head", "--port=0", f"--node-ip-address={LOOPBACK}", f"--ray-client-server-port={client}"]
        options += ["--min-worker-port=0", "--max-worker-port=0"]
        options += ["--include-dashboard=true", f"--dashboard-host={LOOPBACK}", f"--dashboard-port={dashboard}"]
        options += ["--dashboard-agent-listen-port=0", f"--num-cpus={_CPUS}", f"--temp-dir={self._folder()}"]
        self._log_begin = self._log_file.stat().st_size if self._log_file.exists() else 0
        started = self._process.start(
            ray_start(*options),
            {"RAY_worker_niceness": str(NICENESS)} | local_environment() | ray_environment(),
            lambda pid, created: _RayNote(pid, created, f"http://{LOOPBACK}:{dashboard}"),
            self._has_started,
            start_seconds=_START_SECONDS,
            stop_seconds=_STOP_SECONDS,
        )
        _log.info("started a Ray with its dashboard at %s", started.dashboard)
        return started

    def _has_started(self, note: _RayNote) -> bool:
        if self._leaving.is_set():
            raise StartError(*["Ray was not started: the service ends"] * 2)
        # The dashboard answers before the node takes jobs.
        with self._log_file.open("rb") as log:
            log.seek(self._log_begin)
            return STARTED.encode() in log.read() and answers(note.dashboard)

    def _end_unknown(self) -> None:
        """End a Ray that is not noted: a service was killed between the start and the note. Nothing runs on it yet."""
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if f"--temp-dir={self._folder()}" in command and "--block" in command:
                process.kill()
                process.wait(_STOP_SECONDS)

    def _remove_old_sessions(self) -> None:
        """Keep the logs of the latest Rays only: each leaves a folder, which Ray never removes."""
        for old in sorted(self._folder().glob("session_2*"))[:-_SESSIONS]:
            shutil.rmtree(old, ignore_errors=True)

    def _folder(self) -> Path:
        """Return the folder for Ray's sessions: in the data directory, or a temporary one if that path is too long."""
        inside = self._data_dir / "ray"
        if len(os.fsencode(inside)) <= _LONGEST_FOLDER:
            return inside
        name = sha256(os.fsencode(self._data_dir)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"earshot-ray-{os.getuid()}-{name}"

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with (self._data_dir / "ray.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@contextmanager
def _reported() -> Iterator[None]:
    """Raise StartError for an error of the system, a full disk for example: it may pass, and another start succeed."""
    try:
        yield
    except (OSError, psutil.Error) as error:
        raise StartError(f"Ray did not start: {cause_of(error)}", "Ray did not start") from error


def answers(dashboard: str) -> bool:
    """Return whether the Jobs API of a Ray answers; a refusal for lack of a token is an answer."""
    try:
        return requests.get(f"{dashboard}/api/version", timeout=5).status_code in (200, 401, 403)
    except requests.RequestException:
        return False


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    try:
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
