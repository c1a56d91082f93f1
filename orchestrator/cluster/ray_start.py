"""`ray start` as the service and `earshot cluster` call it: its command, its environment and its token."""

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from orchestrator.places import keep_private

HIDDEN_FROM_JOBS = frozenset({"EARSHOT_DATABASE_URL", "EARSHOT_TOKEN", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"})
"""Environment variables that Ray does not get: drivers inherit the rest, and run users' reward functions."""
_SHORT_DRAIN = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "5"}
"""A node that ends takes no new actors, and waits, by default for 30 s, until its actors have left. Workers, ranks and
drivers do not leave: they are replaced after the node has ended."""

_PATIENCE = {
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_raylet_start_wait_time_s": "600",
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "600",
    "RAY_health_check_failure_threshold": "60",
}
"""Deadlines of a Ray on one machine, ten times as long as Ray's own: on a busy machine a process may start in minutes,
and what is given up after a minute is started again and given up again. Processes that have died are seen without a
deadline there."""

LOOPBACK = "127.0.0.1"
STARTED = "Ray runtime started."
"""Printed by `ray start` once the node is part of its cluster."""


def ray_start(*options: str) -> list[str]:
    """Return the command that runs a node of Ray until it is ended."""
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *options]


def ray_environment() -> dict[str, str]:
    """Return this process's environment for Ray, without what jobs must not see."""
    kept = {name: value for name, value in os.environ.items() if name not in HIDDEN_FROM_JOBS}
    kept.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return _SHORT_DRAIN | kept


def local_environment() -> dict[str, str]:
    """Return what a Ray on this machine alone needs in its environment: patience, and no socket but on loopback."""
    interface = next(
        (name for name, known in psutil.net_if_addrs().items() if any(one.address == LOOPBACK for one in known)), "lo"
    )
    return {
        **_PATIENCE,
        # Ray replaces a loopback address by the machine's own, unless it is told that it cannot have a second node.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # Ranks and engines would listen where the machine's name or its routes point.
        "GLOO_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
        "VLLM_HOST_IP": LOOPBACK,
    }


@contextmanager
def starting_on_loopback() -> Iterator[None]:
    """Have the Ray that this process starts with `ray.init` inside the block listen on loopback only.

    What the user has set in the environment stays.
    """
    # Imported late: the service sets the environment first, which Ray reads when it is imported.
    from ray._private import ray_constants  # noqa: PLC0415

    added = {name: value for name, value in local_environment().items() if name not in os.environ}
    cluster = ray_constants.ENABLE_RAY_CLUSTER
    os.environ.update(added)
    # Read from the environment once, when Ray was imported.
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = cluster
        for name in added:
            os.environ.pop(name, None)


def create_token(file: Path) -> None:
    """Create a file with a new token that only its owner can read; the token of an existing file is kept."""
    keep_private(file)
    with suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as new:
            new.write(secrets.token_hex(32))


def use_token(data_dir: Path) -> None:
    """Have Ray require a token and its clients send it: that of the data directory, unless the user has another.

    Sets the environment of this process, which Ray reads once, when it is imported: call this before.
    """
    if os.environ.setdefault("RAY_AUTH_MODE", "token") != "token":
        return
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    file = data_dir / "ray_token"
    create_token(file)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(file)
