"""This machine as a node of a Ray cluster that `earshot cluster` starts: its command, its token, its process.

Invariant: of one folder at most one node runs, and only that one is ended: other Rays of the machine are left alone,
which `ray stop` would not do.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audio_qa.errors import InputError, shown
from orchestrator.cluster.process import DetachedProcess, ProcessNote
from orchestrator.cluster.ray_start import STARTED, create_token, ray_environment, ray_start
from orchestrator.places import RAY_PORT

_START_SECONDS = 90.0
_STOP_SECONDS = 15.0


class NodeError(InputError):
    """A node that cannot be started or ended like this; one line."""


@dataclass(frozen=True, slots=True)
class RunningNode(ProcessNote):
    """A node's process."""

    role: str
    """`head` or `worker`."""
    address: str
    """HOST:PORT of the head."""


def head_command(host: str, port: int, dashboard_port: int) -> list[str]:
    """Return the command of a head, on which drivers run, and actors too."""
    return ray_start(
        "--head",
        f"--node-ip-address={host}",
        f"--port={port}",
        "--include-dashboard=true",
        f"--dashboard-host={host}",
        f"--dashboard-port={dashboard_port}",
    )


def worker_command(head: str) -> list[str]:
    """Return the command of a node that joins the cluster of a head, `HOST:PORT`. Raises NodeError."""
    host, colon, port = head.rpartition(":")
    if not colon:
        host, port = head, str(RAY_PORT)
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise NodeError(f"{shown(head)} is not the address of a head: write HOST or HOST:PORT")
    return ray_start(f"--address={host}:{port}")


def sized(command: Sequence[str], cpus: int | None, gpus: int | None) -> list[str]:
    """Add numbers of logical CPUs and GPUs to a command; None leaves them to Ray."""
    counts = [("--num-cpus", cpus), ("--num-gpus", gpus)]
    return [*command, *(f"{option}={count}" for option, count in counts if count is not None)]


def token_environment(token: Path) -> dict[str, str]:
    """Return the environment of a node that requires the token in a file."""
    environment = ray_environment()
    environment.pop("RAY_AUTH_TOKEN", None)
    return environment | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


def make_token(file: Path) -> None:
    """Create a token for a new cluster, readable by its owner only; an existing one is kept. Raises NodeError."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    create_token(file)
    check_token(file)


def check_token(file: Path) -> None:
    """Raise NodeError unless the file has a token that only its owner can read."""
    try:
        text, mode = file.read_text().strip(), file.stat().st_mode
    except OSError as error:
        raise NodeError(f"{file}: no token can be read here: copy the head's file, as safely as a password") from error
    except UnicodeDecodeError as error:
        raise NodeError(f"{file} is not text: copy the head's file again") from error
    if not text:
        raise NodeError(f"{file} is empty: copy the head's file again")
    if mode & 0o077:
        raise NodeError(f"{file} can be read by others: chmod 600 {file}")


def own_address() -> str:
    """Return the address by which other machines reach this one, according to its routes; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


class RayNode:
    """This machine's node, with its files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log = folder / "ray.log"
        self._process = DetachedProcess(folder / "node.json", RunningNode, self.log, "Ray")

    def running(self) -> RunningNode | None:
        """Return the running node; None if there is none."""
        return self._process.running()

    def check_not_running(self) -> None:
        """Raise NodeError if a node is running."""
        if (running := self.running()) is not None:
            raise NodeError(
                f"this machine is already a {running.role} of {running.address} (process {running.pid}); "
                "`earshot cluster down` ends it"
            )

    def start(self, command: Sequence[str], environment: dict[str, str], role: str, address: str) -> RunningNode:
        """Start the node, and return once it is part of its cluster. Raises NodeError, StartError."""
        self.check_not_running()
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log.unlink(missing_ok=True)
        return self._process.start(
            command,
            environment,
            lambda pid, created: RunningNode(pid, created, role, address),
            lambda _: STARTED in self.log.read_text(errors="replace"),
            start_seconds=_START_SECONDS,
            stop_seconds=_STOP_SECONDS,
        )

    def stop(self) -> RunningNode | None:
        """End the node and everything on it. Returns the node that was running, if any."""
        return self._process.stop(_STOP_SECONDS)
