"""Where the service is, if nobody says otherwise: its address and its data directory."""

import os
from pathlib import Path

HOST = "127.0.0.1"
PORT = 8420
RAY_PORT, RAY_DASHBOARD_PORT = 6379, 8265
"""Of the head of a cluster that `earshot cluster` starts: Ray's own."""


def data_directory() -> Path:
    """`$EARSHOT_DATA`, or `earshot` in the user's data directory."""
    given = os.environ.get("EARSHOT_DATA")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "earshot"


def database_of(data_dir: Path) -> str:
    """The URL of the database that is used without another one: a file in the data directory."""
    return f"sqlite:///{data_dir.absolute() / 'earshot.db'}"


def runs_of(data_dir: Path) -> Path:
    """The folder of the run directories."""
    return data_dir.absolute() / "runs"


def examples_folder() -> Path:
    """The examples that come with Earshot: beside the packages in a checkout, inside one when installed."""
    inside = Path(__file__).parent / "examples"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "examples"


def cache_directory() -> Path:
    """`$EARSHOT_CACHE`, or `earshot` in the user's cache directory."""
    given = os.environ.get("EARSHOT_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "earshot"
