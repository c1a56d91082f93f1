"""Default addresses, ports and folders."""

import os
from pathlib import Path

from platformdirs import user_cache_path, user_data_path

HOST = "127.0.0.1"
PORT = 8420
"""Address of the service."""
RAY_PORT, RAY_DASHBOARD_PORT = 6379, 8265
"""Ports of the head of a cluster that `earshot cluster` starts; Ray's defaults."""


def data_directory() -> Path:
    """Return `$EARSHOT_DATA`, or `earshot` in the user's data directory (on Linux `$XDG_DATA_HOME`)."""
    given = os.environ.get("EARSHOT_DATA")
    return Path(given) if given else user_data_path("earshot", appauthor=False)


def cache_directory() -> Path:
    """Return `$EARSHOT_CACHE`, or `earshot` in the user's cache directory (on Linux `$XDG_CACHE_HOME`)."""
    given = os.environ.get("EARSHOT_CACHE")
    return Path(given) if given else user_cache_path("earshot", appauthor=False)


def database_of(data_dir: Path) -> str:
    """Return the URL of the default database, a file in the data directory."""
    return f"sqlite:///{data_dir.absolute() / 'earshot.db'}"


def runs_of(data_dir: Path) -> Path:
    """Return the folder of the run directories."""
    return data_dir.absolute() / "runs"


def examples_folder() -> Path:
    """Return the folder of the examples: inside the package if installed, next to the packages in a checkout."""
    inside = Path(__file__).parent / "examples"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "examples"
