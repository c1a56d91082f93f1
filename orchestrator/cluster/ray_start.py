"""`ray start` as the service and `earshot cluster` call it: its command, its environment and its token."""

import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

HIDDEN_FROM_JOBS = frozenset({"EARSHOT_DATABASE_URL", "EARSHOT_TOKEN", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"})
"""Environment variables that Ray does not get: drivers inherit the rest, and run users' reward functions."""
_SHORT_DRAIN = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "5"}
"""A node that ends takes no new actors, and waits, by default for 30 s, until its actors have left. Workers, ranks and
drivers do not leave: they are replaced after the node has ended."""


def ray_start(*options: str) -> list[str]:
    """Return the command that runs a node of Ray until it is ended."""
    return [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *options]


def ray_environment() -> dict[str, str]:
    """Return this process's environment for Ray, without what jobs must not see."""
    kept = {name: value for name, value in os.environ.items() if name not in HIDDEN_FROM_JOBS}
    kept.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return _SHORT_DRAIN | kept


def create_token(file: Path) -> None:
    """Create a file with a new token that only its owner can read; an existing file is kept."""
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
