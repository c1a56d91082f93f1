"""A Ray on this machine for a service that is given no cluster. It outlives the service, so that jobs go on without it.

Invariant: of one data directory at most one Ray runs, and every service on it, one after the other, uses that one.
"""

import fcntl
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import psutil
import requests

from orchestrator.cluster.core_share import give_way
from orchestrator.cluster.process import created_at, end, found
from orchestrator.run.records import replace_file

_START_SECONDS = 90.0
_STOP_SECONDS = 10.0
_CPUS = max(64, 8 * (os.cpu_count() or 1))
"""Logical ones: workers and ranks take turns on the real ones, and how many jobs run is the service's to say."""
KEPT_BACK = frozenset({"EARSHOT_DATABASE_URL", "EARSHOT_TOKEN", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"})
"""Of the environment: drivers inherit the rest, and in them run users' reward functions."""
SOON = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "5"}
"""A node that is told to end takes no new actors and waits, by default 30 s, for those it has to leave. Workers, ranks
and drivers do not leave: they are replaced once it is gone."""
_LONGEST_BACK_OFF_SECONDS = 60.0
_SESSIONS = 2
"""Folders of earlier Rays that are kept."""
_NICENESS = 5
_LONGEST_FOLDER = 40
"""Bytes: behind it Ray puts sockets, whose whole path may have 107."""

_log = logging.getLogger(__name__)


class LocalRayError(RuntimeError):
    """No Ray could be started here; the message says where it says why."""


@dataclass(frozen=True, slots=True)
class _Process:
    """The process that holds a Ray together, as the data directory remembers it."""

    pid: int
    created: float
    """When, by `noted_process.created_at`."""
    dashboard: str
    """URL."""


class LocalRay:
    """Of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._failures, self._not_before = 0, 0.0
        self._note = data_dir / "ray.json"

    def ensure(self) -> str:
        """The dashboard's URL of the Ray that runs, or of a new one. Blocks. Raises LocalRayError."""
        with self._alone():
            running = self._running()
            if running is None:
                running = self._try()
            return running.dashboard

    def stop(self) -> None:
        """End the Ray, and with it what runs on it. Does nothing if there is none."""
        with self._alone():
            running = self._running()
            process = None if running is None else found(running.pid, running.created)
            if process is not None:
                end(process, _STOP_SECONDS)
            self._note.unlink(missing_ok=True)

    def _running(self) -> _Process | None:
        try:
            noted = _Process(**json.loads(self._note.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return noted if found(noted.pid, noted.created) else None

    def _try(self) -> _Process:
        """Start a Ray; what fails again and again is given more time between attempts."""
        if time.monotonic() < self._not_before:
            raise LocalRayError(f"Ray did not start and is tried again soon; see {self._data_dir / 'ray.log'}")
        try:
            started = self._start()
        except LocalRayError:
            self._not_before = time.monotonic() + min(_LONGEST_BACK_OFF_SECONDS, 2**self._failures)
            self._failures += 1
            raise
        self._failures = 0
        return started

    def _start(self) -> _Process:
        self._end_unknown()
        self._forget_sessions()
        dashboard, client = _free_ports(2)
        log = self._data_dir / "ray.log"
        # Jobs take every core there is: they go behind the service, among processes and below among sessions.
        command = ["nice", "-n", str(_NICENESS)]
        command += [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
        command += ["--port=0", f"--ray-client-server-port={client}", "--min-worker-port=0", "--max-worker-port=0"]
        command += ["--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        command += ["--dashboard-agent-listen-port=0", f"--num-cpus={_CPUS}", f"--temp-dir={self._folder()}"]
        environment = {name: value for name, value in os.environ.items() if name not in KEPT_BACK}
        environment = SOON | environment
        environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with log.open("ab") as output:
            # A session of its own: a Ctrl-C meant for the service does not reach it.
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=environment,
                cwd="/",
            )
        give_way(process.pid)
        started = _Process(process.pid, created_at(process.pid), f"http://127.0.0.1:{dashboard}")
        # Noted before it answers: a service that is killed meanwhile must not leave a Ray that nobody knows.
        replace_file(self._note, json.dumps({k: getattr(started, k) for k in _Process.__slots__}))
        deadline = time.monotonic() + _START_SECONDS
        while not answers(started.dashboard):
            if process.poll() is not None:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise LocalRayError(f"Ray did not start: {''.join(last)[:300]} ({log} says more)")
            if time.monotonic() > deadline:
                os.killpg(process.pid, signal.SIGKILL)
                raise LocalRayError(f"Ray did not answer within {_START_SECONDS:.0f} s; see {log}")
            time.sleep(0.3)
        _log.info("started a Ray with its dashboard at %s", started.dashboard)
        return started

    def _end_unknown(self) -> None:
        """A service that was killed between starting a Ray and noting it has left one that nothing runs on yet."""
        for process in psutil.process_iter(["cmdline"]):
            command = process.info["cmdline"] or []
            if f"--temp-dir={self._folder()}" in command and "--block" in command:
                process.kill()
                process.wait(_STOP_SECONDS)

    def _forget_sessions(self) -> None:
        """Keep the logs of the last Rays only: each leaves a folder, and nothing else takes it away."""
        for old in sorted(self._folder().glob("session_2*"))[:-_SESSIONS]:
            shutil.rmtree(old, ignore_errors=True)

    def _folder(self) -> Path:
        """For Ray's sessions: in the data directory, or in the system's temporary one if that has too long a path."""
        inside = self._data_dir / "ray"
        if len(os.fsencode(inside)) <= _LONGEST_FOLDER:
            return inside
        name = sha256(os.fsencode(self._data_dir)).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"earshot-ray-{os.getuid()}-{name}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._data_dir / "ray.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def bring_token(data_dir: Path) -> None:
    """Have Ray ask for a token and its clients bring it: the data directory's own, unless the user has another.

    Sets the environment of this process, where Ray looks for it once, when it is imported: to be called before.
    """
    file = data_dir / "ray_token"
    if os.environ.setdefault("RAY_AUTH_MODE", "token") != "token":
        return
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    with suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as new:
            new.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(file)


def answers(dashboard: str) -> bool:
    """Whether the Jobs API of a Ray answers; a refusal for want of a token is an answer."""
    try:
        return requests.get(f"{dashboard}/api/version", timeout=5).status_code in (200, 401, 403)
    except requests.RequestException:
        return False


def _free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
