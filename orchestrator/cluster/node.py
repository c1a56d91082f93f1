"""This machine as a node of a Ray cluster that `earshot cluster` starts: its command, its token, its process.

Invariant: of one folder at most one node runs, and only that one is ended: other Rays of the machine are left alone,
which `ray stop` would not do.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.cluster.local_ray import KEPT_BACK, SOON
from orchestrator.cluster.process import created_at, end, found
from orchestrator.places import RAY_PORT
from orchestrator.run.records import replace_file

_STARTED = "Ray runtime started."
"""What `ray start` says once the node is part of its cluster."""
_START_SECONDS = 90.0
_STOP_SECONDS = 15.0


class NodeError(ValueError):
    """A node that cannot be started or ended like this; one line."""


class NodeFailedError(RuntimeError):
    """Ray did not start; one line that says where it says why."""


@dataclass(frozen=True, slots=True)
class Running:
    """A node's process, as its folder remembers it."""

    pid: int
    created: float
    """When, by `noted_process.created_at`."""
    role: str
    """`head` or `worker`."""
    address: str
    """HOST:PORT of the head."""


def head_command(host: str, port: int, dashboard_port: int) -> list[str]:
    """A head: drivers run on it, and actors too."""
    return [
        *_ray_start(),
        "--head",
        f"--node-ip-address={host}",
        f"--port={port}",
        "--include-dashboard=true",
        f"--dashboard-host={host}",
        f"--dashboard-port={dashboard_port}",
    ]


def worker_command(head: str) -> list[str]:
    """A node that joins the cluster of a head, `HOST:PORT`. Raises NodeError."""
    host, colon, port = head.rpartition(":")
    if not colon:
        host, port = head, str(RAY_PORT)
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise NodeError(f"{head!r} is no address of a head: write HOST or HOST:PORT")
    return [*_ray_start(), f"--address={host}:{port}"]


def sized(command: Sequence[str], cpus: int | None, gpus: int | None) -> list[str]:
    """With another number of logical CPUs and GPUs than Ray finds."""
    found = [("--num-cpus", cpus), ("--num-gpus", gpus)]
    return [*command, *(f"{option}={count}" for option, count in found if count is not None)]


def _ray_start() -> list[str]:
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"]


def token_environment(token: Path) -> dict[str, str]:
    """This process's environment, with Ray asking for the token in a file, and without what jobs must not see."""
    kept = {name: value for name, value in os.environ.items() if name not in {*KEPT_BACK, "RAY_AUTH_TOKEN"}}
    kept.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return SOON | kept | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


def make_token(file: Path) -> None:
    """A token for a new cluster, for its owner's eyes only; one that is there is kept. Raises NodeError."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as new:
            new.write(secrets.token_hex(32))
    check_token(file)


def check_token(file: Path) -> None:
    """Raises NodeError unless the file has a token, and for its owner only."""
    try:
        text, mode = file.read_text().strip(), file.stat().st_mode
    except OSError as error:
        raise NodeError(f"{file}: no token can be read here: copy the head's file, as safely as a password") from error
    if not text:
        raise NodeError(f"{file} is empty: copy the head's file again")
    if mode & 0o077:
        raise NodeError(f"{file} can be read by others: chmod 600 {file}")


def own_address() -> str:
    """The address by which other machines reach this one, as far as its routes tell; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


class LocalNode:
    """This machine's, of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._note = folder / "node.json"
        self.log = folder / "ray.log"

    def running(self) -> Running | None:
        """The node that runs, if any."""
        try:
            noted = Running(**json.loads(self._note.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return noted if found(noted.pid, noted.created) else None

    def check_free(self) -> None:
        """Raises NodeError if a node runs."""
        if (running := self.running()) is not None:
            raise NodeError(
                f"this machine is a {running.role} of {running.address} already (process {running.pid}); "
                "`earshot cluster down` ends it"
            )

    def start(self, command: Sequence[str], environment: dict[str, str], role: str, address: str) -> Running:
        """Start the node; returns once it is part of its cluster. Raises NodeError, NodeFailedError."""
        self.check_free()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            # A session of its own: the node outlives this command and its terminal.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                env=environment, cwd="/",
            )  # fmt: skip
        running = Running(process.pid, created_at(process.pid), role, address)
        # Noted before it answers: `down` has to find it if this command is killed meanwhile.
        replace_file(self._note, json.dumps(asdict(running)))
        try:
            self._wait(process)
        except BaseException:
            self.stop()
            raise
        return running

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Return once the node is part of its cluster. Raises NodeFailedError."""
        deadline = time.monotonic() + _START_SECONDS
        while _STARTED not in (said := self.log.read_text(errors="replace")):
            if process.poll() is not None:
                last = (said.strip().splitlines() or [f"exit code {process.returncode}"])[-1]
                raise NodeFailedError(f"Ray did not start: {last[:300]} ({self.log} says more)")
            if time.monotonic() > deadline:
                raise NodeFailedError(f"Ray did not start within {_START_SECONDS:.0f} s; see {self.log}")
            time.sleep(0.1)

    def stop(self) -> Running | None:
        """End the node and what runs on it; which one it was, None if there was none."""
        running = self.running()
        process = None if running is None else found(running.pid, running.created)
        if process is not None:
            end(process, _STOP_SECONDS)
        self._note.unlink(missing_ok=True)
        return running
